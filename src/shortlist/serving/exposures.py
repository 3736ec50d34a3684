"""Served slates on their way to disk, after the answer: a bounded queue and one writer.

A slate goes whole to the log, at least once and idempotent (a request id is written once), and as rows of what was
shown, and of some of what was not, to what rankers learn from. What does not fit is dropped and counted. N rows.
"""

import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Slates
from shortlist.errors import DataError
from shortlist.events import context as contexts
from shortlist.events import slates as files
from shortlist.events.base import Log
from shortlist.events.event import Served
from shortlist.features.base import Rows
from shortlist.features.stored import Moment
from shortlist.funnel.pipeline import BELOW, NOT_SELECTED, OVER_BUDGET
from shortlist.schema import Schema
from shortlist.serving.wire import Answer

__all__ = ["Exposures", "Exposure", "rows"]

LOG = logging.getLogger("shortlist.serving")
BATCH = 256
TRIES = 3
WAIT_S = 0.5
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Exposure:
    """An answer and what it was decided on: the log offset by then, the request's context, and what it was chosen from,
    the last scoring stage being `stage` (empty: the merge)."""

    answer: Answer
    now: int
    as_of_offset: int
    context: Mapping[str, Any]
    slates: Slates
    schema: Schema
    stage: str = ""

    @property
    def counted_offset(self) -> int:
        """The log offset that counters stood at: they follow the store, histories have the user's own tail as well."""
        known = self.slates.requests.known
        return known.offset if isinstance(known, Moment) else self.as_of_offset

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
            "counted_offset": self.counted_offset,
            "context": self.context,
        }
        text = msgspec.json.encode(body).decode()
        return Served(answer.request_id, answer.user, self.now, answer.release, text)


class Exposures:
    """`dropped(count)` is told of slates that were not logged, or not as rows, which go to `folder`; `rejected` of each
    slate's other candidates are written beside what was shown."""

    def __init__(self, log: Log, size: int, dropped: Callable[[int], None], folder: Path, rejected: int = 0) -> None:
        self._log = log
        self._dropped = dropped
        self._rows = files.Writer(folder)
        self._rejected = rejected
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
                self._rows.close()
                return

    def _write(self, batch: list[Exposure]) -> None:
        if not batch:
            return
        written = self._write_slates(batch)
        try:
            self._rows.append(rows(batch, self._rejected), batch[0].now)
        except DataError as error:
            LOG.warning("%s", error)
            written = False
        except Exception:  # whatever it is, the writer lives on
            LOG.exception("rows of served slates are not kept")
            written = False
        if not written:
            self._dropped(len(batch))

    def _write_slates(self, batch: list[Exposure]) -> bool:
        for left in reversed(range(TRIES)):
            try:
                self._log.append_served([exposure.served() for exposure in batch])
                return True
            except DataError as error:
                LOG.warning("served slates are not logged: %s", error)
                if left and self._stopped.wait(WAIT_S):
                    break
        return False


def rows(batch: Sequence[Exposure], rejected: int) -> pl.DataFrame:
    """What was shown of each slate, and up to `rejected` of what reached the last stage and was not, one row each.

    `request_id`, `user` (key, -1 unknown), `user_id`, `time_ms`, `as_of_offset` (of the history), `counted_offset` (of
    counters), `scene`, `release`, `experiments`, `degraded` (JSON); `item` (key), `shown`, `position` (from 1; 0: not
    shown), `propensity` of being shown (1: a page without chance), `sampled`, the probability that this row was kept;
    `merge_rank` among what no filter dropped; `channel_rank.C`, `channel_score.C`; `score.S` of each stage and task;
    `feature.F` and `context.F`, raw.
    """
    alike: dict[tuple[str, ...], list[tuple[Exposure, Columns]]] = {}
    for exposure in batch:
        columns = _columns(exposure, rejected)
        alike.setdefault((*columns, *exposure.schema.context), []).append((exposure, columns))
    return pl.concat([_frame(group) for group in alike.values()], how="diagonal_relaxed")


def _frame(group: Sequence[tuple[Exposure, Columns]]) -> pl.DataFrame:
    """Rows of slates that have the same columns."""
    sizes = pl.Series([len(columns["item"]) for _, columns in group], dtype=pl.UInt32)
    exposures, answers = [exposure for exposure, _ in group], [exposure.answer for exposure, _ in group]
    whole = pl.DataFrame(
        {
            "request_id": [answer.request_id for answer in answers],
            "user": pl.Series([int(e.slates.requests.users[0]) for e in exposures], dtype=pl.Int64),
            "user_id": [answer.user for answer in answers],
            "time_ms": pl.Series([e.now for e in exposures], dtype=pl.Int64),
            "as_of_offset": pl.Series([e.as_of_offset for e in exposures], dtype=pl.Int64),
            "counted_offset": pl.Series([e.counted_offset for e in exposures], dtype=pl.Int64),
            "scene": [answer.scene for answer in answers],
            "release": [answer.release for answer in answers],
            "experiments": [json.dumps(answer.experiments) for answer in answers],
            "degraded": [json.dumps(answer.degraded) for answer in answers],
        }
    )
    told = [
        contexts.typed([e.context.get(name) for e in exposures], field, f"context.{name}")
        for name, field in exposures[0].schema.context.items()
    ]
    each = {name: _series([columns[name] for _, columns in group]) for name in group[0][1]}
    at = np.repeat(np.arange(len(group)), sizes.to_numpy())
    return pl.concat([whole.with_columns(told)[at], pl.DataFrame(each)], how="horizontal")


def _columns(exposure: Exposure, rejected: int) -> Columns:
    """Columns [N] of one slate that differ from row to row, and its features."""
    slates = exposure.slates
    among = slates.candidates
    picks = slates.picks[: int(slates.offsets[1])]
    others, share = _drawn(exposure, rejected)
    at = np.concatenate([picks, others])
    n, shown = len(at), np.arange(len(at)) < len(picks)
    columns: Columns = {
        "item": among.items[at],
        "shown": shown,
        "position": np.where(shown, np.arange(n) + 1, 0).astype(np.int32),
        "propensity": np.ones(n, dtype=np.float32),
        "sampled": np.where(shown, 1.0, share).astype(np.float32),
        "merge_rank": _merge_rank(slates)[at],
    }
    for c, name in enumerate(among.channels):
        columns[f"channel_rank.{name}"] = among.rank[at, c]
        columns[f"channel_score.{name}"] = among.score[at, c]
    columns |= {f"score.{name}": column[at] for name, column in among.scores.items()}
    return columns | _features(slates, at)


def _drawn(exposure: Exposure, most: int) -> tuple[NDArray[np.int64], float]:
    """Some candidates that were scored to the end and not shown, ascending, and the probability each had to be one.

    Any `most` of them are equally likely; the dice are the request's id."""
    among = exposure.slates.candidates
    ends = (NOT_SELECTED, f"{BELOW}{exposure.stage}")
    codes = [n for n, reason in enumerate(among.reasons, start=1) if reason in ends]
    able = np.flatnonzero(np.isin(among.fate, codes))
    if len(able) <= most:
        return able, 1.0
    seed = hashlib.blake2b(exposure.answer.request_id.encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    return np.sort(rng.choice(able, most, replace=False)), most / len(able)


def _merge_rank(slates: Slates) -> NDArray[np.int32]:
    """Place of each candidate by the merge's score, from 1, among what no filter dropped; 0 for what one did."""
    among = slates.candidates
    cut = [n for n, reason in enumerate(among.reasons, start=1) if _by_rank(reason)]
    order = among.best_first(among.scores["merge"], np.isin(among.fate, [0, *cut]))
    rank = np.zeros(len(among), dtype=np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def _by_rank(reason: str) -> bool:
    return reason in (OVER_BUDGET, NOT_SELECTED) or reason.startswith(BELOW)


def _features(slates: Slates, at: NDArray[np.int64]) -> Columns:
    """Raw columns [N] of the project's features, those of the request repeated; none where it has no features."""
    known = slates.requests.known
    if known is None:
        return {}
    alone = known.columns(Rows(slates.requests, np.zeros(1, dtype=np.int64), None))
    each = known.columns(Rows(slates.requests, np.zeros(len(at), dtype=np.int64), slates.candidates.items[at]))
    columns = {f"feature.{name}": np.repeat(column, len(at)) for name, column in alone.items()}
    return columns | {f"feature.{name}": column for name, column in each.items()}


def _series(parts: Sequence[NDArray[Any]]) -> pl.Series:
    """Numbers, text or lists of text; what is missing is null."""
    column = np.concatenate(parts)
    if column.dtype != object:
        series = pl.Series(column)
        return series.fill_nan(None) if series.dtype.is_float() else series
    values = column.tolist()
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return pl.Series([None if v is None else [str(x) for x in v] for v in values], dtype=pl.List(pl.String))
    return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)
