"""kill -9, a full disk, a store that goes away: what a store promises holds, and the follower applies events once."""

import multiprocessing
import os
import random
import resource
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from tests.store.servers import Server, patience  # noqa: F401
from tests.store.world import dump, fill, service, states
from tests.waiting import until

from shortlist.errors import DataError
from shortlist.events.log import EventLog
from shortlist.feedback.follow import Follower, follow
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.redis import Redis

FINGERPRINT = "f" * 64
KEYS = np.arange(40)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("redis"))
    yield started
    started.stop()


def kill(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def write_for_ever(folder: str, told: Connection) -> None:
    """Batch n is n in forty users and forty items, one in five of them longer than a page, and the offset n."""
    with closing(Lmdb(folder, FINGERPRINT, map_bytes=2**17)) as store:
        n = store.offset
        while True:
            n += 1
            blobs = [b"%d " % n * (1 + 2000 * (k % 5 == 0)) for k in KEYS.tolist()]
            if n % 7:
                store.put({"user": (KEYS, blobs), "item": (KEYS, blobs)}, n)
            else:
                store.stage({"user": (KEYS, blobs)}, first=True)
                store.stage({"item": (KEYS, blobs)})
                store.adopt(n)
            told.send(n)


def test_a_killed_writer_leaves_whole_states(tmp_path: Path, forks: ForkServerContext) -> None:
    dice = random.Random(5)
    folder = tmp_path / "store"
    reached = []
    for _ in range(12):
        mine, theirs = forks.Pipe(duplex=False)
        writer = forks.Process(target=write_for_ever, args=(str(folder), theirs))
        writer.start()
        theirs.close()
        mine.recv()
        time.sleep(dice.uniform(0, 0.1))
        kill(writer)
        last = 0
        try:
            while True:
                last = mine.recv()
        except EOFError:
            pass
        with closing(Lmdb(folder, FINGERPRINT)) as store:
            found, offset = store.read({"user": KEYS, "item": KEYS})
            assert offset in (last, last + 1) or not last  # the pipe may hold less than was written, never more
            for name in ("user", "item"):
                assert {blob.split()[0] for blob in found[name] if blob} == {b"%d" % offset}
            store.claim()  # the dead hold no lock
            reached.append(offset)
    assert reached == sorted(set(reached))


def write_much(folder: str, told: Connection) -> None:
    with closing(Lmdb(folder, FINGERPRINT, map_bytes=2**17)) as store:
        for n in range(1, 40):
            store.put({f"new{n % 3}": (KEYS, [b"%d" % n * 2000] * 40)}, n)
        told.send(n)


def test_a_reader_sees_what_another_process_wrote_beyond_its_map(tmp_path: Path, forks: ForkServerContext) -> None:
    """40 blobs of some 3,600 bytes in three namespaces: more than the 128 KiB that the reader had mapped."""
    with closing(Lmdb(tmp_path / "store", FINGERPRINT, map_bytes=2**17)) as store:
        assert store.offset == 0
        mine, theirs = forks.Pipe(duplex=False)
        writer = forks.Process(target=write_much, args=(str(tmp_path / "store"), theirs))
        writer.start()
        while writer.is_alive():
            found, offset = store.read({"new0": KEYS, "new1": KEYS, "new2": KEYS})
            for name, blobs in found.items():
                last = offset - (offset - int(name[-1])) % 3  # the newest batch of this namespace
                assert set(blobs) == {b"%d" % last * 2000 if last > 0 else None}
        writer.join()
        assert mine.recv() == store.offset == 39
        store.put({}, 40)  # and it can write on
        assert store.offset == 40


def test_a_reader_that_was_killed_holds_no_pages(tmp_path: Path, forks: ForkServerContext) -> None:
    """What a reader looks at is kept for it; of one that is dead nothing is."""
    folder = tmp_path / "store"
    rng = np.random.default_rng(8)
    with closing(Lmdb(folder, FINGERPRINT, sync=False)) as store:
        store.put({"user": (KEYS, [rng.bytes(3000) for _ in KEYS])}, 1)
        mine, theirs = forks.Pipe(duplex=False)
        reader = forks.Process(target=look_for_ever, args=(str(folder), theirs))
        reader.start()
        mine.recv()
        kill(reader)
        for n in range(2, 300):
            store.put({"user": (KEYS, [rng.bytes(3000) for _ in KEYS])}, n)
        # 40 blobs of one page each; with every version kept it would be 300 times that
        assert (folder / "data.mdb").stat().st_size < 120 * 40 * 4096


def look_for_ever(folder: str, told: Connection) -> None:
    import lmdb

    with lmdb.open(folder, readonly=True, max_dbs=8) as environment, environment.begin():
        told.send(1)
        time.sleep(600)


def follow_when_told(log: str, folder: str, boss: Connection) -> None:
    """A batch for each message."""
    with closing(EventLog(log)) as read, closing(Lmdb(folder, FINGERPRINT)) as store:
        boss.send(store.offset)
        while boss.recv() and follow(read, states(store), limit=37):
            boss.send(store.offset)
        boss.send(-1)


def test_a_follower_killed_at_random_points_applies_every_event_once(tmp_path: Path, forks: ForkServerContext) -> None:
    dice = random.Random(6)
    path = tmp_path / "log.db"
    with closing(fill(path, 6000)) as log:
        whole = states(Memory())
        while follow(log, whole, limit=37):  # decayed sums are added up by batch: the same batches give the same bits
            pass
    stood: list[int] = []
    while not stood or stood[-1] >= 0:
        mine, theirs = forks.Pipe()
        follower = forks.Process(target=follow_when_told, args=(str(path), str(tmp_path / "store"), theirs))
        follower.start()
        theirs.close()
        stood.append(mine.recv())
        for _ in range(dice.randint(1, 12)):
            mine.send(True)
            if (at := mine.recv()) < 0:
                stood.append(at)
                follower.join()
                break
        else:
            mine.send(True)  # one more, and it dies at it, before it or behind it
            time.sleep(dice.uniform(0, 0.01))
            kill(follower)
    # 6000 events are 163 batches, and a life has 13 at most: it was broken off in the middle a dozen times and more
    assert len(set(stood)) > 163 // 13
    with closing(Lmdb(tmp_path / "store", FINGERPRINT)) as store:
        assert store.offset == whole.offset == 6000
        assert dump(store) == dump(whole.blobs)


def write_on_a_small_disk(folder: str, told: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # files may grow to a mebibyte
    with closing(Lmdb(folder, FINGERPRINT)) as store:
        n = 0
        try:
            while True:
                n += 1
                store.put({"user": (np.array([n, 0]), [b"x" * 20_000, b"%d" % n])}, n)
        except DataError as error:
            told.send((n, str(error)))
        found, offset = store.read({"user": np.array([n, 0])})
        told.send((offset, found["user"]))
        # deleting needs pages too: those that earlier changes gave back
        store.put({"user": (np.arange(1, 3), [None] * 2)}, offset)
        told.send(store.offset)


def test_a_full_disk_is_said_and_nothing_has_changed(tmp_path: Path, forks: ForkServerContext) -> None:
    mine, theirs = forks.Pipe(duplex=False)
    folder = tmp_path / "store"
    writer = forks.Process(target=write_on_a_small_disk, args=(str(folder), theirs))
    writer.start()
    theirs.close()
    n, said = mine.recv()
    what = "the disk is full; nothing was changed (free some space: what was missed follows from the log)"
    assert said == f"{folder}: {what}"
    assert mine.recv() == (n - 1, [None, b"%d" % (n - 1)])
    assert mine.recv() == n - 1
    assert n > 10
    writer.join()
    # there is room again: it goes on where it stood
    with closing(Lmdb(folder, FINGERPRINT)) as store:
        assert store.offset == n - 1
        store.put({"user": (np.array([n]), [b"x" * 20_000])}, n)
        assert (store.offset, store.sizes()["user"][0]) == (n, n - 1)  # 0 to n without 1 and 2


class TestRedis:
    def test_a_killed_server_is_said_and_found_again(self, tmp_path: Path) -> None:
        server = Server(tmp_path)
        with closing(Redis(server.url, FINGERPRINT)) as store:
            store.put({"user": (KEYS, [b"1"] * 40)}, 1)
            server.kill()
            for ask in (lambda: store.offset, lambda: store.get("user", KEYS), lambda: store.put({}, 2), store.claim):
                with pytest.raises(DataError) as caught:
                    ask()
                assert caught.value.what.startswith(f"cannot reach {server.url}: ")
            server.start()
            assert store.read({"user": KEYS}) == ({"user": [b"1"] * 40}, 1)
            store.put({"user": (KEYS, [b"2"] * 40)}, 2)
            assert store.offset == 2
        server.stop()

    def test_a_server_killed_while_it_writes_comes_back_whole(self, tmp_path: Path) -> None:
        """Its file is synced at every write: what was acknowledged is there, and every batch whole."""
        dice = random.Random(7)
        server = Server(tmp_path)
        store = Redis(server.url, FINGERPRINT)
        n = 0
        for _ in range(4):
            for _ in range(dice.randint(1, 20)):
                n += 1
                store.put({name: (KEYS, [b"%d" % n] * 40) for name in ("user", "item")}, n)
            server.kill()
            server.start()
            found, offset = store.read({"user": KEYS, "item": KEYS})
            assert offset == n
            assert {*found["user"], *found["item"]} == {b"%d" % n}
        store.close()
        server.stop()

    def test_a_store_that_lost_everything_is_filled_again(self, tmp_path: Path) -> None:
        server = Server(tmp_path, "--appendonly", "no")
        with closing(fill(tmp_path / "log.db", 900)) as log, closing(Redis(server.url, service().fingerprint)) as blobs:
            whole = states(Memory())
            follow(log, whole)
            store = states(blobs)
            while follow(log, store, limit=500):
                pass
            server.kill()
            server.start()
            with pytest.raises(DataError) as caught:
                blobs.get("user", KEYS)
            lost = f"{server.url}: the store has lost its state (run `shortlist backfill`)"
            assert str(caught.value) == lost
            with pytest.raises(DataError, match="the store has lost its state"):
                blobs.put({}, 900)
            follower = Follower(log, store, every_ms=5, limit=500).start()
            assert until(lambda: dump(whole.blobs) == (dump(blobs) if blobs.sizes() else {}))
            follower.stop()
            assert (dump(blobs), blobs.offset, follower.error) == (dump(whole.blobs), 900, None)
        server.stop()

    def test_a_writer_that_was_thought_dead_cannot_write(self, tmp_path: Path, server: Server) -> None:
        fingerprint = secrets.token_hex(32)
        first = Redis(server.url, fingerprint, lease_ms=50)
        second = Redis(server.url, fingerprint, lease_ms=600_000)
        with closing(first), closing(second):
            first.put({"user": (KEYS, [b"1"] * 40)}, 1)
            time.sleep(0.1)  # it says nothing for longer than its lease
            second.put({"user": (KEYS, [b"2"] * 40)}, 2)
            with pytest.raises(DataError, match="another process writes this store"):
                first.put({"user": (KEYS, [b"3"] * 40)}, 3)
            with pytest.raises(DataError, match="another process writes this store"):
                first.claim()
            assert second.read({"user": KEYS[:1]}) == ({"user": [b"2"]}, 2)
            second.leave()
            first.claim()
            first.put({}, 4)
            assert second.offset == 4

    def test_a_full_redis_is_said_and_nothing_has_changed(self, tmp_path: Path) -> None:
        server = Server(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
        with closing(Redis(server.url, FINGERPRINT)) as store:
            n = 0

            def write_on() -> None:
                nonlocal n
                while n < 1000:
                    n += 1
                    store.put({"user": (np.array([n, 0]), [secrets.token_bytes(50_000), b"%d" % n])}, n)

            with pytest.raises(DataError) as caught:
                write_on()
            assert caught.value.what == "Redis has no memory left; nothing was changed"
            seen: list[object] = []

            def look() -> bool:
                # what the refused write came in is held for a moment, and above its limit Redis begins no transaction
                with suppress(DataError):
                    seen.append(store.read({"user": np.array([n, 0])}))
                return bool(seen)

            assert until(look)
            assert seen == [({"user": [None, b"%d" % (n - 1)]}, n - 1)]
        server.stop()

    def test_a_store_that_nobody_writes_goes_after_its_time(self, server: Server) -> None:
        import redis

        fingerprint = secrets.token_hex(32)
        store = Redis(server.url, fingerprint, ttl_ms=600_000)
        with closing(store), closing(redis.Redis.from_url(server.url, decode_responses=True)) as client:

            def left() -> dict[str, int]:
                """Milliseconds that each key of the store has, but the writer's lease, which goes by itself."""
                names = sorted(str(name).partition("}:")[2] for name in client.keys(f"*{fingerprint[:12]}*"))
                return {name: client.pttl(f"shortlist:{{{fingerprint[:12]}}}:{name}") for name in names}

            for n in range(2):
                store.put({"user": (np.array([n]), [b"x"])}, n + 1)
                times = left()
                assert set(times) == {"fence", "live:user", "meta", "names:live", "writer"}
                del times["writer"]
                assert 300_000 < min(times.values()) <= max(times.values()) <= 600_000  # as long as if it were new
                for name in times:
                    client.pexpire(f"shortlist:{{{fingerprint[:12]}}}:{name}", 100_000)
            assert store.sizes() == {"user": (2, 2)}
            for name in times:
                client.pexpire(f"shortlist:{{{fingerprint[:12]}}}:{name}", 1)
            assert until(lambda: list(left()) == ["writer"])
            with pytest.raises(DataError, match="the store has lost its state"):
                store.get("user", KEYS)
