"""Vocabularies, keys, ids, profiles and fingerprints: the contract between rooms."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.schema import FIRST, MISSING, PAD, UNKNOWN, Keys, Profiles, Schema, Vocabulary, canonical, text

ANY = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=8))
IDS = st.one_of(st.integers(0, 50).map(str), st.text(min_size=1, max_size=6))


def objects(*values: Any) -> NDArray[Any]:
    return np.fromiter(values, dtype=object, count=len(values))


# ------------------------------------------------------------------------------------------- text and ids


def test_one_text_form() -> None:
    assert text([5, 7]).to_list() == ["5", "7"]
    assert text(np.array([5.0, np.nan, 0.5])).to_list() == ["5", None, "0.5"]
    assert text(objects("5", None)).to_list() == ["5", None]
    assert text(objects(5, "a", None)).to_list() == ["5", "a", None]
    assert text([True, False, None]).to_list() == ["true", "false", None]
    assert text(np.array([-0.0, -3.0, 0.25])).to_list() == ["0", "-3", "0.25"]
    assert text([]).to_list() == []


def test_canonical_ids() -> None:
    assert canonical(pl.Series([5, 12])).to_list() == ["5", "12"]
    assert canonical(pl.Series([5.0, 12.0])).to_list() == ["5", "12"]
    assert canonical(pl.Series(["05", "ü", " "])).to_list() == ["05", "ü", " "]
    assert canonical(pl.Series(["a", "b"], dtype=pl.Categorical)).to_list() == ["a", "b"]
    assert canonical(pl.Series([], dtype=pl.String)).to_list() == []


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series([1.5]), "log.user: ids are fractions (ids are text or whole numbers)"),
        (pl.Series([float("inf")]), "log.user: ids are fractions (ids are text or whole numbers)"),
        (pl.Series([True]), "log.user: ids have type Boolean (ids are text or whole numbers)"),
        (pl.Series([[1]]), "log.user: ids have type List(Int64) (ids are text or whole numbers)"),
        (pl.Series([1, None, None]), "log.user: 2 ids are missing, the first in row 1 (drop or fill these rows)"),
        (
            pl.Series([1.0, float("nan")]),
            "log.user: 1 ids are missing, the first in row 1 (drop or fill these rows)",
        ),
        (
            pl.Series(["a", ""]),
            "log.user: 1 ids are empty or longer than 256 bytes, the first in row 1 (shorten or hash them)",
        ),
        (
            pl.Series(["ü" * 129]),  # two bytes each: 258
            "log.user: 1 ids are empty or longer than 256 bytes, the first in row 0 (shorten or hash them)",
        ),
    ],
)
def test_ids_that_are_none(column: pl.Series, message: str) -> None:
    with pytest.raises(DataError) as caught:
        canonical(column, "log.user")
    assert str(caught.value) == message


# -------------------------------------------------------------------------------------------------- keys


def test_a_number_and_its_text_are_one_id() -> None:
    keys = Keys().extend(pl.Series([5, 7])).extend(pl.Series(["7", "5", "x"]))
    assert keys.ids.to_list() == ["5", "7", "x"]
    assert (keys.key(5), keys.key("5"), keys.key("y")) == (0, 0, MISSING)
    assert keys.encode([7, "x", "nope"]).tolist() == [1, 2, MISSING]
    assert keys.encode(objects("x", None)).tolist() == [2, MISSING]
    assert keys.encode(np.array([5.0, np.nan])).tolist() == [0, MISSING]
    assert keys.decode(np.array([2, 0])) == ["x", "5"]
    with pytest.raises(IndexError, match="no id has key 3"):
        keys.decode(np.array([0, 3]))
    with pytest.raises(IndexError, match="no id has key -1"):
        keys.decode(np.array([-1]))


@given(st.lists(st.lists(IDS, max_size=100), max_size=4))
def test_keys_are_append_only(batches: list[list[str]]) -> None:
    keys, given_once = Keys(), dict[str, int]()
    for batch in batches:
        keys = keys.extend(pl.Series(batch, dtype=pl.String))
        for value in batch:
            given_once.setdefault(value, len(given_once))
        assert keys.ids.to_list() == list(given_once)  # order of first appearance, nothing ever moves
    everything = [value for batch in batches for value in batch]
    encoded = keys.encode(pl.Series(everything, dtype=pl.String))  # the join, or the dict when short
    assert encoded.tolist() == [given_once[value] for value in everything]
    assert [keys.key(value) for value in everything] == encoded.tolist()
    assert keys.decode(encoded) == everything


# -------------------------------------------------------------------------------------------- vocabularies


def test_reserved_ids_and_order() -> None:
    # b three times, a and c once each: most frequent first, ties by value
    vocabulary = Vocabulary.fit(pl.Series(["b", "c", "b", None, "a", "b"]))
    assert vocabulary.values.to_list() == ["b", "a", "c"]
    assert len(vocabulary) == 5  # three values, padding, unknown
    assert vocabulary.encode(["a", "b", "nope", None]).tolist() == [3, FIRST, UNKNOWN, UNKNOWN]
    assert vocabulary.decode(np.array([PAD, UNKNOWN, 2, 3])) == [None, None, "b", "a"]
    assert Vocabulary.fit(pl.Series(["b", "c", "b"]), min_count=2).values.to_list() == ["b"]
    assert Vocabulary.fit(pl.Series([["x", "y"], ["y"], None])).values.to_list() == ["y", "x"]
    assert len(Vocabulary.fit(pl.Series([], dtype=pl.String))) == FIRST


def test_whole_floats_meet_their_integers() -> None:
    # a column of integers becomes floats as soon as one entity lacks it
    vocabulary = Vocabulary.fit(pl.Series([7, 7, 5]))
    assert vocabulary.encode(np.array([5.0, np.nan, 7.0])).tolist() == [3, UNKNOWN, 2]


def test_repeats_and_nulls_are_refused() -> None:
    for values in (["a", "a"], ["a", None]):
        with pytest.raises(DataError) as caught:
            Vocabulary(pl.Series(values))
        assert str(caught.value) == (
            "vocabulary: vocabulary values must be distinct and present (drop nulls and repeats first)"
        )


@given(st.lists(ANY, max_size=80))
def test_unknown_values_never_raise(values: list[Any]) -> None:
    vocabulary = Vocabulary(["a", "5", "true"])
    ids = vocabulary.encode(objects(*values))
    assert ids.shape == (len(values),)
    assert ((ids >= UNKNOWN) & (ids < len(vocabulary))).all()
    for value, code in zip(values, ids, strict=True):
        if isinstance(value, str):
            assert code == {"a": 2, "5": 3, "true": 4}.get(value, UNKNOWN)


@given(st.lists(IDS, max_size=30), st.lists(IDS, min_size=65, max_size=90))
def test_short_and_long_columns_agree(known: list[str], asked: list[str]) -> None:
    vocabulary = Vocabulary(list(dict.fromkeys(known)))
    one_by_one = [int(vocabulary.encode([value])[0]) for value in asked]  # through the dict
    assert vocabulary.encode(asked).tolist() == one_by_one  # through the join


# -------------------------------------------------------------------------------------------- fingerprints

TABLE: dict[str, Any] = {
    "actions": {"click": {}},
    "items": {"category": "sparse", "words": {"kind": "dense", "scale": "log1p"}},
    "users": {"city": {"kind": "sparse", "vocab": "place"}},
    "context": {"region": {"kind": "sparse", "vocab": "place"}},
    "tasks": {"click": {"on": "click", "positive": "value > 1"}},
}


def test_a_fingerprint_changes_only_when_what_is_read_changes() -> None:
    schema = Schema.parse(TABLE)
    other = Schema.parse({**TABLE, "items": {"category": "sparse", "words": "dense"}})
    words = {"item.category": Vocabulary(["a"]), "place": Vocabulary(["x"])}
    more = {"item.category": Vocabulary(["a", "b"]), "place": Vocabulary(["x"])}
    assert schema.fingerprint(["item.category"]) == other.fingerprint(["item.category"])
    assert schema.fingerprint(["item.words"]) != other.fingerprint(["item.words"])
    assert schema.fingerprint(["item.category"], words) != schema.fingerprint(["item.category"], more)
    assert schema.fingerprint(["user.city"], words) == schema.fingerprint(["user.city"], more)
    assert schema.fingerprint(["tasks.click"]) == other.fingerprint(["tasks.click"])
    assert schema.fingerprint(["actions"]) != schema.fingerprint(["tasks.click"])
    both = ["item.category", "user.city"]
    assert schema.fingerprint(both) == schema.fingerprint(reversed(both)) == schema.fingerprint(both * 2)
    # one list of two values is not one value of both
    assert Vocabulary(["a", "b"]).fingerprint != Vocabulary(["ab"]).fingerprint
    assert Vocabulary(["a\0b"]).fingerprint != Vocabulary(["a", "b"]).fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("item.categry", "schema: the schema has no field 'item.categry' (did you mean category?)"),
        ("tasks.clik", "schema: the schema has no 'tasks.clik' (did you mean click?)"),
        ("actons", "schema: the schema has no 'actons' (did you mean actions?)"),
    ],
)
def test_a_fingerprint_of_what_is_not_there(name: str, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        Schema.parse(TABLE).fingerprint([name])
    assert str(caught.value) == message


def test_fields_share_a_vocabulary_by_name() -> None:
    schema = Schema.parse(TABLE)
    assert schema.vocab_of("user", "city") == schema.vocab_of("context", "region") == "place"
    assert schema.vocab_of("item", "category") == "item.category"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"actions": {}}, "schema.actions: no action is declared (add actions.click = {})"),
        (
            {"actions": {"a": {}, "b": {}}},
            "schema.action: several actions but no action column "
            "(set schema.action to the column that names the action)",
        ),
        (
            {"items": {"category": "sparse"}, "category": "categry"},
            "schema.category: no item field is called 'categry' (did you mean category?)",
        ),
        (
            {"users": {"city": "sparse"}, "region": "cty"},
            "schema.region: no user or context field is called 'cty' (did you mean city?)",
        ),
        (
            {"tasks": {"like": {"on": "clck", "positive": "value > 1"}}},
            "schema.tasks.like.on: no action is called 'clck' (did you mean click?)",
        ),
        (
            {"tasks": {"a": {"on": "b", "positive": "value"}, "b": {"on": "a", "positive": "value"}}},
            "schema.tasks.a.on: rests on itself: a on b on a (name an action)",
        ),
        (
            {"tasks": {"a": {"on": "b", "positive": "value"}, "b": {"on": "b", "positive": "value"}}},
            "schema.tasks.a.on: rests on itself: a on b on b (name an action)",
        ),
        (
            {"tasks": {"like": {"on": "click", "positive": "value >"}}},
            "schema.tasks.like.positive: cannot read 'value >' (write e.g. value >= 4 and category in ['a', 'b'])",
        ),
        (
            {"tasks": {"like": {"on": "click", "positive": "valeu >= 4"}}},
            "schema.tasks.like.positive: unknown column 'valeu' (did you mean value?)",
        ),
        (
            {"tasks": {"like": {"on": "click", "positive": "clik.value >= 4"}}},
            "schema.tasks.like.positive: unknown column 'clik.value' (did you mean click.value?)",
        ),
        (
            {"tasks": {"like": {"on": {"smaple": "mixed"}, "positive": "click"}}},
            "schema.tasks.like.on: unknown key 'smaple' (did you mean sample?)",
        ),
        ({"itms": {}}, "schema: unknown key 'itms' (did you mean items?)"),
        (
            {"items": {"a": {"kind": "sparse", "vocb": "x"}}},
            "schema.items.a: unknown key 'vocb' (did you mean vocab?)",
        ),
        (
            {"items": {"a": {"kind": "dense", "hash": 9}}},
            "schema.items.a.hash: a dense field has no vocabulary (take hash away, or make it sparse)",
        ),
        (
            {"items": {"a": {"kind": "sparse", "hash": 9, "min_count": 2}}},
            "schema.items.a.min_count: a hashed field has no counts (set hash or min_count, not both)",
        ),
        (
            {
                "users": {"a": {"kind": "sparse", "vocab": "v"}},
                "context": {"b": {"kind": "seq", "vocab": "v", "hash": 9}},
            },
            "schema.context.b: shares the vocabulary 'v' with user.a, which has another hash (give both the same)",
        ),
        (
            {"items": {"a": {"kind": "sparse", "vocab": "item.id"}}},
            "schema.items.a.vocab: the vocabulary 'item.id' is taken (choose another name for vocab)",
        ),
        (
            {"items": {"a": {"kind": "sparse", "vocab": "item.b.age"}, "b": "time"}},
            "schema.items.a.vocab: the vocabulary 'item.b.age' is taken (choose another name for vocab)",
        ),
        (
            {"actions": {"click": {"weight": -1}}},
            "schema.actions.click.weight: should be at least 0.0, got -1 (correct the value)",
        ),
    ],
)
def test_a_schema_that_does_not_hold_together(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Schema.parse(table)
    assert str(caught.value) == message


def test_actions_have_codes_and_weights_in_order() -> None:
    schema = Schema.parse({"action": "what", "actions": {"click": {}, "like": {"weight": 5.0}, "seen": {"weight": 0}}})
    assert schema.action_names == ("click", "like", "seen")
    assert schema.weights.tolist() == [1.0, 5.0, 0.0]


# ------------------------------------------------------------------------------------------------ profiles


def test_profiles_gather_by_key() -> None:
    frame = pl.DataFrame(
        {
            "key": [4, 1, 9],
            "price": [40, 10, 90],
            "city": ["d", "a", None],
            "tags": [["x", "y"], ["z", "z"], ["w", "v"]],  # equal lengths must stay lists
            "on": [True, False, None],
        }
    )
    profiles = Profiles.from_frame(frame)
    assert profiles.keys.tolist() == [1, 4, 9]
    asked = np.array([9, 2, 1, MISSING])
    assert profiles.rows(asked).tolist() == [2, -1, 0, -1]
    assert profiles.take("city", asked).tolist() == [None, None, "a", None]
    assert profiles.take("city", asked, "?").tolist() == [None, "?", "a", "?"]
    assert profiles.take("tags", asked).tolist() == [["w", "v"], None, ["z", "z"], None]
    assert profiles.take("price", np.array([4, 1])).tolist() == [40, 10]
    np.testing.assert_array_equal(profiles.take("price", asked), [90, np.nan, 10, np.nan])
    assert profiles.take("price", asked, 0).tolist() == [90, 0, 10, 0]
    assert profiles.take("nope", asked).tolist() == [None] * 4
    empty = Profiles(np.zeros(0, dtype=np.int64), {"city": objects()})
    assert empty.rows(asked).tolist() == [-1] * 4
    assert empty.take("city", asked).tolist() == [None] * 4


def test_profiles_keys_are_distinct() -> None:
    with pytest.raises(DataError) as caught:
        Profiles(np.array([1, 1]), {})
    assert str(caught.value) == "profiles: keys must be ascending and distinct (sort by key, drop repeats)"
