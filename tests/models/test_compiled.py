"""Compiled loops: what happens where nothing may be cached, and that threads change nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching
from numpy.typing import NDArray

from shortlist.models.blocks.compiled import in_blocks, loop


def total(values: NDArray[np.float64]) -> float:
    out = 0.0
    for value in values:
        out += value
    return out


def test_without_a_writable_folder_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    assert loop(total)(np.array([1.0, 2.0, 4.0])) == 7.0


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


def test_blocks_come_back_in_order() -> None:
    assert in_blocks(lambda low, high: (low, high), 10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert in_blocks(lambda low, high: (low, high), 0, 4) == []


def test_the_library_loads_without_the_compiler() -> None:
    script = "import sys, shortlist.models.recall.item_cf; print('numba' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
