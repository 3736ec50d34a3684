"""What a server does, without HTTP: a request in, an explained slate out, always, and in time.

Assign experiments -> user's state -> funnel -> page; then, after the answer, what was served goes to the log.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Release, Releases
from shortlist.candidates import Mask, Requests, Slates
from shortlist.config import ServeConfig, nearest
from shortlist.errors import ArtifactError, DataError, RequestError, ShortlistError
from shortlist.events.base import Log
from shortlist.events.log import Event as LogEvent
from shortlist.events.slates import FOLDER
from shortlist.funnel import explain as explaining
from shortlist.funnel import trace as tracing
from shortlist.funnel.pipeline import BACKFILL, Channel, Funnel, Keep
from shortlist.funnel.requests import make
from shortlist.schema import MISSING
from shortlist.serving.ask import Ask, check, page_size, positive, ragged
from shortlist.serving.exposures import Exposure, Exposures
from shortlist.serving.live import Live, Users, open_release
from shortlist.serving.met import STORE, Met, Reader, requests_of
from shortlist.serving.meters import Meters
from shortlist.serving.page import finite, page
from shortlist.serving.refusals import LateError, NotFoundError, NotReadyError
from shortlist.serving.tell import tell
from shortlist.serving.wire import (
    Answer,
    ChannelAnswer,
    ChannelInfo,
    Channels,
    Event,
    Explanation,
    Neighbour,
    Problem,
    Receipt,
    Refused,
    ReleaseInfo,
    ReleaseList,
    Row,
    SessionEvent,
    SimilarAnswer,
    Trace,
    Trouble,
    identifier,
)
from shortlist.store.blobs import Blobs
from shortlist.store.lists import tables

__all__ = ["Engine", "Record"]

LOG = logging.getLogger("shortlist.serving")
JOBS = 8  # funnels under way at once
SLOTS = 16  # calls under way in one channel, or in the state: more than JOBS, the rest are abandoned ones
THREADS = 256  # for channels, made as needed: a hanging channel keeps up to SLOTS
CHANNEL_SHARE = 0.6  # of the deadline: what is left is for merging, selecting and the answer
STATE_SHARE = 0.3
AGAIN_S = 5.0  # until a release is tried again that a store or a log was not there for
QUEUE = 10_000  # served slates that may wait for the log


@dataclass(frozen=True)
class Record:
    """An answer, kept with what it was chosen from. JSON is made of it when somebody asks.

    In memory: 22 + 8 bytes for each channel and 4 for each score of a candidate, 18 for each event of the user.
    """

    answer: Answer
    slates: Slates
    live: Live
    now: int


class Engine:
    """Releases, log and state, composed. Thread-safe.

    `users(release)` opens the state of users that belongs to a release; `clock()` is the time in ms; `lists` is where
    channels' lists are read from, if not from the release. Call `reload` to load the current release, `close` at the
    end.
    """

    def __init__(
        self,
        releases: Releases,
        log: Log,
        users: Callable[[Release], Users],
        config: ServeConfig,
        clock: Callable[[], int],
        lists: Blobs | None = None,
    ) -> None:
        self.releases = releases
        self.log = log
        self.config = config
        self.clock = clock
        self.meters = Meters()
        self.refused: Problem | None = None
        self.failed: Exception | None = None  # why
        self.trouble: Trouble | None = None  # of the upkeep of the log
        self._users = users
        self._lists = lists
        self._live: Live | None = None
        self._serving: tuple[str | None, str] | None = None  # name and mark of the release
        self._tried: tuple[str | None, str] | None = None  # of the one that was refused
        self._next = 0.0  # when that one may be tried again
        self._erasures = 0  # the last that `_ring` knows of
        self._swap = threading.Lock()
        self._jobs = ThreadPoolExecutor(JOBS, "funnel")
        self._pool = ThreadPoolExecutor(THREADS, "channel")
        self._reader = Reader(log, self._pool, SLOTS)
        self._ring: OrderedDict[str, Record] = OrderedDict()
        self._ring_lock = threading.Lock()
        rows = releases.folder.parent / FOLDER
        self._exposures = Exposures(log, QUEUE, self.meters.drop, rows, config.rejected)

    def close(self) -> None:
        """Write what waits to be logged and let go of threads. The log stays open: it is the caller's."""
        self._exposures.close()
        self._jobs.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._live is not None:
            self._live.users.close()

    def flush(self) -> None:
        """Wait until everything served is logged."""
        self._exposures.flush()

    # ------------------------------------------------------------------------------------------ release

    @property
    def live(self) -> Live:
        """The release that answers. Raises NotReadyError before the first."""
        if self._live is None:
            hint = "see /health/ready" if self.refused is None else self.refused.what
            raise NotReadyError("no release is loaded yet", where="server", hint=hint)
        return self._live

    @property
    def ready(self) -> bool:
        return self._live is not None

    def reload(self, *, again: bool = False, tell: bool = True) -> bool:
        """Load the current release, warm it, switch to it. True when the release changed: to another one, or in itself,
        as one does from which an erased user was taken out.

        One that is damaged or does not work is refused and kept in `refused`; what was served goes on being served.
        A refused one is tried once, unless `again`; every few seconds where what failed was not the release but a store
        that was down. Why it is refused goes to the process log; not without `tell`, for a caller who says it, unless
        it is nothing that a user could cause.
        """
        self._erase()
        with self._swap:
            name, mark = None, ""
            try:
                name = self.releases.current()
                mark = "" if name is None else self.releases.mark(name)
                if self._live is not None and (name, mark) == self._serving:
                    self.refused = None
                    return False
                waits = (name, mark) == self._tried and time.monotonic() < self._next
                if self.refused is not None and waits and not again:
                    return False
                fresh = self._open(name)
            except Exception as error:
                what = str(error) if isinstance(error, ShortlistError) else f"{type(error).__name__}: {error}"
                ours = not isinstance(error, ShortlistError)
                news = self.refused is None or (self.refused.release, self.refused.what) != (name or "", what)
                if news and (tell or ours):
                    LOG.error("release %s is refused: %s", name, what, exc_info=ours)
                self._tried, self._next = (name, mark), float("inf")
                if isinstance(error, DataError):
                    self._next = time.monotonic() + AGAIN_S
                self.refused, self.failed = Problem(name or "", what, self.clock()), error
                self.meters.reload("refused", None)
                return False
            old, self._live, self.refused, self._serving = self._live, fresh, None, (name, mark)
            self.meters.reload("loaded", fresh.id)
            LOG.info("serving release %s", fresh.id)
            if old is not None:
                self._forget(lambda record: record.live is not old or old.id == fresh.id)
                old.users.close()
            return True

    def _open(self, name: str | None) -> Live:
        release = self.releases.load(name)
        users = self._users(release)
        lists = None if self._lists is None else tables(release, self._lists, self.clock)
        try:
            return open_release(release, self.log, users, self._pool, SLOTS, self.config.max_n, self.clock(), lists)
        except BaseException:
            users.close()
            raise

    def _forget(self, which: Callable[[Record], bool]) -> None:
        """Drop records: those of releases before the last one would keep its arrays in memory, those of one that was
        rewritten hold what was taken out of it."""
        with self._ring_lock:
            for request_id, record in list(self._ring.items()):
                if which(record):
                    del self._ring[request_id]

    def _erase(self) -> None:
        """Drop records of users who were erased since the last look."""
        try:
            self._erasures, users = self.log.erased(self._erasures)
        except DataError as error:
            LOG.warning("records of erased users cannot be looked for: %s", error)
            return
        if len(users):
            gone = set(users.tolist())
            self._forget(lambda record: int(record.slates.requests.users[0]) in gone)

    # ------------------------------------------------------------------------------------------ recommend

    def recommend(
        self,
        user: str | int,
        n: int | None = None,
        scene: str | None = None,
        context: Mapping[str, Any] | None = None,
        session: Sequence[SessionEvent] = (),
        exclude: Sequence[str | int] = (),
        filter: str | None = None,
        debug: bool = False,
        now: int | None = None,
        *,
        preview: bool = False,
        deadline_ms: float | None = None,
    ) -> Answer:
        """A slate. Raises RequestError for a request that is wrong; every other trouble ends in `degraded`.

        `preview` looks without leaving a mark: nothing is logged as served or counted.
        """
        started = time.perf_counter()
        live = self.live
        now = self.clock() if now is None else now
        request_id = secrets.token_hex(16)
        ask = check(
            live, self.config, now, user, n, scene,
            request_id=request_id, context=context, session=session, exclude=exclude, filter=filter,
        )  # fmt: skip
        offset, slates, notes = self._bounded(live, ask, deadline_ms or self.config.deadline_ms)
        items = page(live, slates)
        notes = [*slates.notes(0), *notes]
        took = (time.perf_counter() - started) * 1000.0
        answer = Answer(request_id, ask.user, ask.scene, items, live.id, dict(ask.experiments), notes, round(took, 3))
        with self._ring_lock:
            self._ring[request_id] = Record(answer, slates, live, now)
            while len(self._ring) > self.config.traces:
                self._ring.popitem(last=False)
        if not preview:
            stages = {**slates.took_ms, "total": took}
            self.meters.slate(ask.scene, stages, tracing.fates(slates), notes, now)
            stage = next((stage.name for stage in reversed(live.funnels[ask.scene].stages)), "")
            self._exposures.put(Exposure(answer, now, offset, ask.context, slates, live.schema, stage))
        if debug:
            return msgspec.structs.replace(answer, trace=tracing.trace(slates, 0, live.name))
        return answer

    def _bounded(self, live: Live, ask: Ask, deadline_ms: float) -> tuple[int, Slates, list[str]]:
        """Log offset known, slates, notes: the funnel's within the deadline, else the hot list's."""
        begun = time.monotonic()
        job = self._jobs.submit(self._funnel, live, ask, begun, deadline_ms / 1000.0)
        try:
            return job.result(timeout=max(0.0, begun + deadline_ms / 1000.0 - time.monotonic()))
        except (TooLate, CancelledError):
            job.cancel()
            note = "late:funnel"
        except Exception:
            LOG.exception("the funnel of scene %s failed", ask.scene)
            note = "failed:funnel"
        slates = live.hot.run(requests_of(live, ask, Met(ask.key)), strict=False)
        told = {name: hit for name, hit in slates.degraded.items() if name != BACKFILL}
        return 0, replace(slates, degraded=told), [note]

    def _funnel(self, live: Live, ask: Ask, begun: float, deadline_s: float) -> tuple[int, Slates, list[str]]:
        started = time.perf_counter()
        met, notes = self._reader.read(live, ask, begun + deadline_s * STATE_SHARE)
        took = (time.perf_counter() - started) * 1000.0
        requests = requests_of(live, ask, met)
        funnel = live.funnels[ask.scene]
        slates = funnel.run(requests, strict=False, deadline=begun + deadline_s * CHANNEL_SHARE)
        return met.state.offset, replace(slates, took_ms={"state": took, **slates.took_ms}), notes

    def _now(self, live: Live, ask: Ask) -> Requests:
        """The request with what is known now, for looking at. Raises LateError where nothing can be known."""
        met, notes = self._reader.read(live, ask, time.monotonic() + self.config.deadline_ms / 1000.0)
        if notes and notes != [STORE]:
            raise LateError(f"the user's state cannot be had: {notes[0]}", where="state", hint="try again")
        return requests_of(live, ask, met)

    # ------------------------------------------------------------------------------------------ looking

    def similar(self, items: Sequence[str | int], n: int = 10, channel: str | None = None) -> SimilarAnswer:
        """Items like these, from an item-to-item channel."""
        live, now = self.live, self.clock()
        page_size(n, self.config)
        if not live.item_to_item:
            hint = "add a recall channel as item_cf, train and publish"
            raise NotFoundError("the release has no item-to-item channel", where="channel", hint=hint)
        name = live.item_to_item[0] if channel is None else channel
        if name not in live.item_to_item:
            what, hint = f"no item-to-item channel is called {name!r}", nearest(name, live.item_to_item)
            raise NotFoundError(what, where="channel", hint=hint)
        if not 1 <= len(items) <= self.config.max_batch:
            hint = f"send 1 to {self.config.max_batch} items"
            raise RequestError(f"{len(items)} items", where="items", hint=hint)
        names = [identifier(item, f"items[{k}]") for k, item in enumerate(items)]
        keys = [live.release.items.key(item) for item in names]
        known = ragged([(key, now, positive(live)) for key in dict.fromkeys(keys) if key != MISSING])
        asked = make(np.array([MISSING]), np.array([now]), n, known, live.schema, live.release.catalogue, exclude=known)
        _, funnel, found = find_channel(live, name)
        keep = eligible(funnel, asked, ("excluded", "available"))
        owners, similar, scores = found.source.recall(asked, n, keep)
        good = np.flatnonzero(keep(owners, similar))[:n]
        columns = zip(similar[good].tolist(), scores[good].tolist(), live.titles(similar[good]), strict=True)
        rows = [Neighbour(live.name(key), finite(score), title) for key, score, title in columns]
        return SimilarAnswer(name, rows, [n for n, key in zip(names, keys, strict=True) if key == MISSING], live.id)

    def channels(self) -> Channels:
        """The recall channels of the release."""
        live = self.live
        rows = []
        for name, entry in live.channels.items():
            scenes = [scene for scene, funnel in live.funnels.items() if name in [c.name for c in funnel.channels]]
            both = name in live.item_to_item
            rows.append(
                ChannelInfo(name, entry["model"], entry["source"], entry["quota"], scenes, both, dict(entry["options"]))
            )
        return Channels(rows, live.id)

    def channel(
        self,
        name: str,
        user: str | int,
        n: int = 20,
        scene: str | None = None,
        context: Mapping[str, Any] | None = None,
        now: int | None = None,
    ) -> ChannelAnswer:
        """What one channel brings, in its own order, with the filter that would drop each item."""
        live = self.live
        scene, funnel, channel = find_channel(live, name, scene)
        ask = check(live, self.config, self.clock() if now is None else now, user, n, scene, context=context)
        started = time.perf_counter()
        requests = self._now(live, ask)
        owners, items, scores = channel.source.recall(requests, n, eligible(funnel, requests, tuple(funnel.filters)))
        dropped: list[str | None] = [None] * len(items)
        for label, part in funnel.filters.items():
            for at in np.flatnonzero(~part.keep(requests, owners, items)).tolist():
                dropped[at] = dropped[at] or label
        good = np.array([label is None for label in dropped], dtype=np.int64)
        ranks = np.cumsum(good) - good + 1
        columns = zip(items.tolist(), ranks.tolist(), scores.tolist(), dropped, live.titles(items), strict=True)
        rows = [Row(live.name(key), rank, finite(score), label, title) for key, rank, score, label, title in columns]
        return ChannelAnswer(name, scene, rows, live.id, round((time.perf_counter() - started) * 1000.0, 3))

    def trace(self, request_id: str) -> Trace:
        """The funnel of a request of late; of older ones what was served. Raises NotFoundError."""
        record = self.record(request_id)
        if record is not None:
            answer = record.answer
            funnel = tracing.trace(record.slates, 0, record.live.name)
            return Trace(
                request_id, answer.user, answer.release, record.now, answer.scene, answer.experiments,
                answer.degraded, [shown.item for shown in answer.items], funnel,
            )  # fmt: skip
        served = self.log.served(request_id)
        if served is None:
            raise self._unknown(request_id)
        body = msgspec.json.decode(served.body)
        return Trace(
            request_id, served.user, served.release, served.time_ms, body.get("scene", ""),
            body.get("experiments", {}), body.get("degraded", []), body.get("items", []), None,
        )  # fmt: skip

    def _unknown(self, request_id: str) -> NotFoundError:
        hint = f"the latest {self.config.traces} are kept, until the release has changed twice"
        return NotFoundError(f"no request is called {request_id!r}", where="request_id", hint=hint)

    def record(self, request_id: str) -> Record | None:
        """An answer of late with what it was chosen from."""
        with self._ring_lock:
            return self._ring.get(request_id)

    def latest(self, count: int) -> list[Record]:
        """The latest answers, newest first."""
        with self._ring_lock:
            return list(self._ring.values())[: -count - 1 : -1]

    def explain(
        self,
        user: str | int,
        item: str | int,
        scene: str | None = None,
        n: int | None = None,
        request_id: str | None = None,
        now: int | None = None,
    ) -> Explanation:
        """Why an item is, or is not, on a user's page: of a request of late, else of one made now."""
        name, owner = identifier(item, "item"), identifier(user, "user")
        if request_id is not None:
            record = self.record(request_id)
            if record is None:
                raise self._unknown(request_id)
            if record.answer.user != owner:
                raise RequestError("this request was of another user", where="user", hint="send that user's id")
            live, scene, requests = record.live, record.answer.scene, record.slates.requests
        else:
            live = self.live
            ask = check(live, self.config, self.clock() if now is None else now, owner, n, scene)
            scene, requests = ask.scene, self._now(live, ask)
        key = live.release.items.key(name)
        if key == MISSING:
            what = f"release {live.id} knows no item {name!r}"
            raise NotFoundError(what, where="item", hint="an item becomes known when a release is published with it")
        found = explaining.explain(live.funnels[scene], requests, key)
        return Explanation(
            user=owner, item=name, title=live.titles(np.array([key]))[0], scene=scene, release=live.id,
            request_id=request_id, words=tell(found, requests, key), **found,
        )  # fmt: skip

    def past(self, user: str | int, now: int | None = None) -> Requests:
        """What is known of a user now, as a request of the first scene."""
        live = self.live
        ask = check(live, self.config, self.clock() if now is None else now, user, None, live.scenes[0])
        return self._now(live, ask)

    # ------------------------------------------------------------------------------------------ events, releases

    def events(self, batch: Sequence[Event | str], now: int | None = None) -> Receipt:
        """Write events; what is accepted is on disk by then. A text in place of an event is why it could not be read.

        Raises DataError when the log cannot be written: then nothing was accepted.
        """
        live = self.live
        now = self.clock() if now is None else now
        if not 1 <= len(batch) <= self.config.max_batch:
            hint = f"send 1 to {self.config.max_batch} events"
            raise RequestError(f"{len(batch)} events", where="events", hint=hint)
        at = [k for k, event in enumerate(batch) if not isinstance(event, str)]
        rows = [log_event(event, now) for event in batch if not isinstance(event, str)]
        try:
            outcomes = self.log.append(rows, live.schema.action_names, now) if rows else []
        except DataError:
            self.meters.event({"failed": len(batch)}, now)
            raise
        refused = [Refused(k, event) for k, event in enumerate(batch) if isinstance(event, str)]
        refused += [Refused(k, o.reason) for k, o in zip(at, outcomes, strict=True) if o.status == "refused"]
        accepted = sum(o.status == "accepted" for o in outcomes)
        duplicates = sum(o.status == "duplicate" for o in outcomes)
        self.meters.event({"accepted": accepted, "duplicate": duplicates, "refused": len(refused)}, now)
        return Receipt(accepted, duplicates, sorted(refused, key=lambda r: r.index))

    def list_releases(self) -> ReleaseList:
        """Releases on disk, newest first."""
        mine = self._live.id if self._live is not None else None
        try:
            rows = self.releases.list()
        except ArtifactError as error:
            return ReleaseList([], str(error))
        found = [
            ReleaseInfo(r.id, r.created_ms, r.current, r.id == mine, dict(r.metrics), r.problem or None)
            for r in reversed(rows)
        ]
        return ReleaseList(found, self.refused.what if self.refused is not None else None)


def find_channel(live: Live, name: str, scene: str | None = None) -> tuple[str, Funnel, Channel]:
    """A channel in a scene, by default the first that has it. Raises NotFoundError, for a scene RequestError."""
    if scene is not None and scene not in live.funnels:
        raise RequestError(f"no scene is called {scene!r}", where="scene", hint=nearest(scene, live.scenes))
    for label, funnel in live.funnels.items():
        for channel in funnel.channels:
            if channel.name == name and scene in (None, label):
                return label, funnel, channel
    known = [c.name for label, f in live.funnels.items() if scene in (None, label) for c in f.channels]
    what = f"no channel is called {name!r}" if scene is None else f"scene {scene!r} has no channel {name!r}"
    raise NotFoundError(what, where="channel", hint=nearest(name, known))


def eligible(funnel: Funnel, requests: Requests, names: Sequence[str]) -> Keep:
    """keep(owners, items) by some of a funnel's filters."""
    parts = [part for name, part in funnel.filters.items() if name in names]

    def keep(owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        mask = np.ones(len(items), dtype=bool)
        for part in parts:
            mask &= part.keep(requests, owners, items)
        return mask

    return keep


def log_event(event: Event, now: int) -> LogEvent:
    """As the log takes it; the server's time where the client gave none."""
    return LogEvent(
        user=event.user,
        item=event.item,
        action=event.action,
        time_ms=now if event.time_ms is None else event.time_ms,
        value=event.value,
        event_id=event.event_id,
        request_id=event.request_id,
        position=event.position,
        context=event.context,
    )
