"""A source that may be slow, failing or lying, so held that the rest of the server does not notice."""

import logging
import threading
import time

import numpy as np

from shortlist.candidates import Requests
from shortlist.errors import CapacityError
from shortlist.funnel.pipeline import Keep, Recalled, Source, sound
from shortlist.schema import MISSING

__all__ = ["Guard"]

LOG = logging.getLogger("shortlist.serving")
QUIET_S = 60.0  # one traceback a minute for each channel says enough


class Guard:
    """Lets at most `slots` calls be under way, so that one hanging source cannot take every thread. An item that the
    release has no key for (`items` of them are known) becomes none; what the source raises is logged and rises."""

    def __init__(self, name: str, source: Source, slots: int, items: int) -> None:
        self.name = name
        self.source = source
        self.items = items
        self._slots = threading.Semaphore(slots)
        self._said = -QUIET_S

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        if not self._slots.acquire(blocking=False):
            what = f"{self.name} has too many calls under way"
            raise CapacityError(what, where=f"channel {self.name}", hint="it is hanging; see its log")
        try:
            owners, items, scores = sound(self.source.recall(requests, n, keep), len(requests))
        except Exception:
            if time.monotonic() - self._said > QUIET_S:
                self._said = time.monotonic()
                LOG.exception("channel %s failed", self.name)
            raise
        finally:
            self._slots.release()
        return owners, np.where(items < self.items, items, MISSING), scores
