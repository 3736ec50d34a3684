"""Answer requests over HTTP, with the dashboard in the same process."""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from shortlist.cli._talk import emit, json_option, project_option, say
from shortlist.config import Project, load
from shortlist.errors import ConfigError
from shortlist.feedback.live import open_engine
from shortlist.feedback.upkeep import upkeep
from shortlist.serving.engine import Engine
from shortlist.serving.watch import watch

__all__ = ["command"]

KEY = "SHORTLIST_API_KEY"
GRACE_S = 10  # what is under way may finish


@click.command()
@project_option
@click.option("--host", default=None, help="Address to listen on; the project's [serve] host by default.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="0 takes a free port and prints it.")
@json_option
def command(project_file: str, host: str | None, port: int | None, as_json: bool) -> None:
    """Serve the current release until Ctrl-C. Prints the URL once it answers; a new release is picked up by itself.

    Reads the API key from SHORTLIST_API_KEY. Without one it listens on this machine only.
    """
    serve(project_file, host, port, lambda url: emit({"url": url}) if as_json else print(url, flush=True))


def serve(project_file: str, host: str | None, port: int | None, answers: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `answers` gets the URL once it does."""
    from shortlist.dashboard.pages import pages
    from shortlist.serving.http import application, check_host

    project = load(project_file)
    key = os.environ.get(KEY) or None
    host = project.config.serve.host if host is None else host
    check_host(host, key)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    say("an API key is needed" if key else f"no {KEY}: this machine alone may connect, without a key")
    with _socket(host, project.config.serve.port if port is None else port) as listener, _quiet_end():
        url = _url(listener)
        with open_engine(project, follow=True) as engine:
            app = application(
                engine, api_key=key, routes=pages(engine, project.home), background=lambda: _beside(project, engine)
            )
            gc.collect()
            gc.freeze()  # what was loaded stays: the collector need not walk it again
            _run(app, listener, lambda: answers(url))
    say("stopped")


@contextlib.contextmanager
def _beside(project: Project, engine: Engine) -> Iterator[None]:
    """What a server does while it answers: it looks for a new release, and compacts the log."""
    with watch(engine), upkeep(project, engine):
        yield


def _run(app: Any, listener: socket.socket, started: Any) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()
            sys.stdout.flush()

    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is inside in order, and are no failure of a server."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        say("stopping")
    finally:
        signal.signal(signal.SIGTERM, before)


def _socket(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        where = f"{host}:{port}"
        raise ConfigError(f"cannot listen: {error.strerror}", where=where, hint="choose another --port") from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
