"""Looks for a new release now and then, and has the engine switch to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shortlist.serving.engine import Engine

__all__ = ["watch"]


@contextmanager
def watch(engine: Engine, every_s: float = 1.0) -> Iterator[None]:
    """A thread that calls `engine.reload` for as long as the context lasts."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            engine.reload()

    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
