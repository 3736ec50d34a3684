"""Served slates on their way to the log, after the answer: a bounded queue and one writer.

At least once and idempotent (a request id is written once); what does not fit is dropped and counted.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from shortlist.errors import DataError
from shortlist.events.log import EventLog, Served
from shortlist.serving.wire import Answer

__all__ = ["Exposures", "Exposure"]

LOG = logging.getLogger("shortlist.serving")
BATCH = 256
TRIES = 3
WAIT_S = 0.5


@dataclass(frozen=True)
class Exposure:
    """An answer and what it was decided on: the log offset by then, and the request's context."""

    answer: Answer
    now: int
    as_of_offset: int
    context: Mapping[str, Any]

    def served(self) -> Served:
        answer = self.answer
        body = {
            "scene": answer.scene,
            "experiments": answer.experiments,
            "items": [shown.item for shown in answer.items],
            "scores": [shown.score for shown in answer.items],
            "channels": [[brought.channel for brought in shown.channels] for shown in answer.items],
            "degraded": answer.degraded,
            "as_of_offset": self.as_of_offset,
            "context": self.context,
        }
        text = msgspec.json.encode(body).decode()
        return Served(answer.request_id, answer.user, self.now, answer.release, text)


class Exposures:
    """`dropped(count)` is told of slates that were not logged."""

    def __init__(self, log: EventLog, size: int, dropped: Callable[[int], None]) -> None:
        self._log = log
        self._dropped = dropped
        self._queue: queue.Queue[Exposure | None] = queue.Queue(size)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exposures", daemon=True)
        self._thread.start()

    def put(self, exposure: Exposure) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait(exposure)
        except queue.Full:
            self._dropped(1)

    def flush(self) -> None:
        """Wait until everything put so far is written or dropped."""
        self._queue.join()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is waiting, then stop."""
        self._stopped.set()
        try:
            self._queue.put_nowait(None)  # wakes the writer
        except queue.Full:
            pass  # it is awake
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            self._write([exposure for exposure in batch if exposure is not None])
            for _ in batch:
                self._queue.task_done()
            if self._stopped.is_set() and self._queue.empty():
                return

    def _write(self, batch: list[Exposure]) -> None:
        if not batch:
            return
        for left in reversed(range(TRIES)):
            try:
                self._log.append_served([exposure.served() for exposure in batch])
                return
            except DataError as error:
                LOG.warning("served slates are not logged: %s", error)
                if left and self._stopped.wait(WAIT_S):
                    break
        self._dropped(len(batch))
