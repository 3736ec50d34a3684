"""Compiled loops: what happens where nothing may be cached, and that threads change nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching
from numpy.typing import NDArray

from shortlist.tables.compiled import Files, in_blocks, loop, summing


def total(values: NDArray[np.float64]) -> float:
    out = 0.0
    for value in values:
        out += value
    return out


def test_without_a_writable_folder_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    assert loop(total)(np.array([1.0, 2.0, 4.0])) == 7.0


def test_sums_may_be_taken_in_any_order() -> None:
    # 1 + 2 + ... + 1000, which no order rounds
    values = np.arange(1, 1001, dtype=np.float64)
    assert loop(total)(values) == summing(total)(values) == 1000 * 1001 / 2


def test_the_cache_goes_where_it_is_told_and_serves_the_next_process(tmp_path: Path) -> None:
    script = (
        "import numpy as np\n"
        "from shortlist.models.blocks.cooccurrence import by_item\n"
        "one = np.zeros(1, dtype=np.int32)\n"
        "by_item(np.array([0, 1]), one, 1, one)\n"
        "print(*by_item.stats.cache_hits.values())"
    )
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""}
    hits = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert [line.strip() for line in hits] == ["", "1"]
    assert list(tmp_path.rglob("*.nbi"))


def test_processes_that_compile_at_once_do_not_take_each_others_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (Files(str(tmp_path), "f", "first source") for _ in range(2))
    with monkeypatch.context() as before:
        before.setattr(two, "_load_index", dict)  # it looked when there was nothing yet
        one.save("integers", b"1")
        two.save("reals", b"2")
    assert (one.load("integers"), one.load("reals")) == (None, b"2")  # one is forgotten, none is mistaken
    one.save("integers", b"1")
    assert (two.load("integers"), two.load("reals")) == (b"1", b"2")

    named = one._load_index()["integers"]
    changed = Files(str(tmp_path), "f", "second source")
    assert changed.load("integers") is None
    changed.save("integers", b"3")
    assert one._load_data(named) == b"1"  # who read the index before still finds what it named
    assert (changed.load("integers"), one.load("integers")) == (b"3", None)


def test_code_is_there_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(str(tmp_path), "f", "source")

    def broken_off(_: object) -> None:
        assert list(tmp_path.glob("f.*.nbc"))
        raise OSError

    monkeypatch.setattr(files, "_save_index", broken_off)
    with pytest.raises(OSError):  # noqa: PT011
        files.save("integers", b"1")
    assert files.load("integers") is None


def test_a_change_in_a_loop_that_is_called_is_noticed(tmp_path: Path) -> None:
    """The caller's own file stays as it is."""
    head = "from shortlist.tables.compiled import loop\n"
    caller = tmp_path / "caller.py"
    caller.write_text(f"{head}from called import step\n\n@loop\ndef walk(n):\n    return step(n) * 10\n")
    said = []
    for step in ("n + 1", "n + 2", "n + 2"):
        (tmp_path / "called.py").write_text(f"{head}\n@loop\ndef step(n):\n    return {step}\n")
        script = "from caller import walk\nprint(walk(1), sum(walk.stats.cache_hits.values()))"
        done = subprocess.run(
            [sys.executable, "-B", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        said.append(done.stdout.split())
    assert said == [["20", "0"], ["30", "0"], ["30", "1"]]


def test_loops_are_kept_so() -> None:
    from shortlist.models.blocks.cooccurrence import by_item

    assert type(by_item._cache._cache_file) is Files  # type: ignore[attr-defined]


def test_blocks_come_back_in_order() -> None:
    assert in_blocks(lambda low, high: (low, high), 10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert in_blocks(lambda low, high: (low, high), 0, 4) == []


def test_the_library_loads_without_the_compiler() -> None:
    script = "import sys, shortlist.models.recall.item_cf; print('numba' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
