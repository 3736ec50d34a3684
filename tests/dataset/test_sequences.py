"""Sequences for all-step training, and what is left out of them."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shortlist.dataset.interactions import Interactions
from shortlist.dataset.loader import Loader
from shortlist.dataset.sequences import Sequences
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders, Known
from shortlist.schema import Catalogue, Profiles, Schema

LISTS = [[10, 20, 30, 40, 50], [20], [30, 10], [40, 99, 10]]
KNOWN = Known.fit(np.array([10, 20, 30, 40, 50]))  # ids 2..6; 99 is not known


def parts(sequences: Sequences, rows: list[int]) -> tuple[list[list[int]], list[int], list[list[int]]]:
    batch = sequences.batch(np.array(rows))
    group = batch.request.groups["history"]
    assert batch.targets is not None
    return group.channels["item"].tolist(), group.length.tolist(), batch.targets.tolist()


def test_hand_values() -> None:
    made = Sequences.lists(LISTS, KNOWN)
    assert made.at.tolist() == [0, 2, 3]  # one step alone has nothing to follow it
    items, lengths, targets = parts(made, [0, 1, 2])
    assert items == [[2, 3, 4, 5], [4, 0, 0, 0], [5, 1, 0, 0]]
    assert lengths == [4, 1, 2]
    assert targets == [[3, 4, 5, 6], [2, 0, 0, 0], [0, 2, 0, 0]]  # an unknown item is never a target
    assert made.lengths.tolist() == [4, 1, 2]
    # 10 follows twice, 20, 30, 40, 50 once
    assert made.counts.tolist() == [2, 1, 1, 1, 1]
    assert made.batch(np.array([0, 2])).row["item.id"].tolist() == [6, 2]
    assert made.layout.vocabularies == {"item.id": 7}


def test_the_last_steps_are_kept() -> None:
    made = Sequences.lists(LISTS, KNOWN, length=2)
    assert parts(made, [0]) == ([[4, 5]], [2], [[5, 6]])
    assert made.counts.tolist() == [2, 0, 0, 1, 1]
    assert parts(made, [1]) == ([[4]], [1], [[2]])  # padded to its own longest, not to 2


def test_left_out() -> None:
    made = Sequences.lists(LISTS, KNOWN, hold=2)
    assert made.at.tolist() == [0]
    assert parts(made, [0]) == ([[2, 3]], [2], [[3, 4]])
    valid, test = made.left_out(2), made.left_out(1)
    assert (valid.at.tolist(), valid.answers.tolist()) == ([0, 3], [5, 1])
    assert valid.batch(np.array([0])).request.groups["history"].channels["item"].tolist() == [[2, 3, 4]]
    assert (test.at.tolist(), test.answers.tolist()) == ([0, 2, 3], [6, 2, 2])
    asked = test.batch(np.array([0, 1, 2]))
    assert asked.request.groups["history"].channels["item"].tolist() == [[2, 3, 4, 5], [4, 0, 0, 0], [5, 1, 0, 0]]
    assert asked.row["item.id"].tolist() == [6, 2, 2]
    assert asked.targets is None


def test_what_is_held_is_never_a_target() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.permutation(30)[: rng.integers(1, 12)].tolist() for _ in range(50)]
    made = Sequences.lists(lists, length=4, hold=2)
    for row, at in enumerate(made.at):
        batch = made.batch(np.array([row]))
        assert batch.targets is not None
        seen = {*batch.targets.ravel().tolist(), *batch.request.groups["history"].channels["item"].ravel().tolist()}
        # items are distinct inside a list here, and id = key + 2 as all keys 0..29 appear
        assert not seen & {key + 2 for key in lists[at][-2:]}


def test_of_interactions() -> None:
    schema = Schema.parse(
        {"action": "what", "actions": {"seen": {"weight": 0}, "click": {}}, "items": {"category": "sparse"}}
    )
    items = Profiles.from_frame(pl.DataFrame({"key": [0, 1, 2], "category": ["a", "b", "a"]}))
    catalogue = Catalogue(Catalogue.empty().users, items)
    users, asked = np.array([5, 3, 5, 5, 3]), np.array([0, 1, 1, 2, 0])
    log = Interactions.of(users, asked, np.array([1, 1, 2, 3, 2]), np.array([1, 1, 0, 1, 1], dtype=np.int16))
    make = Assembler(schema, Encoders.fit(schema, catalogue, users, asked), catalogue)
    made = Sequences.of(log, make)
    batch = made.batch(np.arange(len(made)))
    group = batch.request.groups["history"]
    assert list(group.channels) == ["item", "action", "item.category"] == list(made.layout.request.groups["history"])
    # user 3: 1 then 0; user 5: 0, then (1 only seen) 2. Category a is id 2, b 3; click is the second action
    assert group.channels["item"].tolist() == [[3], [2]]
    assert group.channels["item.category"].tolist() == [[3], [2]]
    assert group.channels["action"].tolist() == [[3], [3]]
    assert batch.targets is not None
    assert batch.targets.tolist() == [[2], [4]]
    full = make.layout()
    assert made.layout.vocabularies == {
        name: full.vocabularies[name] for name in ("item.id", "history.action", "item.category")
    }


def test_messages() -> None:
    with pytest.raises(DataError) as caught:
        Sequences.lists([[1], [2, 3, 4]], hold=2)
    assert str(caught.value) == (
        "sequences: none of 2 sequences has 2 steps besides the 2 held out (lower hold, or give longer ones)"
    )
    layout = Sequences.lists([[1, 2]]).layout
    with pytest.raises(DataError) as caught:
        Sequences(np.array([0, 3]), {"item": np.array([2, 3])}, layout)
    assert str(caught.value) == "sequences: channel 'item' has 2 steps, offsets end at 3 (give one value a step)"


def test_buckets_spare_padding() -> None:
    rng = np.random.default_rng(1)
    made = Sequences.lists([rng.integers(0, 50, n).tolist() for n in rng.integers(2, 51, 2000)])

    def padded(loader: Loader) -> float:
        cells = [batch.request.groups["history"].channels["item"].numel() for batch in loader]
        return 1 - int(made.lengths.sum()) / sum(cells)

    # lengths uniform to 49: a random batch of 32 is about half padding
    assert padded(Loader(made, 32, 0, shuffle=False)) > 0.4
    # 50 batches hold each of 49 lengths some 33 times, so one of 32 has two lengths: one step of some 25 is padding
    assert padded(Loader(made, 32, 0)) < 1 / 25


@pytest.mark.skipif(not os.environ.get("SHORTLIST_DATA"), reason="reads a published file: SHORTLIST_DATA")
def test_a_published_file() -> None:
    table = pl.read_parquet(Path(os.environ["SHORTLIST_DATA"]) / "s3rec-sequences" / "Beauty.sequences.parquet")
    made = Sequences.lists(table["item_seq"].to_list(), hold=2)
    # S3-Rec, table 1: Beauty has 22,363 users, 12,101 items and 198,502 actions, five a user at least
    assert (len(table), made.layout.vocabularies["item.id"] - 2, int(made.offsets[-1])) == (22_363, 12_101, 198_502)
    assert len(made) == len(made.left_out(1)) == 22_363
