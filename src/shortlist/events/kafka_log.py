"""The event log on the Kafka protocol: a topic of one partition decides the order, a local file is its fold.

Every process that folds the topic has the same keys and offsets; a file that is lost is made again by replay, as far
back as the topic reaches. What is acknowledged was taken by all replicas in sync, and is in the local file. What is
not acknowledged may still arrive, once: events are known by their ids, slates by their request's.
"""

import logging
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.errors import ConfigError, DataError
from shortlist.events.database import Database
from shortlist.events.event import FUTURE_MS, Event, Outcome, Served, bad_id, refusal
from shortlist.events.kafka_fold import Fold, Told, outcomes, tell, tell_events, tell_hashes, tell_ids, tell_served
from shortlist.events.kafka_settings import made
from shortlist.events.log import KEEP_SERVED, Entity, Erasure
from shortlist.events.segments import Segment
from shortlist.schema import MISSING, Keys, canonical

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient

__all__ = ["KafkaLog"]

logger = logging.getLogger(__name__)

DEADLINE_S = 5.0
PATIENCE_S = 600.0  # for the fold of what may be long: ids of an import
AGREE_S = 1.0
POLL_S = 0.1
RETRY_S = 0.25
FETCH_MS = 100  # a broker answers a fetch when there is something; an idle one is asked this often
MESSAGES, BYTES = 256, 4_000_000  # of one transaction of the fold
WINDOW = 16  # messages of a long list of ids that are under way together
REPLICAS = 3
AROUND = re.compile(r"^\S+/\S+: | \(after \d+ms in state [^)]*\).*$")  # which broker, and when: it is any of them
LOGS = 2  # of librdkafka's own lines, the critical ones: what matters of the rest is said in our errors


class _UnreachableError(DataError):
    """No broker answers."""


@dataclass
class _Sent:
    """A message under way: its caller waits until it is both delivered and folded, or until it has failed."""

    done: threading.Event = field(default_factory=threading.Event)
    delivered: bool = False
    answer: str | None = None
    error: DataError | None = None


class KafkaLog:
    """The log of one project, on a topic. Threads may share it; a process opens it after its fork.

    Reads look at the local file alone and never wait for a broker. A thread keeps it current: an event that another
    process was told is accepted shows here within a second as long as a broker answers, one of this process at once.
    When none answers, a file that has been folded before can still be read; writing raises DataError.
    `servers` is `HOST:PORT` or several with commas, `settings` are librdkafka's (of security, say).
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        path: str | Path,
        *,
        future_ms: int = FUTURE_MS,
        keep_served: int = KEEP_SERVED,
        deadline_s: float = DEADLINE_S,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _library()
        self.path = Path(path)
        self.folder = self.path.parent / "events"
        self.topic = topic
        self.where = f"kafka://{servers}/{topic}"
        self.future_ms = future_ms
        self.deadline_s = deadline_s
        self._settings = {
            "bootstrap.servers": servers,
            "log_level": LOGS,
            "reconnect.backoff.max.ms": 500,
            **(settings or {}),
        }
        self._door = threading.Condition()
        self._under_way: dict[str, _Sent] = {}
        self._stopped = threading.Event()
        self._error: DataError | None = None
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._reached = 0  # everything of the topic before this position is in the file
        self._down = False
        self._why = ""  # what a broker, or its TLS, has against us
        self._threads: list[threading.Thread] = []
        self._fold = Fold(path, self.where, future_ms=future_ms, keep_served=keep_served)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the threads and close the file; the log is of no use afterwards. What is under way has failed."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._fail(DataError("the log was closed", where=self.where, hint="send it again"))
        with self._door:
            consumer, self._consumer, self._producer = self._consumer, None, None
        if consumer is not None:
            consumer.close()
        self._fold.close()

    @property
    def database(self) -> Database:
        """The local file, for who seals and scrubs it: how a fold keeps its events is its own affair."""
        return self._fold.database

    # ------------------------------------------------------------------------------------------ writing

    def append(self, events: Sequence[Event], actions: Sequence[str], now: int) -> list[Outcome]:
        """Write events; what is accepted is in the topic and in the local file when this returns, in one outcome each.

        Raises DataError when no broker takes them within the deadline: nothing was acknowledged, send it again. What
        was sent may arrive all the same, so events that are sent again are safe when they have ids of their own.
        """
        made = [refusal(event, actions, now + self.future_ms) for event in events]
        places = [n for n, refused in enumerate(made) if refused is None]
        ids = [events[n].event_id or secrets.token_hex(16) for n in places]
        messages = tell_events([events[n] for n in places], ids, now)
        at = 0
        for (_, size), answer in zip(messages, self._send([message for message, _ in messages]), strict=True):
            some = slice(at, at + size)
            for n, outcome in zip(places[some], outcomes(answer, ids[some]), strict=True):
                made[n] = outcome
            at += size
        return [outcome for outcome in made if outcome is not None]

    def register(self, entity: Entity, ids: pl.Series) -> Keys:
        """Give keys to the ids of a column that have none, in order of first appearance. Returns all keys."""
        fresh = canonical(ids, f"{entity} ids").unique(maintain_order=True)
        fresh = fresh.filter(pl.Series(self.keys(entity).encode(fresh) == MISSING))
        self._send_all(tell_ids(entity, fresh))
        return self.keys(entity)

    def reserve(self, offset: int) -> None:
        """Events from now on get offsets behind this one."""
        self._send([tell("reserved", offset=int(offset))])

    def append_served(self, slates: Sequence[Served]) -> int:
        """Write slates, each request id once; only the newest `keep_served` are kept. Returns how many were new."""
        return sum(msgspec.json.decode(answer, type=int) for answer in self._send(tell_served(slates)))

    # ------------------------------------------------------------------------------------------ files

    def take(self, count: int) -> int:
        """The first of `count` offsets that nobody else gets."""
        (answer,) = self._send([tell("taken", count=int(count))])
        return int(answer)

    def publish(
        self,
        parts: Sequence[Segment],
        ids: Sequence[Iterable[tuple[bytes, int]]] = (),
        *,
        fresh: bool = False,
        end: int | None = None,
    ) -> set[int]:
        """List imported parts whose files are in place, with (`digest` of an id, offset) of their events, at once.

        Events that came meanwhile win: offsets whose id is taken are returned, and then nothing was done. Every fold
        of the topic lists the parts; the files themselves are brought to other machines by whoever runs them.
        """
        of, count = secrets.token_hex(8), 0

        def messages() -> Iterator[bytes]:
            nonlocal count
            for message, size in tell_hashes(of, ids):
                count += size
                yield message
            yield tell("published", of=of, hashes=count, parts=list(parts), fresh=fresh, end=end)

        answer = self._send_all(messages())[-1]
        taken = msgspec.json.decode(answer, type=set[int] | None)
        if taken is None:
            raise DataError("another import began meanwhile", where=self.where, hint="import again when it has ended")
        return taken

    def forget_ids(self, segments: Sequence[Segment], part: int) -> None:
        """Forget ids of events of these offsets: part `part` of 256. Every fold forgets them."""
        ranges = [(segment.first, segment.last) for segment in segments]
        if ranges:
            self._send([tell("forgotten", part=part, ranges=ranges)])

    # ------------------------------------------------------------------------------------------ erasing

    def erase(self, user: str | int, now: int) -> Erasure:
        """Erase a user in every fold of the topic. The topic itself keeps their messages as long as it is set to."""
        raw = str(user)
        if bad_id(raw, "user id"):
            return Erasure(0, MISSING)
        (answer,) = self._send([tell("erased", user=raw, now=int(now))])
        return Erasure(*msgspec.json.decode(answer, type=tuple[int, int]))

    def erased(self, after: int = 0) -> tuple[int, NDArray[np.int64]]:
        """Number of the last erasure, and the keys of those behind `after`."""
        return self._fold.erased(after)

    def gone(self, key: int) -> bool:
        """Whether the user of this key was erased, though a release may still know the id."""
        return self._fold.gone(key)

    # ------------------------------------------------------------------------------------------ reading

    def read(self, after: int, limit: int) -> pl.DataFrame:
        """At most `limit` events behind the offset `after`, in order."""
        return self._fold.read(after, limit)

    def tail(self, users: int | Sequence[int] | NDArray[np.int64], after: int) -> pl.DataFrame:
        """Events of some users (keys) behind an offset, in order: offset, user, item, action, value, time_ms."""
        return self._fold.tail(users, after)

    def frames(self, columns: Sequence[str], context: Sequence[str] = ()) -> list[pl.LazyFrame]:
        """All events in order of offset: files are scanned when the frames are collected."""
        return self._fold.frames(columns, context)

    @property
    def last_offset(self) -> int:
        """The highest offset given or taken, 0 before the first."""
        return self._fold.last_offset

    @property
    def identity(self) -> str:
        """Which log this is, the same in every fold of the topic; empty before its first message."""
        return self._fold.identity

    @property
    def changes(self) -> str:
        """What else than new offsets changes what `read` gives: erasures, and events dropped for their age."""
        return self._fold.changes

    def keys(self, entity: Entity) -> Keys:
        """All keys given so far."""
        return self._fold.keys(entity)

    def key(self, entity: Entity, raw: str | int) -> int:
        """Key of one id, MISSING if it has none."""
        return self._fold.key(entity, raw)

    def served(self, request_id: str) -> Served | None:
        """The slate of a request, None when it is unknown or has been dropped."""
        return self._fold.served(request_id)

    def read_served(self, after: int, limit: int) -> pl.DataFrame:
        """Slates behind a number, in the order written: number, request_id, user, time_ms, release, body."""
        return self._fold.read_served(after, limit)

    # ------------------------------------------------------------------------------------------ to the topic

    def _send_all(self, messages: Iterable[bytes]) -> list[str]:
        """Answers to messages of which there may be many: so many at a time, in order."""
        answers: list[str] = []
        window: list[bytes] = []
        for message in messages:
            window.append(message)
            if len(window) == WINDOW:
                answers += self._send(window, PATIENCE_S)
                window = []
        return answers + self._send(window, PATIENCE_S)

    def _send(self, messages: Sequence[bytes], within_s: float | None = None) -> list[str]:
        """Answers (JSON) to messages, when all are taken and folded. Raises DataError when that does not come to be."""
        from confluent_kafka import KafkaException

        if not messages:
            return []
        sent = {secrets.token_hex(8): _Sent() for _ in messages}
        with self._door:
            if self._error is not None:
                raise _copy(self._error)
            self._under_way.update(sent)
            producer = self._producing()
        try:
            for token, message in zip(sent, messages, strict=True):
                producer.produce(
                    self.topic, value=message, key=token.encode(), partition=0, on_delivery=self._delivered
                )
            patience = self.deadline_s if within_s is None else within_s
            until = time.monotonic() + patience
            for one in sent.values():
                if not one.done.wait(max(0.0, until - time.monotonic())):
                    raise self._untaken(f"no broker took it within {patience:g} s")
                if one.error is not None:
                    raise _copy(one.error)
        except BufferError as error:
            raise self._untaken("too much is waiting for the broker") from error
        except KafkaException as error:
            raise self._untaken(f"it cannot be sent: {error.args[0].str()}") from error
        finally:
            with self._door:
                for token in sent:
                    del self._under_way[token]
        return [one.answer or "" for one in sent.values()]

    def _untaken(self, what: str) -> DataError:
        return DataError(what, where=self.where, hint="nothing was acknowledged; check the broker, then send it again")

    def _producing(self) -> "Producer":
        """The producer, made by the first who writes."""
        from confluent_kafka import Producer

        if self._producer is None:
            own = {
                "acks": "all", "enable.idempotence": True,
                "message.timeout.ms": max(1, round(self.deadline_s * 1000)),
            }  # fmt: skip
            usual = {"linger.ms": 0, "compression.type": "lz4"}
            self._producer = made(Producer, {**usual, **self._settings, **own})
            self._door.notify_all()
        return self._producer

    def _delivered(self, error: "KafkaError | None", message: "Message") -> None:
        token = (message.key() or b"").decode()
        with self._door:
            one = self._under_way.get(token)
            if one is None:
                return
            if error is not None:
                one.error = self._untaken(f"the broker did not take it: {error.str()}")
            one.delivered = error is None
            if error is not None or one.answer is not None:
                one.done.set()

    def _deliver(self) -> None:
        """The thread that hears what became of messages, and puts a producer aside that can no longer work."""
        from confluent_kafka import KafkaException

        while not self._stopped.is_set():
            with self._door:
                producer = self._producer
                if producer is None:
                    self._door.wait(POLL_S)
            if producer is None:
                continue
            try:
                producer.poll(POLL_S)
            except KafkaException as error:  # a fatal one: whatever waited in this producer has failed
                logger.warning("%s: another producer takes over: %s", self.where, error.args[0].str())
                with self._door:
                    self._producer = None
                producer.purge()
                producer.flush(POLL_S)  # tells them

    # ------------------------------------------------------------------------------------------ from the topic

    def _open(self) -> None:
        """Begin to fold, and wait until everything is in that was in the topic by now."""
        try:
            high = self._reach(self.deadline_s)
        except _UnreachableError as error:
            if not self._fold.position:
                raise
            logger.warning("%s: reading what was folded before", error)
            self._error, high = error, 0
        for name, run in (("fold", self._follow), ("deliver", self._deliver)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()
        with self._door:
            while self._reached < high and self._error is None:
                if not self._door.wait(self.deadline_s):
                    what = f"the topic stands at {high}, and nothing came behind {self._reached}"
                    raise DataError(what, where=self.where, hint="check the broker")
            if self._reached < high and self._error is not None:
                raise _copy(self._error)

    def _reach(self, within_s: float) -> int:
        """Find the topic, make it if there is none, and read from where the file ends. Returns where it ends itself.

        Raises DataError when topic and file do not fit each other.
        """
        from confluent_kafka import Consumer, TopicPartition

        if self._consumer is None:
            own = {
                "group.id": "shortlist", "enable.auto.commit": False, "auto.offset.reset": "error",
                "enable.partition.eof": True, "isolation.level": "read_uncommitted",
                "allow.auto.create.topics": False, "error_cb": self._heard,
            }  # fmt: skip
            usual = {"fetch.wait.max.ms": FETCH_MS, "queued.max.messages.kbytes": 16_384}
            self._consumer = made(Consumer, {**usual, **self._settings, **own})
        self._find(self._consumer, within_s)
        low, high = self._ends(self._consumer, TopicPartition(self.topic, 0), within_s)
        position = self._fold.position
        if position < low:
            what = f"the topic begins at message {low}, the file ends before {position}: what lies between is gone"
            raise DataError(what, where=self.where, hint=f"put back a later copy of {self.path}")
        until = time.monotonic() + min(AGREE_S, within_s)
        while position > high and time.monotonic() < until:  # a new leader may not know for a moment what it holds
            time.sleep(0.05)
            _, high = self._ends(self._consumer, TopicPartition(self.topic, 0), within_s)
        if position > high:
            what = f"the file was not made from this topic: it ends at message {position}, the topic at {high}"
            hint = f"name the topic it was made from, or take away {self.path}"
            raise DataError(what, where=self.where, hint=hint)
        # from the message folded last, if it is still there: it shows whether this is the topic it was
        self._consumer.assign([TopicPartition(self.topic, 0, max(low, position - 1))])
        self._down = False
        with self._door:
            self._reached = position
        return high

    def _find(self, consumer: "Consumer", within_s: float) -> None:
        """Wait for the topic, made here if need be."""
        from confluent_kafka import KafkaException

        until, asked = time.monotonic() + within_s, False
        while True:
            try:
                cluster = consumer.list_topics(timeout=max(0.01, until - time.monotonic()))
            except KafkaException as error:
                consumer.poll(POLL_S)  # tells `_heard`
                raise self._unreachable(error) from error
            self._why = ""
            found = cluster.topics.get(self.topic)
            if found is not None and found.error is None:
                if len(found.partitions) != 1:
                    what = f"the topic has {len(found.partitions)} partitions; only one has an order"
                    raise DataError(what, where=self.where, hint="name a topic of one partition, or one to be made")
                return
            if found is None and not asked:
                from confluent_kafka.admin import AdminClient

                _create(made(AdminClient, self._settings), self.topic, len(cluster.brokers), within_s, self.where)
                asked = True
            if time.monotonic() > until:
                state = found.error.str() if found is not None and found.error is not None else "it does not appear"
                raise _UnreachableError(f"no topic: {state}", where=self.where, hint="check the broker")
            time.sleep(0.05)

    def _ends(self, consumer: "Consumer", partition: "TopicPartition", within_s: float) -> tuple[int, int]:
        """Positions of the first message there is, and behind the last."""
        from confluent_kafka import KafkaException

        until = time.monotonic() + within_s
        while True:
            try:
                found = consumer.get_watermark_offsets(partition, timeout=max(0.01, until - time.monotonic()))
            except KafkaException as error:
                if time.monotonic() > until:
                    raise self._unreachable(error) from error
                found = None
            if found is not None:
                return found
            if time.monotonic() > until:
                raise _UnreachableError("the topic has no leader", where=self.where, hint="check the broker")
            time.sleep(0.05)

    def _unreachable(self, error: Exception) -> _UnreachableError:
        if self._why:
            hint = "correct `[log] options`, or what the brokers know of us"
            return _UnreachableError(f"no broker lets us in: {self._why}", where=self.where, hint=hint)
        what = f"no broker answers: {error.args[0].str()}"
        return _UnreachableError(what, where=self.where, hint="start the broker, or check the address in `[log] use`")

    def _follow(self) -> None:
        """The thread that folds. After any error it starts over from where the file ends: nothing is left out."""
        reading = self._error is None
        try:
            while not self._stopped.is_set():
                try:
                    if not reading:
                        self._reach(min(1.0, self.deadline_s))
                        reading = True
                        self._well()
                    self._take()
                except DataError as error:
                    reading = False
                    if self._error is None or self._error.what != error.what:
                        logger.warning("the log does not follow its topic: %s", error)
                    self._fail(error)
                    self._stopped.wait(RETRY_S)
        finally:
            if not self._stopped.is_set():
                self._fail(DataError("the thread that folds has ended", where=self.where, hint="open the log again"))

    def _take(self) -> None:
        """Fold what has come by now, or comes soon."""
        from confluent_kafka import KafkaError, KafkaException

        consumer = self._consumer
        assert consumer is not None
        try:
            first = consumer.poll(POLL_S)
            messages = [] if first is None else [first, *consumer.consume(MESSAGES - 1, 0)]
        except KafkaException as error:
            raise self._unreachable(error) from error
        told: list[Told] = []
        size = 0
        for message in messages:
            wrong, at = message.error(), message.offset()
            if wrong is not None and wrong.code() != KafkaError._PARTITION_EOF:
                self._apply(told)
                raise DataError(f"the topic cannot be read: {wrong.str()}", where=self.where, hint="check the broker")
            assert at is not None
            if wrong is not None:
                self._apply(told)
                told, size = [], 0
                self._reach_to(at)
                continue
            value = message.value() or b""
            told.append(Told(at, (message.key() or b"").decode(errors="replace"), value))
            size += len(value)
            if size > BYTES:
                self._apply(told)
                told, size = [], 0
        self._apply(told)
        if self._down and not messages:
            raise _UnreachableError(
                "no broker answers", where=self.where, hint="start the broker, or check the address in `[log] use`"
            )

    def _apply(self, told: Sequence[Told]) -> None:
        """Fold messages, and tell those who wait for them."""
        if not told:
            return
        answers = self._fold.apply(told)
        with self._door:
            elsewhere = [one.token for one in told if one.token in self._under_way and one.token not in answers]
        if elsewhere:  # another process was first with this file
            answers |= self._fold.answers(elsewhere)
        with self._door:
            for token in {one.token for one in told} & self._under_way.keys() & answers.keys():
                one = self._under_way[token]
                one.answer = answers[token] if one.answer is None else one.answer
                if one.delivered:
                    one.done.set()
        self._reach_to(told[-1].position + 1)

    def _reach_to(self, position: int) -> None:
        with self._door:
            self._reached, self._down = max(self._reached, position), False
            self._door.notify_all()

    def _well(self) -> None:
        with self._door:
            if self._error is not None:
                logger.info("%s: the log follows its topic again", self.where)
            self._error = None

    def _fail(self, error: DataError) -> None:
        """Whoever waits is told now; of a broker that is away, whoever comes: it may be back within their deadline."""
        with self._door:
            self._error = error
            for one in self._under_way.values() if not isinstance(error, _UnreachableError) else ():
                one.error = one.error or error
                one.done.set()
            self._door.notify_all()

    def _heard(self, error: "KafkaError") -> None:
        from confluent_kafka import KafkaError

        self._down |= error.code() == KafkaError._ALL_BROKERS_DOWN
        told = error.str()
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or "SSL handshake failed" in told:
            self._why = AROUND.sub("", told)


def _library() -> None:
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        hint = "pip install 'shortlist[kafka]', or leave it at \"sqlite:\""
        raise ConfigError("confluent-kafka is not installed", where="log.use", hint=hint) from None


def _create(admin: "AdminClient", topic: str, brokers: int, within_s: float, where: str) -> None:
    """A topic of one partition, on as many as three brokers; how long it keeps messages is the operator's to say."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.cimpl import NewTopic

    wanted = NewTopic(topic, num_partitions=1, replication_factor=min(REPLICAS, brokers))
    made = admin.create_topics([wanted], operation_timeout=within_s, request_timeout=within_s)
    hint = "make it by hand, with one partition"
    try:
        made[topic].result(within_s + 1.0)
    except TimeoutError as error:
        raise DataError("the topic cannot be made: no broker answers", where=where, hint=hint) from error
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was first
            raise DataError(f"the topic cannot be made: {error.args[0].str()}", where=where, hint=hint) from error


def _copy(error: DataError) -> DataError:
    """Each caller raises an error of its own."""
    return DataError(error.what, where=error.where, hint=error.hint)
