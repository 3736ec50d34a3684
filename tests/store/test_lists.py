"""Channels' lists in a store: bit-equal, one version at a time, two kept, and the funnel answers as from memory."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.serving.world import World, hot, neighbours
from tests.store.servers import Server

from shortlist.artifact import load, save
from shortlist.candidates import Ragged, Requests
from shortlist.config import catalogue, find
from shortlist.errors import ArtifactError, DataError
from shortlist.forms import Built, Lists, Vectors
from shortlist.funnel.recipes import SOURCES
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.funnel.sources.popular import Popular
from shortlist.index.lists import Kept, ListIndex, searchable
from shortlist.schema import Schema
from shortlist.store import Blobs
from shortlist.store.blobs import Change
from shortlist.store.lists import (
    Table,
    erase,
    erased,
    fingerprint,
    kept,
    publish,
    publish_release,
    published,
    rollback,
    versions,
)
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.opening import open_store
from shortlist.store.redis import Redis

NOW = 1_767_225_600_000
ITEMS = 300


@pytest.fixture(params=["memory", "lmdb", "redis"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    with ExitStack() as stack:
        if request.param == "memory":
            yield Memory()
        elif request.param == "lmdb":
            yield stack.enter_context(closing(Lmdb(tmp_path / "store", "f" * 64)))
        else:
            server = request.getfixturevalue("server")
            yield stack.enter_context(closing(Redis(server.url, secrets.token_hex(32))))


def lists(seed: int, keys: int = 200, each: int = 12) -> Lists:
    """Of two keys in three; scores are such that no two sums agree by chance."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.flatnonzero(np.arange(keys) % 3), each)
    items = np.concatenate([rng.permutation(ITEMS)[:each] for _ in range(len(owners) // each)])
    return Lists.ranked(owners, items, rng.random(len(owners)).astype(np.float32))


def table(blobs: Blobs, channel: str = "similar", now: Callable[[], int] = lambda: NOW) -> Table:
    return Table(blobs, channel, now)


def equal(a: Lists, b: Lists) -> None:
    for name in ("keys", "offsets", "items", "scores"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left.dtype, left.tobytes()) == (right.dtype, right.tobytes())
    assert a.labels == b.labels


def test_what_is_published_is_read_bit_for_bit(blobs: Blobs) -> None:
    made = lists(1)
    read = table(blobs)
    assert (len(read.take(np.arange(200))), versions(blobs, "similar")) == (0, ())
    publish(blobs, "similar", made, "one", now=NOW)
    equal(read.take(np.arange(200)), made)
    assert versions(blobs, "similar") == ("one",)
    few = read.take(np.array([5, 2, 5, 3, -1, 10**12]))  # 3 has no list
    assert few.keys.tolist() == [2, 5]
    for key in (2, 5):
        for a, b in zip(few.of(key), made.of(key), strict=True):
            np.testing.assert_array_equal(a, b)
    items, scores = few.of(3)
    assert (len(items), len(scores)) == (0, 0)


def test_channels_do_not_meet_and_lists_are_cut(blobs: Blobs) -> None:
    publish(blobs, "a", lists(1), "one", now=NOW, keep=5)
    publish(blobs, "b", lists(2), "one", now=NOW)
    assert np.diff(table(blobs, "a").take(np.arange(200)).offsets).tolist() == [5] * 133
    equal(table(blobs, "b").take(np.arange(200)), lists(2))
    assert len(table(blobs, "c").take(np.arange(200))) == 0


def test_a_rollback_restores_the_answers_and_two_versions_are_kept(blobs: Blobs) -> None:
    read = table(blobs)
    for n, name in enumerate(("one", "two", "three"), start=1):
        publish(blobs, "similar", lists(n), name, now=NOW)
        equal(read.take(np.arange(200)), lists(n))
    assert versions(blobs, "similar") == ("three", "two")
    assert len(blobs.sizes()) == 3  # the pointer and two versions: the first is gone
    assert rollback(blobs, "similar") == "two"
    equal(read.take(np.arange(200)), lists(2))
    with pytest.raises(ArtifactError) as caught:
        rollback(blobs, "similar")
    assert str(caught.value) == "lists of similar: there is no earlier version (publish another first)"
    # what was rolled back from makes room for the next
    publish(blobs, "similar", lists(4), "four", now=NOW)
    assert (versions(blobs, "similar"), len(blobs.sizes())) == (("four", "two"), 3)
    assert rollback(blobs, "similar") == "two"
    equal(read.take(np.arange(200)), lists(2))
    with pytest.raises(DataError) as twice:
        publish(blobs, "similar", lists(5), "four", now=NOW)
    what = "lists: version 'four' of similar is published already (name the new one otherwise, or roll back to it)"
    assert str(twice.value) == what


def test_a_reader_may_stay_with_its_version_as_long_as_it_is_kept(blobs: Blobs) -> None:
    """As a release does, while the next one is published: its lists belong to its other parts."""
    publish(blobs, "similar", lists(1), "one", now=NOW)
    stays = Table(blobs, "similar", lambda: NOW, "one")
    comes = Table(blobs, "similar", lambda: NOW, "two")
    with pytest.raises(ArtifactError) as early:
        comes.take(np.arange(200))
    assert str(early.value) == "lists of similar: version 'two' is not there (run `shortlist backfill`)"
    publish(blobs, "similar", lists(2), "two", now=NOW)
    equal(stays.take(np.arange(200)), lists(1))
    equal(comes.take(np.arange(200)), lists(2))
    publish(blobs, "similar", lists(3), "three", now=NOW)
    with pytest.raises(ArtifactError, match="version 'one' is not there"):
        stays.take(np.arange(200))
    equal(comes.take(np.arange(200)), lists(2))


def test_the_version_that_is_served_stays_whatever_was_published_since(blobs: Blobs) -> None:
    publish(blobs, "similar", lists(1), "served", now=NOW)
    served = Table(blobs, "similar", lambda: NOW, "served")
    for n in range(2, 6):  # none of them is served in the end
        publish(blobs, "similar", lists(n), f"lost {n}", now=NOW, stay="served")
        assert versions(blobs, "similar") == (f"lost {n}", "served")
        equal(served.take(np.arange(200)), lists(1))
        assert len(blobs.sizes()) == 3
    publish(blobs, "similar", lists(6), "next", now=NOW, stay="unknown here")  # then the current one stays
    assert versions(blobs, "similar") == ("next", "lost 5")


def test_both_versions_are_whole_while_the_next_is_written() -> None:
    """It has a place of its own: what breaks off has touched neither, and a rollback still finds the earlier one."""
    blobs = Breaking()
    publish(blobs, "similar", lists(1), "one", now=NOW)
    publish(blobs, "similar", lists(2), "two", now=NOW)
    for left in range(4):
        blobs.left = left
        with pytest.raises(DataError, match="the disk is full"):
            publish(blobs, "similar", lists(3, keys=70_000, each=2), "three", now=NOW)
        for n, name in ((1, "one"), (2, "two")):
            equal(Table(blobs, "similar", lambda: NOW, name).take(np.arange(200)), lists(n))
    blobs.left = 10**9
    assert rollback(blobs, "similar") == "one"
    equal(table(blobs).take(np.arange(200)), lists(1))


def test_users_who_were_erased_leave_lists_whose_keys_are_users(blobs: Blobs) -> None:
    def similar(*rows: tuple[int, int, float]) -> Lists:
        users, others, scores = (np.array(column) for column in zip(*rows, strict=True))
        return Lists.ranked(users, others, scores.astype(np.float32))

    # 1 is alike to 2 and 3, 2 to 1 alone, 3 to 1 and 2; items 1 and 2 are others than users 1 and 2
    whole = similar((1, 2, 0.9), (1, 3, 0.5), (2, 1, 0.9), (3, 1, 0.5), (3, 2, 0.4))
    publish(blobs, "user_cf", whole, "one", now=NOW, users="users")
    publish(blobs, "user_cf", whole, "two", now=NOW, users="users")
    publish(blobs, "taken", whole, "one", now=NOW, users="items")
    publish(blobs, "item_cf", whole, "one", now=NOW)
    assert erased(blobs) == 0
    # of each user_cf: the row of 1 goes, that of 2 held nobody else, that of 3 keeps 2; of taken the row of 1
    assert erase(blobs, np.array([1, 1]), 7) == 2 * 3 + 1
    assert erased(blobs) == 7
    for version in ("one", "two"):
        equal(Table(blobs, "user_cf", lambda: NOW, version).take(np.arange(9)), similar((3, 2, 0.4)))
    left = similar((2, 1, 0.9), (3, 1, 0.5), (3, 2, 0.4))
    equal(Table(blobs, "taken", lambda: NOW).take(np.arange(9)), left)
    equal(Table(blobs, "item_cf", lambda: NOW).take(np.arange(9)), whole)
    told = [(row.channel, row.version, row.rows, row.bytes) for row in kept(blobs)]
    # 12 bytes an item
    assert told == [
        ("item_cf", "one", 3, 60), ("taken", "one", 2, 36), ("user_cf", "two", 1, 12), ("user_cf", "one", 1, 12),
    ]  # fmt: skip
    assert erase(blobs, np.array([1]), 7) == 0
    assert rollback(blobs, "user_cf") == "one"
    publish(blobs, "user_cf", whole, "three", now=NOW, users="users")  # of files that may know 1 still
    assert erased(blobs) == 0


def test_what_a_store_may_hold(tmp_path: Path) -> None:
    mine = Built(lists(1), users={"form": "items"})
    points = Vectors(np.arange(2), np.ones((2, 3), dtype=np.float32))
    for name, form in (("one", mine), ("two", lists(1)), ("three", points)):
        save(tmp_path / name, kind="recall", name=name, form=form, fingerprint="", created_ms=NOW)
    assert [published(load(tmp_path / name)) for name in ("one", "two", "three")] == [True, True, False]


def test_a_release_publishes_its_lists(tmp_path: Path, blobs: Blobs) -> None:
    world = World(tmp_path)
    with closing(world.log):
        release = world.releases.load(world.publish())
        assert publish_release(release, blobs, now=NOW) == ("similar", "popular")
        assert publish_release(release, blobs, now=NOW) == ()
        for channel, form in (("similar", neighbours()), ("popular", hot())):
            read = Table(blobs, channel, lambda: NOW, release.id)
            equal(read.named(form.labels) if form.labels else read.take(form.keys), form)


def test_nothing_to_roll_back(blobs: Blobs) -> None:
    with pytest.raises(ArtifactError, match="there is no earlier version"):
        rollback(blobs, "similar")
    publish(blobs, "similar", lists(1), "one", now=NOW)
    with pytest.raises(ArtifactError, match="there is no earlier version"):
        rollback(blobs, "similar")


def test_lists_expire(blobs: Blobs) -> None:
    clock = [NOW]
    read = table(blobs, now=lambda: clock[0])
    publish(blobs, "similar", lists(1), "one", now=NOW, ttl_ms=1000)
    clock[0] = NOW + 999
    assert len(read.take(np.arange(200))) == 133
    clock[0] = NOW + 1000
    assert len(read.take(np.arange(200))) == 0
    publish(blobs, "similar", lists(2), "two", now=clock[0])
    equal(read.take(np.arange(200)), lists(2))


def test_an_empty_table_is_a_table(blobs: Blobs) -> None:
    publish(blobs, "similar", lists(1), "one", now=NOW)
    none = np.zeros(0, dtype=np.int64)
    publish(blobs, "similar", Lists(none, np.zeros(1, np.int64), none, none.astype(np.float32)), "two", now=NOW)
    assert (len(table(blobs).take(np.arange(200))), versions(blobs, "similar")) == (0, ("two", "one"))


class Breaking(Memory):
    """It breaks off after some transactions."""

    left = 10**9

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        self.left -= 1
        if self.left < 0:
            raise DataError("the disk is full", where="store", hint="free some space")
        super().put(changes, offset, replace=replace)


def test_a_publication_that_breaks_off_anywhere_leaves_the_old_answers() -> None:
    big = lists(2, keys=70_000, each=2)  # three transactions of rows, one of the pointer
    for left in range(4):
        blobs = Breaking()
        publish(blobs, "similar", lists(1), "one", now=NOW)
        read = table(blobs)
        blobs.left = left
        with pytest.raises(DataError, match="the disk is full"):
            publish(blobs, "similar", big, "two", now=NOW)
        equal(read.take(np.arange(200)), lists(1))
        blobs.left = 10**9
        publish(blobs, "similar", lists(3), "two", now=NOW)
        equal(read.take(np.arange(200)), lists(3))


def test_versions_are_never_mixed(blobs: Blobs) -> None:
    """All scores of version n are n: what one call reads has one score."""
    keys = np.arange(400, dtype=np.int64)

    def made(n: int) -> Lists:
        return Lists(keys, np.arange(401), keys, np.full(400, n, dtype=np.float32))

    publish(blobs, "similar", made(0), "0", now=NOW)
    wrong: list[object] = []
    seen: set[float] = set()
    stop = threading.Event()

    def look() -> None:
        read = table(blobs)
        try:
            while not stop.wait(0.0002):
                scores = set(read.take(keys).scores.tolist())
                seen.update(scores)
                if len(scores) != 1:
                    wrong.append(scores)
        except Exception as error:  # noqa: BLE001 (the test fails on it below)
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 120
    n = 0
    while not wrong and (n < 40 or len(seen) < 4) and time.monotonic() < deadline:
        n += 1
        publish(blobs, "similar", made(n), str(n), now=NOW)
        if n % 5 == 0:
            rollback(blobs, "similar")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(seen) > 3


def requests(users: int) -> Requests:
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 30, users)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    history = Ragged(
        offsets, rng.integers(0, 220, total), np.sort(rng.integers(0, NOW, total)), np.zeros(total, np.int16)
    )
    region = np.array(["north", "south", "nowhere", None], dtype=object)[np.arange(users) % 4]
    none = Ragged.empty(users)
    return Requests(np.arange(users), np.full(users, NOW), 5, history, none, none, {"region": region})


def some(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(items % 7 != 0)


SCHEMA = Schema.parse({"users": {"region": "sparse"}, "region": "region"})


def test_sources_answer_as_from_memory(blobs: Blobs) -> None:
    similar = lists(1)
    hot = Lists.ranked(
        np.repeat([0, 1, 2], 40), np.concatenate([np.random.default_rng(n).permutation(ITEMS)[:40] for n in range(3)]),
        np.random.default_rng(5).random(120).astype(np.float32), labels=("global", "region:north", "region:south"),
    )  # fmt: skip
    publish(blobs, "similar", similar, "one", now=NOW)
    publish(blobs, "popular", hot, "one", now=NOW)
    for config in (Neighbours.Config(), Neighbours.Config(last=None, half_life_hours=24.0)):
        held = Neighbours(config, similar, SCHEMA)
        kept = Neighbours(config, table(blobs), SCHEMA)
        for asked in (requests(40), requests(1)):
            for a, b in zip(held.recall(asked, 10, some), kept.recall(asked, 10, some), strict=True):
                np.testing.assert_array_equal(a, b)
    held_hot = Popular(Popular.Config(), hot, SCHEMA)
    kept_hot = Popular(Popular.Config(), table(blobs, "popular"), SCHEMA)
    for a, b in zip(held_hot.recall(requests(8), 10, some), kept_hot.recall(requests(8), 10, some), strict=True):
        np.testing.assert_array_equal(a, b)
    assert table(blobs, "popular").named(["region:south", "region:east"]).labels == ("region:south",)


def test_an_index_over_the_store_gathers_as_one_in_memory(blobs: Blobs) -> None:
    publish(blobs, "similar", lists(1), "one", now=NOW)
    rng = np.random.default_rng(6)
    owners, keys = np.sort(rng.integers(0, 9, 100)), rng.integers(0, 210, 100)
    weights = rng.random(100).astype(np.float32)
    held, kept = ListIndex(lists(1)), searchable(table(blobs))
    for a, b in zip(held.gather(owners, keys, weights), kept.gather(owners, keys, weights), strict=True):
        np.testing.assert_array_equal(a, b)


def test_damage_is_said(blobs: Blobs) -> None:
    publish(blobs, "similar", lists(1), "one", now=NOW)
    read = table(blobs)
    read.take(np.arange(3))
    blobs.put({"lists.similar/0": (np.array([1]), [b"short"])}, blobs.offset)
    with pytest.raises(ArtifactError) as caught:
        read.take(np.array([1]))
    assert str(caught.value) == "lists of similar: damaged: a row is cut off (publish them again)"
    blobs.put({"lists.similar": (np.array([0]), [b"{"])}, blobs.offset)
    with pytest.raises(ArtifactError, match="lists of similar: damaged: "):
        read.take(np.array([1]))


def test_lists_have_a_store_of_their_own(tmp_path: Path, server: Server) -> None:
    """Who follows the log holds the writer's place of another store: publishing goes on beside it."""
    for words in ("lmdb:", server.url):
        with (
            closing(open_store(words, tmp_path / "var", secrets.token_hex(32), write=True)),
            closing(open_store(words, tmp_path / "var", fingerprint("ab.0"), write=True)) as blobs,
        ):
            publish(blobs, "similar", lists(1), secrets.token_hex(4), now=NOW)
            equal(table(blobs).take(np.arange(200)), lists(1))


@pytest.mark.parametrize("name", catalogue(SOURCES))
def test_a_source_of_lists_takes_those_of_a_store(name: str) -> None:
    source: Any = find(name, [SOURCES], "source")
    takes = get_args(get_type_hints(source.__init__)["form"]) or (get_type_hints(source.__init__)["form"],)
    assert (Lists in takes) == (Kept in takes)
