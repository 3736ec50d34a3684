"""Presets stay as they were when what is measured on them was measured, and their logs stay like MovieLens."""

import hashlib
import json

import numpy as np
from bench.world import likeness
from pytest import approx
from tests.simulation.logs import generate, only, run

from shortlist.config import plain
from shortlist.simulation.policies.popularity import Popularity
from shortlist.simulation.sizes import SIZES
from shortlist.simulation.truth import AFTER, BAIT_LOGIT, BIAS, CLICK

FROZEN = "594b6b0159adb60e"


def test_presets_are_frozen() -> None:
    """Who changes one measures everything that was measured on it anew, docs/results.md first."""
    words = {name: plain(config) for name, config in SIZES.items()}
    numbers = [words, plain(Popularity.Config()), AFTER, BAIT_LOGIT, BIAS]
    assert hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16] == FROZEN


def test_a_log_is_like_movielens() -> None:
    """ml-1m has 0.086 of its pairs on the top 1 % of items, 0.443 on the top 10 %, and EASE finds 2.15 times what hot
    items do (docs/results.md; `python -m bench.world` measures it there). Size M was tuned on these; S, a fifth of its
    events, is near them."""
    clicks = only(run(generate(SIZES["S"]), "popularity"), CLICK)
    found = likeness("S", clicks.interactions(), 0)
    assert found["top 1 %"] == approx(0.086, abs=0.03)
    assert found["top 10 %"] == approx(0.443, abs=0.06)
    assert 1.5 < found["ratio ndcg@10"] < 2.8
    assert np.isfinite(found["hot ndcg@10"])
