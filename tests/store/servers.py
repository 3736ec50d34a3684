"""A real Redis server for tests: on a free port of this machine, to be killed and started again."""

import atexit
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.waiting import until

from shortlist.store import redis as stores

__all__ = ["Server", "patience"]

PORTS = range(20_000, 32_000)  # below those that the system gives to connections: nobody takes it while it is down


class Server:
    """`redis-server` with an append-only file that is synced at every write, in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.program = shutil.which("redis-server")
        if self.program is None:
            pytest.skip("redis-server is not installed")
        self.folder = folder
        self.options = options
        dice = random.Random(os.urandom(8))  # another session of tests looks for ports at the same time
        for port in dice.sample(PORTS, 20):
            self.port = port
            if self._answers():
                return
        raise AssertionError("redis-server does not start")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert until(self._answers), "redis-server does not answer"

    def _answers(self) -> bool:
        """Whether the server that is started here comes to answer: it ends at once where the port is taken."""
        assert self.program is not None
        kept = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.process = subprocess.Popen(
            [self.program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), *kept,
             *self.options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        atexit.register(self.process.kill)  # where a test fails before it stops it
        until(lambda: self._pongs() or self.process.poll() is not None)
        if self.process.poll() is None:
            return True
        self.process.wait()
        return False

    def _pongs(self) -> bool:
        """Whether this very server answers, and has read its file."""
        import redis

        with closing(redis.Redis(port=self.port, socket_timeout=60)) as client:
            try:
                return bool(client.ping()) and client.info("server")["process_id"] == self.process.pid
            except redis.RedisError:
                return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """A loaded machine answers when it can: where this is imported, nothing is asked of how slow Redis may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "CONNECT_S", 60.0)
        patch.setattr(stores, "ANSWER_S", 60.0)
        yield
