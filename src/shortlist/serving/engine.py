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
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Release, Releases
from shortlist.candidates import Mask, Ragged, Requests, Slates
from shortlist.config import ServeConfig, nearest
from shortlist.errors import ArtifactError, ConfigError, RequestError
from shortlist.events.log import Event as LogEvent
from shortlist.events.log import EventLog
from shortlist.expressions import Expression
from shortlist.forms import Lists
from shortlist.funnel import explain as explaining
from shortlist.funnel import trace as tracing
from shortlist.funnel.requests import make
from shortlist.schema import MISSING
from shortlist.serving import tell
from shortlist.serving.exposures import Exposure, Exposures
from shortlist.serving.live import Live, Users, open_release, together
from shortlist.serving.meters import Meters
from shortlist.serving.reasons import because, words
from shortlist.serving.refusals import Late, NotFound, NotReady, Overloaded
from shortlist.serving.wire import (
    Answer,
    Brought,
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
    Shown,
    SimilarAnswer,
    Trace,
    identifier,
)
from shortlist.store.base import State

__all__ = ["Engine", "Record"]

LOG = logging.getLogger("shortlist.serving")
JOBS = 8  # funnels under way at once
SPARE = 8  # abandoned calls a channel may have beside them
CHANNEL_SHARE = 0.6  # of the deadline: what is left is for merging, selecting and the answer
STATE_SHARE = 0.3
THREADS = 256  # made as needed: a hanging channel keeps some
QUEUE = 10_000
FUTURE_MS = 300_000
HELD_OUT = "held_out"
NOTHING = State(Ragged.empty(1), Ragged.empty(1), 0)


@dataclass(frozen=True)
class Ask:
    """A checked request."""

    user: str
    key: int
    n: int
    scene: str
    now: int
    experiments: Mapping[str, str]
    session: Ragged
    exclude: Ragged
    context: Mapping[str, Any]
    where: Expression | None


@dataclass(frozen=True)
class Record:
    """An answer, kept with what it was chosen from. JSON is made of it when somebody asks."""

    answer: Answer
    slates: Slates
    live: Live
    now: int


class Engine:
    """Releases, log and state, composed. Thread-safe. `users(release)` opens the state of users that belongs to a release;
    `clock()` is the time in ms. Call `reload` to load the current release, `close` at the end.
    """

    def __init__(
        self,
        releases: Releases,
        log: EventLog,
        users: Callable[[Release], Users],
        config: ServeConfig,
        clock: Callable[[], int],
        meters: Meters | None = None,
    ) -> None:
        self.releases = releases
        self.log = log
        self.config = config
        self.clock = clock
        self.meters = meters or Meters()
        self.refused: Problem | None = None
        self._users = users
        self._slots = threading.Semaphore(JOBS + SPARE)
        self._live: Live | None = None
        self._swap = threading.Lock()
        self._jobs = ThreadPoolExecutor(JOBS, "funnel")
        self._pool = ThreadPoolExecutor(THREADS, "channel")
        self._ring: OrderedDict[str, Record] = OrderedDict()
        self._ring_lock = threading.Lock()
        self._exposures = Exposures(log, QUEUE, self.meters.drop)

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
        """The release that answers. Raises NotReady before the first."""
        if self._live is None:
            hint = "see /health/ready" if self.refused is None else self.refused.what
            raise NotReady("no release is loaded yet", where="server", hint=hint)
        return self._live

    @property
    def ready(self) -> bool:
        return self._live is not None

    def reload(self, *, again: bool = False) -> bool:
        """Load the current release, warm it, switch to it. True when the release changed.

        One that is damaged or does not work is refused and kept in `refused`; what was served goes on being served.
        A refused one is tried once, unless `again`.
        """
        with self._swap:
            name = None
            try:
                name = self.releases.current()
                if self._live is not None and name == self._live.id:
                    self.refused = None
                    return False
                if self.refused is not None and self.refused.release == name and not again:
                    return False
                fresh = self._open(name)
            except Exception as error:
                what = str(error) if isinstance(error, (ArtifactError, ConfigError)) else f"{type(error).__name__}: {error}"
                LOG.exception("release %s is refused", name)
                self.refused = Problem(name or "", what, self.clock())
                self.meters.reload("refused", None)
                return False
            old, self._live, self.refused = self._live, fresh, None
            self.meters.reload("loaded", fresh.id)
            LOG.info("serving release %s", fresh.id)
            if old is not None:
                self._forget(old.id)
                old.users.close()
            return True

    def _open(self, name: str | None) -> Live:
        release = self.releases.load(name)
        users = self._users(release)
        try:
            slots = JOBS + SPARE
            return open_release(release, self.log, users, self._pool, slots, self.config.max_n, self.clock())
        except BaseException:
            users.close()
            raise

    def _forget(self, last: str) -> None:
        """Records of releases before the last one: they would keep its arrays in memory."""
        with self._ring_lock:
            for request_id, record in list(self._ring.items()):
                if record.live.id != last:
                    del self._ring[request_id]

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
        ask = self._ask(live, request_id, user, n, scene, context or {}, session, exclude, filter, now)
        offset, slates, notes = self._bounded(live, ask, deadline_ms or self.config.deadline_ms)
        items = self._page(live, slates)
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
            self._exposures.put(Exposure(answer, now, offset, ask.context))
        if debug:
            return replace_trace(answer, tracing.trace(slates, 0, live.name))
        return answer

    def _ask(
        self,
        live: Live,
        request_id: str,
        user: str | int,
        n: int | None,
        scene: str | None,
        context: Mapping[str, Any],
        session: Sequence[SessionEvent],
        exclude: Sequence[str | int],
        filter: str | None,
        now: int,
    ) -> Ask:
        """Raises RequestError for the first thing wrong."""
        name = identifier(user, "user")
        key = live.release.users.key(name)
        arms: dict[str, str] = {}
        if scene is None:
            assigned, arms = assigned_scene(live, name, request_id)
            scene = assigned or live.scenes[0]
        elif scene not in live.funnels:
            raise RequestError(f"no scene is called {scene!r}", where="scene", hint=nearest(scene, live.scenes))
        page = live.page(scene) if n is None else n
        if not 1 <= page <= self.config.max_n:
            raise RequestError(f"n is {page}", where="n", hint=f"ask for 1 to {self.config.max_n} items")
        for label, values in (("session", session), ("exclude", exclude)):
            if len(values) > self.config.max_batch:
                hint = f"send at most {self.config.max_batch}"
                raise RequestError(f"{len(values)} entries", where=label, hint=hint)
        banned = [live.release.items.key(identifier(i, f"exclude[{k}]")) for k, i in enumerate(exclude)]
        return Ask(
            user=name,
            key=key if key != MISSING else self._late_key(name),
            n=page,
            scene=scene,
            now=now,
            experiments=arms,
            session=_session(live, session, now),
            exclude=_ragged([(k, 0, 0) for k in banned if k != MISSING]),
            context=_context(live, context),
            where=_where(live, filter),
        )

    def _late_key(self, user: str) -> int:
        """Key of a user who came after the release."""
        try:
            return self.log.key("user", user)
        except Exception:
            LOG.exception("the log cannot be asked for a key")
            return MISSING

    def _bounded(self, live: Live, ask: Ask, deadline_ms: float) -> tuple[int, Slates, list[str]]:
        """Log offset known, slates, notes: the funnel's within the deadline, else the hot list's."""
        begun = time.monotonic()
        job = self._jobs.submit(self._funnel, live, ask, begun, deadline_ms / 1000.0)
        try:
            return job.result(timeout=max(0.0, begun + deadline_ms / 1000.0 - time.monotonic()))
        except (LateError, CancelledError):
            job.cancel()
            note = "late:funnel"
        except Exception:
            LOG.exception("the funnel of scene %s failed", ask.scene)
            note = "failed:funnel"
        slates = live.hot.run(self._requests(live, ask, NOTHING), strict=False)
        return 0, slates, [note]

    def _funnel(self, live: Live, ask: Ask, begun: float, deadline_s: float) -> tuple[int, Slates, list[str]]:
        started = time.perf_counter()
        state, notes = self._state(live, ask, begun + deadline_s * STATE_SHARE)
        took = (time.perf_counter() - started) * 1000.0
        requests = self._requests(live, ask, state)
        funnel = live.funnels[ask.scene]
        slates = funnel.run(requests, strict=False, deadline=begun + deadline_s * CHANNEL_SHARE)
        return state.offset, replace(slates, took_ms={"state": took, **slates.took_ms}), notes

    def _state(self, live: Live, ask: Ask, until: float) -> tuple[State, list[str]]:
        """What is known of the user, and how far the log was by then; nothing where that is late or fails."""
        if ask.key == MISSING:
            return NOTHING, []

        def read() -> State:
            if not self._slots.acquire(blocking=False):
                raise Overloaded("the state of users has too many calls under way", where="state", hint="it is hanging")
            try:
                return live.users(np.array([ask.key]), np.array([ask.now]))
            finally:
                self._slots.release()

        call = self._pool.submit(read)
        try:
            return call.result(timeout=max(0.0, until - time.monotonic())), []
        except (LateError, CancelledError):
            call.cancel()
            return NOTHING, ["late:state"]
        except Exception:
            LOG.exception("the state of a user cannot be had")
            return NOTHING, ["failed:state"]

    def _requests(self, live: Live, ask: Ask, state: State) -> Requests:
        context = {name: np.array([value], dtype=object) for name, value in ask.context.items()}
        return make(
            np.array([ask.key]),
            np.array([ask.now]),
            ask.n,
            together(state, ask.session),
            live.schema,
            live.release.catalogue,
            exclude=ask.exclude,
            context=context,
            where=ask.where,
            ids=(ask.user,),
        )

    def _page(self, live: Live, slates: Slates) -> list[Shown]:
        """The places of the first request's slate. The only Python per item, and only for items shown."""
        picks = slates.picks[: int(slates.offsets[1])]
        keys = slates.candidates.items[picks]
        titles, images = live.titles(keys), live.column(live.schema.image, keys)
        columns = {name: live.column(name, keys) for name in live.shown_fields}
        brought = [[Brought(**row) for row in tracing.reasons(slates, int(pick))] for pick in picks]
        causes = self._causes(live, slates, keys)
        region = _region(live, slates.requests)
        out = []
        for k, (key, score) in enumerate(zip(keys.tolist(), slates.scores[: len(picks)].tolist(), strict=True)):
            out.append(
                Shown(
                    item=live.name(key),
                    score=score if np.isfinite(score) else None,
                    tasks={},
                    channels=brought[k],
                    reasons=words(brought[k], live.source, lambda c, k=k: causes[c][k] if c in causes else None, region),  # type: ignore[misc]
                    title=None if titles[k] is None else str(titles[k]),
                    image=None if images[k] is None else str(images[k]),
                    fields={name: values[k] for name, values in columns.items() if values[k] is not None},
                )
            )
        return out

    def _causes(self, live: Live, slates: Slates, keys: NDArray[np.int64]) -> dict[str, list[str | None]]:
        """By item-to-item channel: for each shown item the title of the item of the history it rests on."""
        history = slates.requests.history.items
        out = {}
        for channel in live.item_to_item:
            form = live.forms[channel]
            assert isinstance(form, Lists)
            found = because(form, history, keys)
            titles = live.titles(found)
            out[channel] = [
                None if key < 0 else title or live.name(key) for key, title in zip(found.tolist(), titles, strict=True)
            ]
        return out

    # ------------------------------------------------------------------------------------------ looking

    def similar(self, items: Sequence[str | int], n: int = 10, channel: str | None = None) -> SimilarAnswer:
        """Items like these, from an item-to-item channel."""
        live = self.live
        if not live.item_to_item:
            hint = "add a recall channel as item_cf, train and publish"
            raise NotFound("the release has no item-to-item channel", where="channel", hint=hint)
        name = live.item_to_item[0] if channel is None else channel
        if name not in live.item_to_item:
            what = f"no item-to-item channel is called {name!r}"
            raise NotFound(what, where="channel", hint=nearest(name, live.item_to_item))
        if not 1 <= n <= self.config.max_n:
            raise RequestError(f"n is {n}", where="n", hint=f"ask for 1 to {self.config.max_n} items")
        if not 1 <= len(items) <= self.config.max_batch:
            hint = f"send 1 to {self.config.max_batch} items"
            raise RequestError(f"{len(items)} items", where="items", hint=hint)
        names = [identifier(item, f"items[{k}]") for k, item in enumerate(items)]
        keys = [live.release.items.key(item) for item in names]
        now = self.clock()
        known = _ragged([(key, now, _positive(live)) for key in dict.fromkeys(keys) if key != MISSING])
        asked = make(np.array([MISSING]), np.array([now]), n, known, live.schema, live.release.catalogue, exclude=known)
        funnel, source = self._source(live, name)
        keep = eligible(funnel, asked, ("excluded", "available"))
        owners, found, scores = source.recall(asked, n, keep)
        good = np.flatnonzero(keep(owners, found))[:n]
        titles = live.titles(found[good])
        rows = [
            Neighbour(live.name(key), score, None if title is None else str(title))
            for key, score, title in zip(found[good].tolist(), scores[good].tolist(), titles, strict=True)
        ]
        unknown = [name for name, key in zip(names, keys, strict=True) if key == MISSING]
        return SimilarAnswer(name, rows, unknown, live.id)

    def channels(self) -> Channels:
        """The recall channels of the release."""
        live = self.live
        scenes = {name: [s for s, f in live.funnels.items() if name in [c.name for c in f.channels]] for name in live.channels}
        rows = [
            ChannelInfo(
                name, e["model"], e["source"], e["quota"], scenes[name], name in live.item_to_item, dict(e["options"])
            )
            for name, e in live.channels.items()
        ]
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
        now = self.clock() if now is None else now
        ask = self._ask(live, "", user, n, scene or self._scene_of(live, name), context or {}, (), (), None, now)
        channels = {c.name: c for c in live.funnels[ask.scene].channels}
        if name not in channels:
            raise NotFound(
                f"scene {ask.scene!r} has no channel {name!r}", where="channel", hint=nearest(name, list(channels))
            )
        started = time.perf_counter()
        state, _ = self._state(live, ask, time.monotonic() + self.config.deadline_ms / 1000.0)
        requests, funnel = self._requests(live, ask, state), live.funnels[ask.scene]
        keep = eligible(funnel, requests, tuple(funnel.filters))
        owners, items, scores = channels[name].source.recall(requests, n, keep)
        dropped: list[str | None] = [None] * len(items)
        for label, part in funnel.filters.items():
            for at in np.flatnonzero(~part.keep(requests, owners, items)).tolist():
                dropped[at] = dropped[at] or label
        good = keep(owners, items)
        ranks = (np.cumsum(good) - good + 1).tolist()
        took = (time.perf_counter() - started) * 1000.0
        rows = [
            Row(live.name(key), rank, score if np.isfinite(score) else None, label, None if t is None else str(t))
            for key, rank, score, label, t in zip(
                items.tolist(), ranks, scores.tolist(), dropped, live.titles(items), strict=True
            )
        ]
        return ChannelAnswer(name, ask.scene, rows, live.id, round(took, 3))

    def _scene_of(self, live: Live, channel: str) -> str:
        for scene, funnel in live.funnels.items():
            if channel in [c.name for c in funnel.channels]:
                return scene
        raise NotFound(f"no channel is called {channel!r}", where="channel", hint=nearest(channel, list(live.channels)))

    def _source(self, live: Live, name: str) -> Any:
        for funnel in live.funnels.values():
            for channel in funnel.channels:
                if channel.name == name:
                    return funnel, channel.source
        raise NotFound(f"no scene uses channel {name!r}", where="channel", hint="name it in a scene's channels")

    def trace(self, request_id: str) -> Trace:
        """The funnel of a request of late; of older ones what was served. Raises NotFound."""
        record = self.record(request_id)
        if record is not None:
            answer = record.answer
            funnel = tracing.trace(record.slates, 0, record.live.name)
            return Trace(
                request_id, answer.user, answer.release, record.now, answer.scene, answer.experiments,
                answer.degraded, [shown.item for shown in answer.items], funnel,
            )  # fmt: skip
        import msgspec

        served = self.log.served(request_id)
        if served is None:
            hint = f"traces are kept for the latest {self.config.traces} requests"
            raise NotFound(f"no request is called {request_id!r}", where="request_id", hint=hint)
        body = msgspec.json.decode(served.body)
        return Trace(
            request_id, served.user, served.release, served.time_ms, body.get("scene", ""),
            body.get("experiments", {}), body.get("degraded", []), body.get("items", []), None,
        )  # fmt: skip

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
        name = identifier(item, "item")
        if request_id is not None:
            record = self.record(request_id)
            if record is None:
                hint = f"kept are the latest {self.config.traces} requests; leave request_id out to ask anew"
                raise NotFound(f"no request is called {request_id!r}", where="request_id", hint=hint)
            if record.answer.user != identifier(user, "user"):
                raise RequestError("this request was of another user", where="user", hint="send that user's id")
            live, scene, requests = record.live, record.answer.scene, record.slates.requests
        else:
            live = self.live
            now = self.clock() if now is None else now
            ask = self._ask(live, "", user, n, scene, {}, (), (), None, now)
            state, notes = self._state(live, ask, time.monotonic() + self.config.deadline_ms / 1000.0)
            if notes:
                raise Late("the user's state cannot be had", where="state", hint="try again")
            scene, requests = ask.scene, self._requests(live, ask, state)
        key = live.release.items.key(name)
        if key == MISSING:
            what = f"release {live.id} knows no item {name!r}"
            raise NotFound(what, where="item", hint="an item becomes known when a release is published with it")
        found = explaining.explain(live.funnels[scene], requests, key)
        title = live.titles(np.array([key]))[0]
        sentences = tell.tell(found, live, requests, key)
        return Explanation(
            user=identifier(user, "user"), item=name, title=None if title is None else str(title), scene=scene,
            release=live.id, request_id=request_id, words=sentences, **found,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ events

    def events(self, batch: Sequence[Event | str], now: int | None = None) -> Receipt:
        """Write events; what is accepted is on disk by then. A text in place of an event is why it could not be read.

        Raises DataError when the log cannot be written: then nothing was accepted.
        """
        live = self.live
        now = self.clock() if now is None else now
        if not 1 <= len(batch) <= self.config.max_batch:
            hint = f"send 1 to {self.config.max_batch} events"
            raise RequestError(f"{len(batch)} events", where="events", hint=hint)
        refused = [Refused(k, event) for k, event in enumerate(batch) if isinstance(event, str)]
        at = [k for k, event in enumerate(batch) if not isinstance(event, str)]
        rows = [_log_event(event, now) for event in batch if not isinstance(event, str)]
        outcomes = self.log.append(rows, live.schema.action_names, now) if rows else []
        refused += [Refused(k, o.reason) for k, o in zip(at, outcomes, strict=True) if o.status == "refused"]
        accepted = sum(o.status == "accepted" for o in outcomes)
        duplicates = sum(o.status == "duplicate" for o in outcomes)
        self.meters.event({"accepted": accepted, "duplicate": duplicates, "refused": len(refused)}, now)
        return Receipt(accepted, duplicates, sorted(refused, key=lambda r: r.index))

    # ------------------------------------------------------------------------------------------ users, releases

    def past(self, user: str | int, now: int | None = None) -> tuple[int, Requests]:
        """Key of a user (-1: never seen) and what is known of the user now."""
        live = self.live
        now = self.clock() if now is None else now
        ask = self._ask(live, "", user, None, live.scenes[0], {}, (), (), None, now)
        state, notes = self._state(live, ask, time.monotonic() + self.config.deadline_ms / 1000.0)
        if notes:
            raise Late("the user's state cannot be had", where="state", hint="try again")
        return ask.key, self._requests(live, ask, state)

    def list_releases(self) -> ReleaseList:
        """Releases on disk, newest first."""
        mine = self._live.id if self._live is not None else None
        try:
            rows = self.releases.list()
        except ArtifactError as error:
            return ReleaseList([], str(error))
        found = [ReleaseInfo(r.id, r.created_ms, r.current, r.id == mine, dict(r.metrics)) for r in reversed(rows)]
        return ReleaseList(found, self.refused.what if self.refused is not None else None)


def replace_trace(answer: Answer, trace: dict[str, Any]) -> Answer:
    """A copy with its trace: the one in the ring stays without."""
    import msgspec

    return msgspec.structs.replace(answer, trace=trace)


def assigned_scene(live: Live, user: str, request_id: str) -> tuple[str | None, dict[str, str]]:
    """The scene that experiments give this request (the first that has it in an arm), and its arm in each of them."""
    scene, arms = None, {}
    for layer in live.experiments:
        unit = user if layer.unit == "user" else request_id
        arms[layer.name] = layer.assign(unit) or HELD_OUT
        scene = scene or layer.scene(unit)
    return scene, arms


def eligible(funnel: Any, requests: Requests, names: Sequence[str]) -> Any:
    """keep(owners, items) by some of a funnel's filters."""
    parts = [part for name, part in funnel.filters.items() if name in names]

    def keep(owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        mask = np.ones(len(items), dtype=bool)
        for part in parts:
            mask &= part.keep(requests, owners, items)
        return mask

    return keep


def _ragged(rows: Sequence[tuple[int, int, int]]) -> Ragged:
    """Events of one request from (item, time, action), in this order."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    offsets = np.array([0, len(table)], dtype=np.int64)
    return Ragged(offsets, table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.int16))


def _positive(live: Live) -> int:
    """Code of the first action that counts as interest."""
    return int(np.argmax(live.schema.weights > 0))


def _session(live: Live, session: Sequence[SessionEvent], now: int) -> Ragged:
    """Session events as columns, by time; items that the release does not know say nothing to it."""
    rows = []
    names = live.schema.action_names
    for k, event in enumerate(session):
        where = f"session[{k}]"
        key = live.release.items.key(identifier(event.item, f"{where}.item"))
        if event.action is not None and event.action not in names:
            hint = nearest(event.action, names)
            raise RequestError(f"unknown action {event.action!r}", where=f"{where}.action", hint=hint)
        time_ms = now if event.time_ms is None else event.time_ms
        if not 0 <= time_ms <= now + FUTURE_MS:
            what = f"time_ms is {'negative' if time_ms < 0 else 'in the future'}: {time_ms}"
            raise RequestError(what, where=f"{where}.time_ms", hint="send UTC milliseconds, or leave it out")
        if key != MISSING:
            rows.append((key, time_ms, _positive(live) if event.action is None else names.index(event.action)))
    return _ragged(sorted(rows, key=lambda row: row[1]))


def _context(live: Live, context: Mapping[str, Any]) -> dict[str, Any]:
    known = [*live.schema.context, *([live.schema.region] if live.schema.region else [])]
    for name in context:
        if name not in known:
            raise RequestError(f"unknown context {name!r}", where="context", hint=nearest(name, known))
    return dict(context)


def _where(live: Live, text: str | None) -> Expression | None:
    """A filter, parsed and tried: a condition that cannot be evaluated is refused, not met inside the funnel."""
    if text is None or not text.strip():
        return None
    try:
        expression = Expression.parse(text, "filter")
        items = live.release.catalogue.items
        np.asarray(expression(items.columns, len(items)), dtype=bool)
    except ConfigError as error:
        raise RequestError(error.what, where="filter", hint=error.hint) from None
    except (TypeError, ValueError, OverflowError, ArithmeticError) as error:
        raise RequestError(f"cannot be evaluated: {error}", where="filter", hint="use fields, values, < and in") from None
    return expression


def _region(live: Live, requests: Requests) -> str | None:
    column = requests.context.get(live.schema.region or "")
    value = None if column is None or not len(column) else column[0]
    return None if value is None or value != value else str(value)


def _log_event(event: Event, now: int) -> LogEvent:
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
