"""Assignment: exact by hash, in proportion, independent between layers, and still under changes."""

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shortlist.config import Arm, ExperimentConfig
from shortlist.experiments.assignment import Layer

UNITS = [f"user-{n}" for n in range(20_000)]


def layer(name: str = "ranker", salt: str = "", **shares: float) -> Layer:
    return Layer.of(
        ExperimentConfig(name, {arm: Arm(f"scene-{arm}", share) for arm, share in shares.items()}, salt=salt)
    )


def test_the_hash_is_fixed() -> None:
    """Anyone can recompute an assignment from the salt and the id; a release may not change it."""
    key = blake2b(b"ranker", digest_size=32).digest()
    digest = blake2b(b"user-7", digest_size=16, key=key).digest()
    place = int.from_bytes(digest[8:], "little") / 2**64
    assert layer(a=0.5, b=0.5).assign("user-7") == ("a" if place < 0.5 else "b")
    assert [layer(a=0.5, b=0.5).assign(unit) for unit in UNITS[:8]] == list("bbabaabb")


def test_shares_are_kept() -> None:
    counts = layer(a=0.1, b=0.3, c=0.4).counts(UNITS)
    expected = [2000, 6000, 8000, 4000]  # the last fifth is held out
    assert stats.chisquare([counts["a"], counts["b"], counts["c"], counts[None]], expected).pvalue > 0.01
    assert sum(counts.values()) == len(UNITS)


def test_layers_are_independent() -> None:
    one, two = layer("one", a=0.5, b=0.5), layer("two", a=0.5, b=0.5)
    table = np.zeros((2, 2))
    for unit in UNITS:
        table["ab".index(one.assign(unit) or ""), "ab".index(two.assign(unit) or "")] += 1
    assert stats.chi2_contingency(table).pvalue > 0.01
    # whether a unit is enrolled says nothing about its arm in another layer
    half = layer("three", a=0.25, b=0.25)
    table = np.zeros((2, 2))
    for unit in UNITS:
        table["ab".index(one.assign(unit) or ""), int(half.assign(unit) is None)] += 1
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_a_new_salt_is_a_new_draw() -> None:
    old, new = layer(salt="1", a=0.5, b=0.5), layer(salt="2", a=0.5, b=0.5)
    same = sum(old.assign(unit) == new.assign(unit) for unit in UNITS)
    assert stats.binomtest(same, len(UNITS), 0.5).pvalue > 0.01
    assert layer("ranker", a=0.5, b=0.5).key == layer("other", salt="ranker", a=0.5, b=0.5).key


def test_the_order_in_the_file_does_not_matter() -> None:
    forward, backward = layer(a=0.2, b=0.3, c=0.1), layer(c=0.1, b=0.3, a=0.2)
    assert [forward.assign(unit) for unit in UNITS[:500]] == [backward.assign(unit) for unit in UNITS[:500]]


def test_a_ramp_moves_nobody_who_is_in() -> None:
    small, large = layer(a=0.05, b=0.05), layer(a=0.4, b=0.4)
    for unit in UNITS:
        arm = small.assign(unit)
        assert arm is None or large.assign(unit) == arm
    assert large.counts(UNITS)[None] < small.counts(UNITS)[None]


def test_all_or_nobody() -> None:
    assert layer(a=0.1, b=0.2, c=0.7).counts(UNITS)[None] == 0  # 0.1 + 0.2 + 0.7 is 0.9999999999999999
    assert layer(a=0.0).counts(UNITS[:50]) == {None: 50}
    assert layer(a=1.0, b=0.0).counts(UNITS[:50]) == {"a": 50, None: 0}
    assert layer(a=1.0).scene("x") == "scene-a"
    assert layer(a=0.0).scene("x") is None


@given(st.text(max_size=300), st.text(max_size=80))
def test_any_id_and_salt_are_assigned_the_same_way_twice(unit: str, salt: str) -> None:
    unit, salt = (text.encode("utf-8", "ignore").decode() for text in (unit, salt))
    assert layer(salt=salt, a=0.5, b=0.3).assign(unit) == layer(salt=salt, a=0.5, b=0.3).assign(unit)


@pytest.mark.parametrize("unit", ["user", "request"])
def test_the_unit_is_carried(unit: str) -> None:
    assert Layer.of(ExperimentConfig("x", {"a": Arm("home", 1.0)}, unit)).unit == unit  # type: ignore[arg-type]
