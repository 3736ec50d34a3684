"""A project as it is meant: what no part owns is refused, wherever it stands; what is read is what is shown."""

import math
from typing import Any

import pytest

from shortlist.config import parse
from shortlist.errors import ConfigError
from shortlist.funnel.effective import effective
from shortlist.schema import Schema

SCHEMA = {"items": {"genre": "varlen"}, "tasks": {"liked": {"positive": "click", "on": {"sample": "mixed"}}}}
HOT, EASE = {"name": "hot", "use": "hot"}, {"name": "ease", "use": "ease"}
TOWERS = {"name": "towers", "use": "dssm"}


def shown(**table: Any) -> dict[str, Any]:
    config = parse({"schema": SCHEMA, "recall": [HOT], **table})
    return effective(config, Schema.parse(config.schema))


def rule(**changes: Any) -> dict[str, Any]:
    return {"rerank": {"use": "mmr", "rules": [{"at_most": 1, "of": "genre", "per": 2, **changes}]}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"merge": "snaek"}, "merge: nothing is called 'snaek' (did you mean snake?)"),
        ({"merge": {"use": "rrf", "kapa": 1}}, "merge (rrf): unknown key 'kapa' (did you mean kappa?)"),
        (
            {"merge": {"use": "rrf", "weights": {"hat": 1}}},
            "merge.weights: no channel is called 'hat' (did you mean hot?)",
        ),
        ({"rerank": {"use": "mmr", "usee": 1}}, "rerank (mmr): unknown key 'usee' (did you mean use?)"),
        (rule(per=None, fist=2), "rerank (mmr).rules[0]: unknown key 'fist' (did you mean first?)"),
        (rule(of="gener"), "rerank.rules[0].of: no item field is called 'gener' (did you mean genre?)"),
        (rule(per=1), "rerank.rules[0]: at_most 1 per 1 forbids nothing (make per larger)"),
        ({"filters": [{"use": "seen", "dys": 3}]}, "filters[seen] (seen): unknown key 'dys' (did you mean days?)"),
        ({"boosts": [{"use": "boost", "tims": 3}]}, "boosts[boost] (boost): unknown key 'tims' (did you mean times?)"),
        (
            {"boosts": ["boost"]},
            "boost: no field says when items were published "
            "(set schema.published to the item field that holds the time)",
        ),
        (
            {"scene": {"home": {"merge": {"use": "rrf", "kapa": 1}}}},
            "scene.home.merge (rrf): unknown key 'kapa' (did you mean kappa?)",
        ),
        (
            {"scene": {"home": {"rerank": {"use": "mmr", "levels": {"gener": 1}}}}},
            "rerank.levels: no item field is called 'gener' (did you mean genre?)",
        ),
        ({"split": {"positve": "value > 1"}}, "split (user_time): unknown key 'positve' (did you mean positive?)"),
        ({"split": {"positive": "valeu > 1"}}, "split.positive: unknown column 'valeu' (did you mean value?)"),
        ({"recall": [{**HOT, "quta": 9}]}, "recall.hot (hot): unknown key 'quta' (did you mean quota?)"),
        ({"recall": [{**EASE, "train": {"lr": 1}}]}, "recall.ease.train: ease has no gradients: train does nothing "
         "(take train away)"),
        ({"recall": [{**EASE, "loss": {"n": 1}}]}, "recall.ease.loss: ease has no gradients: loss does nothing "
         "(take loss away)"),
        ({"recall": [{**TOWERS, "train": {"epoch": 1}}]}, "recall.towers (dssm).train: unknown key 'epoch' "
         "(did you mean epochs?)"),
        ({"recall": [{**TOWERS, "loss": {"negative": "full"}}]}, "recall.towers (dssm).loss: unknown key 'negative' "
         "(did you mean negatives?)"),
        ({"rank": {"use": "din", "fuze": "liked"}}, "rank (din): unknown key 'fuze' (did you mean fuse?)"),
        ({"rank": {"use": "din", "fuse": "likd"}}, "rank.fuse: no task is called 'likd' (did you mean liked?)"),
        ({"coarse": {"use": "three_tower", "train": {"lrr": 1}}}, "coarse (three_tower).train: unknown key 'lrr' "
         "(did you mean lr?)"),
        ({"rank": {"use": "din", "loss": {"weights": {"like": 2}}}}, "rank (din).loss: no task is called 'like' "
         "(did you mean liked?)"),
        ({"recall": [{**TOWERS, "where": "gener == 'a'"}]}, "recall.towers.where: unknown column 'gener' "
         "(did you mean genre?)"),
        ({"recall": [{**TOWERS, "where": "genre == 1"}]}, "recall.towers.where: these types do not compare "
         "(compare text with text, numbers with numbers)"),
        ({"recall": [{**TOWERS, "where": "genre"}]}, "recall.towers.where: 'genre' is a value, not a condition "
         "(write a condition, e.g. price < 30)"),
        ({"recall": [{**TOWERS, "where": "genre =="}]}, "recall.towers.where: cannot read 'genre ==' "
         "(write e.g. value >= 4 and category in ['a', 'b'])"),
        ({"recall": [{"name": "vectors", "use": "ials", "where": "genre > 2"}]}, "recall.vectors.where: these types do "
         "not compare (compare text with text, numbers with numbers)"),
        ({"recall": [{"name": "near", "use": "item_cf", "max_age_hours": 24.0}]}, "recall.near.max_age_hours: ages "
         "need a time of publication (set schema.published to a time field of [schema.items])"),
        ({"recall": [{"name": "peers", "use": "user_cf", "measure": "pearson", "fresh": True}]}, "recall.peers.fresh: "
         'a request has no values to correlate (take fresh away, or set measure = "iuf")'),
    ],
)  # fmt: skip
def test_what_no_part_owns_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shown(**table)
    assert str(caught.value) == message


def test_a_condition_of_a_channel_is_tried_on_a_value_of_each_kind() -> None:
    kinds = {
        "genre": "varlen", "kind": "sparse", "price": "dense", "born": "time", "emb": "vec", "title": "text",
        "parts": "seq",
    }  # fmt: skip
    where = 'genre == "a" and kind in ["b"] and price > 2 and born > 0 and emb < 3 and title != "c" and parts == "d"'
    made = shown(schema={**SCHEMA, "items": kinds}, recall=[{"name": "vectors", "use": "ials", "where": where}])
    assert made["recall"][0]["where"] == where


def test_a_policy_over_channels_must_fit_every_scene_that_takes_it() -> None:
    merge = {"use": "rrf", "weights": {"ease": 2.0}}
    assert shown(recall=[HOT, EASE], merge=merge)["merge"]["weights"] == {"ease": 2.0}
    with pytest.raises(ConfigError) as caught:
        shown(recall=[HOT, EASE], merge=merge, scene={"home": {}, "top": {"channels": ["hot"]}})
    assert str(caught.value) == "merge.weights: no channel is called 'ease' (known: hot)"


def test_none_is_inf_where_it_is_not_the_default() -> None:
    made = shown(recall=[{**HOT, "half_life_days": math.inf}], filters=[{"use": "seen", "days": math.inf}])
    assert made["recall"][0]["half_life_days"] == math.inf  # 7 by default
    assert made["filters"][0]["days"] is None  # None by default
    assert made["recall"][0]["train"] == made["recall"][0]["loss"] == {}


def test_the_head_of_a_ranker_is_checked_and_its_defaults_are_in_place() -> None:
    made = shown(rank={"use": "dnn", "heads": {"use": "shared_bottom", "towers": [8]}})
    assert made["rank"]["heads"] == {"use": "shared_bottom", "bottom": [128, 128], "towers": [8], "dropout": 0.0}
    assert shown(rank={"use": "dnn"})["rank"]["heads"] == {}
    for name, heads, message in (
        ("rank", {"use": "mmoee"}, "rank (dnn).heads.use: nothing is called 'mmoee' (did you mean mmoe?)"),
        ("rank", {"use": "mmoe", "gate": 0.1}, "rank (dnn).heads: unknown key 'gate' (did you mean state?)"),
        ("coarse", {"use": "mmoe", "experts": 0}, "coarse (three_tower).heads.experts: should be at least 1, got 0 "
         "(correct the value)"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            shown(**{name: {"use": "dnn" if name == "rank" else "three_tower", "heads": heads}})
        assert str(caught.value) == message


def test_defaults_of_a_ranker_and_of_its_training_are_in_place() -> None:
    made = shown(rank={"use": "din", "train": {"patience": 5}}, recall=[HOT, TOWERS])
    assert (made["rank"]["train"]["patience"], made["rank"]["train"]["batch_size"]) == (5, 32)
    assert (made["recall"][1]["train"]["patience"], made["recall"][1]["train"]["batch_size"]) == (0, 256)
    assert made["rank"]["loss"] == {
        "weights": {}, "regression": [], "listwise": 0.0, "balance": "fixed", "balance_lr": 0.01, "watch": {},
        "percentile": 99.0, "length": {}, "class_weights": {}, "kept": {},
    }  # fmt: skip
