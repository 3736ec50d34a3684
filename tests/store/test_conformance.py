"""What every home of online state must do: add one to `HOMES` and it is held to the same."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.store.servers import Server
from tests.waiting import until

from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.store.blobs import Blobs, Change
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.opening import open_store
from shortlist.store.redis import Redis

Home = Callable[[], Blobs]  # the same store, opened once more
HOMES = ("memory", "lmdb", "redis")
SHARED = ("lmdb", "redis")  # those that a second process can open


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    name = request.param
    with ExitStack() as stack:
        fingerprint = secrets.token_hex(32)
        if name == "memory":
            only = Memory(fingerprint)
            yield lambda: only
        elif name == "lmdb":
            # a map that is too small from the start: it has to grow wherever a test writes much
            yield lambda: stack.enter_context(closing(Lmdb(tmp_path / "store", fingerprint, map_bytes=2**17)))
        else:
            server = request.getfixturevalue("server")
            yield lambda: stack.enter_context(closing(Redis(server.url, fingerprint)))


every = pytest.mark.parametrize("home", HOMES, indirect=True)
shared = pytest.mark.parametrize("home", SHARED, indirect=True)


def keys(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def change(table: Mapping[int, bytes | None]) -> Change:
    return np.array(list(table), dtype=np.int64), list(table.values())


@every
class TestReading:
    def test_a_new_store_is_empty(self, home: Home) -> None:
        store = home()
        assert (store.offset, store.sizes(), store.keys("user").tolist()) == (0, {}, [])
        assert store.get("user", keys(0, 5)) == [None, None]
        assert store.get("user", keys()) == []
        assert store.read({}) == ({}, 0)

    def test_blobs_come_in_the_order_asked_and_what_is_missing_is_none(self, home: Home) -> None:
        store = home()
        store.put({"user": change({7: b"seven", 2: b"two", 2**62: b"far"})}, 3)
        assert store.get("user", keys(2, 9, 7, 2, -1, 2**62)) == [b"two", None, b"seven", b"two", None, b"far"]
        assert store.get("item", keys(7)) == [None]

    def test_namespaces_are_apart_and_read_together(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"u"}), "item": change({1: b"i", 2: b"j"})}, 8)
        found = store.read({"item": keys(2, 1), "user": keys(1), "value": keys(1), "none": keys()})
        assert found == ({"item": [b"j", b"i"], "user": [b"u"], "value": [None], "none": []}, 8)

    def test_keys_ascend_and_sizes_count_bytes(self, home: Home) -> None:
        store = home()
        store.put({"user": change({300: b"abc", 2: b"", 255: b"xy", 256: b"z"}), "item": change({5: b"12345"})}, 1)
        assert store.keys("user").tolist() == [2, 255, 256, 300]
        assert store.keys("user").dtype == np.int64
        assert store.sizes() == {"item": (1, 5), "user": (4, 6)}

    def test_any_name_and_any_bytes(self, home: Home) -> None:
        store = home()
        name, blob = "lists.日本 ü:{*}/\n", bytes(range(256))
        store.put({name: change({0: blob}), "lists.日本": change({0: b"other"})}, 1)
        assert home().get(name, keys(0)) == [blob]
        assert store.sizes() == {"lists.日本": (1, 5), name: (1, 256)}

    def test_a_big_blob(self, home: Home) -> None:
        blob = np.random.default_rng(0).bytes(3_000_000)
        home().put({"user": change({1: blob, 2: b"small"})}, 1)
        assert home().get("user", keys(2, 1)) == [b"small", blob]


@every
class TestWriting:
    def test_a_blob_is_replaced_and_deleted(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"a", 2: b"b", 3: b"c"})}, 1)
        store.put({"user": change({1: b"longer than before", 2: None, 9: None})}, 2)
        assert store.get("user", keys(1, 2, 3, 9)) == [b"longer than before", None, b"c", None]
        assert (store.offset, store.keys("user").tolist()) == (2, [1, 3])
        store.put({"user": change({1: None, 3: None})}, 3)
        assert (store.sizes(), store.offset) == ({}, 3)

    def test_an_offset_moves_alone(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"a"})}, 1)
        store.put({}, 9)
        store.put({"item": change({})}, 10)
        assert (store.offset, store.get("user", keys(1)), store.sizes()) == (10, [b"a"], {"user": (1, 1)})

    def test_replace_drops_what_is_named_and_nothing_else(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"a", 2: b"b"}), "item": change({1: b"i"}), "value": change({1: b"v"})}, 1)
        store.put({"user": change({2: b"new"}), "value": change({})}, 2, replace=True)
        assert store.sizes() == {"item": (1, 1), "user": (1, 3)}
        assert store.get("user", keys(1, 2)) == [None, b"new"]

    def test_what_was_read_does_not_change(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"before"})}, 1)
        held = store.get("user", keys(1))
        store.put({"user": change({1: b"behind"})}, 2)
        assert held == [b"before"]

    def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"a"})}, 1)
        for wrong, what in (
            ((keys(1, 1), [b"x", b"y"]), "user: keys must be distinct and not negative"),
            ((keys(-1), [b"x"]), "user: keys must be distinct and not negative"),
            ((keys(1, 2), [b"x"]), "user: 2 keys and 1 blobs"),
        ):
            with pytest.raises(ValueError, match=what):
                store.put({"user": wrong}, 2)
            with pytest.raises(ValueError, match=what):
                store.stage({"user": wrong})
        assert (store.offset, store.get("user", keys(1, 2))) == (1, [b"a", None])

    def test_a_hundred_thousand_keys(self, home: Home) -> None:
        rng = np.random.default_rng(1)
        every = rng.permutation(200_000)[:100_000].astype(np.int64)
        blobs = [b"%d" % key for key in every.tolist()]
        store = home()
        store.put({"user": (every, blobs)}, 5)
        # the digits of the keys, added up
        assert store.sizes() == {"user": (100_000, sum(map(len, blobs)))}
        np.testing.assert_array_equal(store.keys("user"), np.sort(every))
        asked = rng.integers(0, 200_000, 500)
        there = set(every.tolist())
        assert store.get("user", asked) == [b"%d" % k if k in there else None for k in asked.tolist()]
        store.put({"user": (every[:99_999], [None] * 99_999)}, 6)
        assert store.sizes() == {"user": (1, len(blobs[-1]))}


@every
class TestStaging:
    def test_nobody_sees_what_is_laid_aside_until_it_is_adopted(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"old", 2: b"old"}), "item": change({1: b"old"})}, 4)
        store.stage({"user": change({1: b"new"})}, first=True)
        store.stage({"user": change({3: b"new"}), "value": change({8: b"v"})})
        assert (store.offset, store.get("user", keys(1, 2, 3))) == (4, [b"old", b"old", None])
        assert store.sizes() == {"item": (1, 3), "user": (2, 6)}
        store.adopt(9)
        assert (store.offset, store.get("user", keys(1, 2, 3))) == (9, [b"new", None, b"new"])
        assert store.sizes() == {"user": (2, 6), "value": (1, 1)}
        assert home().sizes() == store.sizes()

    def test_what_broke_off_is_dropped_by_the_next(self, home: Home) -> None:
        store = home()
        store.stage({"user": change({1: b"broken", 2: b"off"}), "item": change({1: b"too"})}, first=True)
        store.stage({"user": change({2: b"whole"})}, first=True)
        store.adopt(1)
        assert store.sizes() == {"user": (1, 5)}
        store.put({"user": change({5: b"on"})}, 2)
        store.stage({"item": change({1: b"again", 2: None})}, first=True)
        store.adopt(3)
        assert (store.sizes(), store.offset) == ({"item": (1, 5)}, 3)

    def test_nothing_laid_aside_is_an_empty_state(self, home: Home) -> None:
        store = home()
        store.put({"user": change({1: b"a"})}, 4)
        store.stage({"user": change({}), "item": change({})}, first=True)
        store.adopt(7)
        assert (store.sizes(), store.offset) == ({}, 7)


@every
def test_readers_see_whole_states(home: Home) -> None:
    """Batch n writes n into ten users and ten items and stands at n; every tenth is staged and adopted instead."""
    readers = [home() for _ in range(2)]
    writer = home()
    writer.put({name: change(dict.fromkeys(range(10), b"0")) for name in ("user", "item")}, 0)
    wrong: list[object] = []
    seen: set[int] = set()
    stop = threading.Event()
    asked = {"user": np.arange(10), "item": np.arange(10)}

    def look(store: Blobs) -> None:
        try:
            while not stop.wait(0.0002):  # a loop without a pause would only fight for the interpreter
                found, offset = store.read(asked)
                seen.add(offset)
                if found != {name: [b"%d" % offset] * 10 for name in asked}:
                    wrong.append((offset, found))
        except Exception as error:  # noqa: BLE001 (the test fails on it below)
            wrong.append(error)

    threads = [threading.Thread(target=look, args=(store,)) for store in readers]
    for thread in threads:
        thread.start()
    for n in range(1, 200):
        until(lambda: bool(wrong) or len(seen) >= min(6, n))  # noqa: B023
        some = {name: change(dict.fromkeys(range(10), b"%d" % n)) for name in asked}
        if n % 10:
            writer.put(some, n)
        else:
            writer.stage({"user": some["user"]}, first=True)
            writer.stage({"item": some["item"]})
            writer.adopt(n)
        time.sleep(0.0005)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(seen) >= 6
    assert writer.read(asked)[1] == 199


@shared
class TestSharing:
    def test_what_is_written_stays(self, home: Home) -> None:
        with closing(home()) as store:
            store.put({"user": change({1: b"a"})}, 4)
        with closing(home()) as again:
            assert (again.get("user", keys(1)), again.offset) == ([b"a"], 4)

    def test_a_reader_sees_what_a_writer_has_just_made(self, home: Home) -> None:
        reader, writer = home(), home()
        assert reader.get("user", keys(1)) == [None]
        writer.put({"user": change({1: b"a"}), "new": change({1: b"n"})}, 1)
        assert reader.read({"user": keys(1), "new": keys(1)}) == ({"user": [b"a"], "new": [b"n"]}, 1)

    def test_a_second_writer_is_refused_until_the_first_has_gone(self, home: Home) -> None:
        first, second = home(), home()
        first.claim()
        first.claim()
        with pytest.raises(DataError) as caught:
            second.claim()
        assert caught.value.what.startswith("another process writes this store")
        assert caught.value.hint == "one process writes a store: end it, or let this one read only"
        with pytest.raises(DataError, match="another process writes this store"):
            second.put({"user": change({1: b"x"})}, 1)
        assert second.get("user", keys(1)) == [None]
        first.put({"user": change({1: b"a"})}, 1)
        first.close()
        second.put({"user": change({1: b"b"})}, 2)
        assert (second.get("user", keys(1)), second.offset) == ([b"b"], 2)


TABLES = st.dictionaries(st.integers(0, 5), st.one_of(st.none(), st.binary(max_size=6)), max_size=6)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "replace", "stage", "first", "adopt"]),
        st.dictionaries(st.sampled_from(["user", "item"]), TABLES, max_size=2),
    ),
    max_size=8,
)


@every
@settings(max_examples=60)
@given(steps=STEPS)
def test_any_steps_end_as_in_plain_dicts(
    home: Home, steps: list[tuple[str, dict[str, dict[int, bytes | None]]]]
) -> None:
    with closing(home()) as store:
        store.stage({}, first=True)
        store.adopt(0)
        live: dict[str, dict[int, bytes]] = {}
        aside: dict[str, dict[int, bytes]] = {}
        for n, (step, tables) in enumerate(steps, start=1):
            if step == "adopt":
                store.adopt(n)
                live, aside = aside, {}
            else:
                changes = {name: change(table) for name, table in tables.items()}
                if step in ("put", "replace"):
                    store.put(changes, n, replace=step == "replace")
                else:
                    store.stage(changes, first=step == "first")
                aside = {} if step == "first" else aside
                for name, table in tables.items():
                    side = (live if step in ("put", "replace") else aside).setdefault(name, {})
                    if step == "replace":
                        side.clear()
                    side.update({k: v for k, v in table.items() if v is not None})
                    for k in [k for k, v in table.items() if v is None]:
                        side.pop(k, None)
            assert store.sizes() == {k: (len(v), sum(map(len, v.values()))) for k, v in sorted(live.items()) if v}
        for name in ("user", "item"):
            assert store.get(name, np.arange(6)) == [live.get(name, {}).get(k) for k in range(6)]


class TestWords:
    def test_each_form_opens_its_home(self, tmp_path: Path, server: Server) -> None:
        var = tmp_path / "var"
        for words, kind, place in (
            ("memory:", Memory, None),
            ("lmdb:", Lmdb, var / "store" / "0123456789ab"),
            ("lmdb:elsewhere/state", Lmdb, tmp_path / "elsewhere" / "state" / "0123456789ab"),
            (f"lmdb:{tmp_path}/absolute", Lmdb, tmp_path / "absolute" / "0123456789ab"),
            (server.url, Redis, None),
            (server.url.removesuffix("/0"), Redis, None),
            (f"{server.url}?ttl_days=30", Redis, None),
        ):
            with closing(open_store(words, var, "0123456789abcdef" * 4, write=True)) as store:
                assert isinstance(store, kind), words
                assert store.sizes() == {}
            assert place is None or (place / "data.mdb").is_file()

    @pytest.mark.parametrize("words", ["", "memory", "memory:x", "sqlite:", "lmdb", "lmdb://x", "LMDB:", "dict:"])
    def test_a_wrong_word_names_the_forms(self, words: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            open_store(words, tmp_path, "f" * 64, write=False)
        hint = "write memory:, lmdb:, lmdb:PATH or redis://HOST:PORT/DB"
        assert str(caught.value) == f"serve.store: no store is called {words!r} ({hint})"

    @pytest.mark.parametrize(
        "words",
        ["redis:", "redis://", "redis://h/zero", "redis://h/0?ttl=5", "redis://h/0?ttl_days=x", "redis://h:x/0"],
    )
    def test_a_wrong_address_is_said(self, words: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            open_store(words, tmp_path, "f" * 64, write=False)
        assert caught.value.where == "serve.store"
        assert caught.value.what.startswith(("not the address of a Redis: ", "not an address: "))

    def test_a_password_is_not_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            open_store("redis://me:secret@h/zero", tmp_path, "f" * 64, write=False)
        assert caught.value.what == "not the address of a Redis: 'redis://h/zero'"
        with pytest.raises(DataError) as reached:
            open_store("redis://me:secret@127.0.0.1:1/0", tmp_path, "f" * 64, write=False)
        assert "secret" not in str(reached.value)

    def test_opening_for_writing_claims(self, tmp_path: Path, server: Server) -> None:
        for words in ("lmdb:", server.url):
            fingerprint = secrets.token_hex(32)
            with closing(open_store(words, tmp_path, fingerprint, write=True)):
                with pytest.raises(DataError, match="another process writes this store"):
                    open_store(words, tmp_path, fingerprint, write=True)
                with closing(open_store(words, tmp_path, fingerprint, write=False)) as reader:
                    assert reader.offset == 0

    def test_a_store_of_another_fingerprint_is_refused(self, tmp_path: Path, server: Server) -> None:
        ours, theirs = "aaaaaaaaaaaa" + "1" * 52, "aaaaaaaaaaaa" + "2" * 52  # alike in what names the place
        for words, hint in (
            ("lmdb:", "delete the folder, then run `shortlist backfill`"),
            (server.url, "use another database, then run `shortlist backfill`"),
        ):
            open_store(words, tmp_path / "var", ours, write=True).close()
            with pytest.raises(ArtifactError) as caught:
                open_store(words, tmp_path / "var", theirs, write=False)
            assert caught.value.what == "a store of other features: aaaaaaaaaaaa, not aaaaaaaaaaaa"
            assert caught.value.hint == hint
            open_store(words, tmp_path / "var", ours, write=True).close()
