"""A damaged file: the project's own is set aside and filled anew, one that others may have is refused."""

import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.serving import world as serving

from shortlist.config import load
from shortlist.errors import DataError
from shortlist.feedback.live import open_engine
from shortlist.store.opening import open_store

NOW, PRINT = serving.NOW, "ab" * 32


def made(folder: Path, words: str) -> Path:
    """A store with one blob. Returns its file."""
    with closing(open_store(words, folder / "var", PRINT, write=True)) as store:
        store.put({"user": (np.array([1]), [b"one"])}, 5)
    return next(folder.rglob("data.mdb"))


def hint(file: Path) -> str:
    return f"{file.parent}: not a store, or a damaged one: "


@pytest.mark.parametrize("damage", [b"not a store at all", b"\0" * 20_000])
def test_the_own_one_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    file = made(tmp_path, "lmdb:")
    file.write_bytes(damage)
    with caplog.at_level(logging.WARNING), closing(open_store("lmdb:", tmp_path / "var", PRINT, write=False)) as store:
        assert (store.offset, store.get("user", np.array([1]))) == (0, [None])
        store.put({"user": (np.array([1]), [b"two"])}, 7)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(f"{file.parent}: not a store, or a damaged one: ")
    assert told[0].endswith("; set aside as data.mdb.damaged, and filled anew")
    assert (file.parent / "data.mdb.damaged").read_bytes() == damage
    with closing(open_store("lmdb:", tmp_path / "var", PRINT, write=False)) as store:
        assert (store.offset, store.get("user", np.array([1]))) == (7, [b"two"])
    assert len(caplog.records) == 1


def test_one_that_somebody_writes_is_left_to_them(tmp_path: Path) -> None:
    import fcntl

    file = made(tmp_path, "lmdb:")
    file.write_bytes(b"not a store at all")
    with (file.parent / "writer").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError) as caught:
            open_store("lmdb:", tmp_path / "var", PRINT, write=False)
    assert str(caught.value).startswith(hint(file))
    assert file.read_bytes() == b"not a store at all"


def test_one_that_others_may_have_is_refused(tmp_path: Path) -> None:
    file = made(tmp_path, "lmdb:shared")
    file.write_bytes(b"not a store at all")
    with pytest.raises(DataError) as caught:
        open_store("lmdb:shared", tmp_path / "var", PRINT, write=False)
    assert str(caught.value).startswith(hint(file))
    assert str(caught.value).endswith("(delete the folder, then run `shortlist backfill`)")
    assert file.read_bytes() == b"not a store at all"


def test_a_server_fills_it_from_the_log_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = serving.World(tmp_path / "var")
    (tmp_path / "shortlist.toml").write_text("[serve]\ndeadline_ms = 20000.0\n", encoding="utf-8")
    with closing(world.log):
        world.publish()

    def page() -> list[str]:
        with open_engine(load(tmp_path), follow=True) as engine:
            answer = engine.recommend("ann", now=NOW, preview=True)
            assert not answer.degraded
            return [shown.item for shown in answer.items]

    before = page()
    file = next((tmp_path / "var" / "store").rglob("data.mdb"))
    file.write_bytes(b"\0" * len(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert page() == before
    assert [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert not [record for record in caplog.records if "does not follow" in record.getMessage()]
