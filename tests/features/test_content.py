"""Text fields become vectors under their own names: by what the schema says, on training's items, kept by key."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pytest import approx

from shortlist.artifact import load
from shortlist.config import catalogue, plain
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.features import content
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.features.text.ngrams import Ngrams
from shortlist.schema import Catalogue, Profiles, Schema

HERE = Path()
FIELDS: dict[str, Any] = {
    "items": {"title": {"kind": "text", "encode": {"use": "ngrams", "dim": 16}}, "plot": "text"},
    "users": {"bio": {"kind": "text", "encode": "ngrams"}},
}
SCHEMA = Schema.parse(FIELDS)


def objects(*values: Any) -> Any:
    return np.fromiter(values, dtype=object, count=len(values))


def world() -> Catalogue:
    users = Profiles(np.arange(2), {"bio": objects("likes foxes", None)})
    titles = objects("red fox", "red sea", "", None, "owl owl")
    return Catalogue(users, Profiles(np.array([2, 3, 5, 8, 9]), {"title": titles, "plot": titles}))


def encoders(items: tuple[int, ...] = (2, 3)) -> content.TextEncoders:
    return content.TextEncoders.fit(SCHEMA, world(), np.arange(2), np.array(items), HERE)


def ngrams(fitted: content.TextEncoders) -> Ngrams:
    encoder = fitted.fitted["item.title"]
    assert isinstance(encoder, Ngrams)
    return encoder


def test_what_the_schema_says() -> None:
    fitted = encoders()
    assert set(fitted.fitted) == {"item.title", "user.bio"}  # a plot is for people
    assert {name: encoder.dim for name, encoder in fitted.fitted.items()} == {"item.title": 16, "user.bio": 128}
    seen = SCHEMA.encoded()
    assert {name: field.kind for name, field in seen.items.items()} == {"title": "vec", "plot": "text"}
    assert seen.users["bio"].kind == "vec"
    assert seen.encoded() == seen
    assert Schema.parse(plain(SCHEMA)) == SCHEMA
    assert Schema.parse(json.loads(json.dumps(plain(seen)))) == seen


def test_an_encoding_is_part_of_the_schemas_identity() -> None:
    other = Schema.parse({**FIELDS, "items": {"title": {"kind": "text", "encode": {"use": "ngrams", "dim": 8}}}})
    assert other.fingerprint(["item.title"]) != SCHEMA.fingerprint(["item.title"])


def test_vectors_by_key() -> None:
    fitted = encoders()
    keys, matrix = content.vectors_of("item.title", world(), fitted.fitted["item.title"])
    assert keys.tolist() == [2, 3, 9]  # the others have no text
    assert matrix.dtype == np.float32
    assert matrix.tolist() == ngrams(fitted)(pl.Series(["red fox", "red sea", "owl owl"])).tolist()
    none = Catalogue(world().users, Profiles(np.arange(2), {}))
    keys, matrix = content.vectors_of("item.title", none, fitted.fitted["item.title"])
    assert (len(keys), matrix.shape) == (0, (0, 16))


def test_fitted_on_training_only() -> None:
    # a title that training does not have leaves no trace in what is learned
    assert encoders((2, 3)).fingerprint == encoders((2, 3, 5, 8)).fingerprint == encoders((3, 2, 2, 77)).fingerprint
    assert encoders((2, 3)).fingerprint != encoders((2, 3, 9)).fingerprint


def test_a_catalogue_as_models_see_it() -> None:
    fitted = encoders()
    vectors = {full: content.vectors_of(full, world(), encoder) for full, encoder in fitted.fitted.items()}
    seen = content.with_vectors(world(), vectors)
    title = seen.items.columns["title"]
    assert [value is None for value in title] == [False, False, True, True, False]
    assert seen.items.columns["plot"].tolist() == world().items.columns["plot"].tolist()
    assert seen.users.columns["bio"][0].shape == (128,)
    schema = SCHEMA.encoded()
    batches = Assembler(schema, Encoders.fit(schema, seen, np.arange(2), np.array([2, 3])), seen)
    assert batches.layout().row.vecs == {"item.title": 16}
    assert batches.layout().request.vecs == {"user.bio": 128}
    row = batches.entries(np.array([9, 5, 2, 404]), np.zeros(4, dtype=np.int64))
    expected = ngrams(fitted)(pl.Series(["owl owl", "", "red fox", None]))
    assert row.vecs["item.title"].numpy().tolist() == expected.tolist()


def test_an_item_of_tomorrow() -> None:
    """Where the log is followed the same code gives an item the vector that training would have given it."""
    fitted = encoders()
    later = Catalogue(world().users, Profiles(np.array([77]), {"title": objects("red owl")}))
    keys, matrix = content.vectors_of("item.title", later, fitted.fitted["item.title"])
    assert keys.tolist() == [77]
    both = Profiles(np.array([2, 77]), {"title": objects("red fox", "red owl")})
    _, whole = content.vectors_of("item.title", Catalogue(world().users, both), fitted.fitted["item.title"])
    assert matrix[0].tobytes() == whole[1].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kept_in_an_artifact(tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = encoders()
    manifest = content.save_texts(
        tmp_path / "text", SCHEMA, world(), fitted, snapshot="s", created_ms=1, dtype=dtype
    )  # fmt: skip
    assert manifest.metrics == {"user.bio": 1, "item.title": 3}
    artifact = load(tmp_path / "text")
    again = content.restored(artifact, SCHEMA, HERE)
    assert again.fingerprint == fitted.fingerprint

    def never(*_: object) -> None:
        raise AssertionError("a server encodes no text")

    monkeypatch.setattr(Ngrams, "__call__", never)
    monkeypatch.setattr(content, "find", never)
    monkeypatch.setattr("shortlist.artifact.MAPPED_ABOVE", 0)
    vectors = content.stored(artifact)
    keys, matrix = vectors["item.title"]
    assert (keys.tolist(), matrix.dtype) == ([2, 3, 9], np.dtype(dtype))
    assert isinstance(matrix.base, np.memmap)
    served = content.with_vectors(world(), vectors)
    column = served.items.columns["title"]
    assert column[2] is None
    assert np.shares_memory(column[0], matrix)
    assert np.linalg.norm(column[0].astype(np.float64)) == approx(1, abs=1e-3)
    # a release may know fewer items than were encoded
    fewer = Catalogue(world().users, Profiles(np.array([3, 4]), {}))
    assert [value is None for value in content.with_vectors(fewer, vectors).items.columns["title"]] == [False, True]


def test_another_schema_is_refused(tmp_path: Path) -> None:
    content.save_texts(tmp_path / "text", SCHEMA, world(), encoders(), snapshot="s", created_ms=1)
    other = Schema.parse({**FIELDS, "items": {"title": {"kind": "text", "encode": "ngrams"}}})
    with pytest.raises(ArtifactError) as error:
        content.restored(load(tmp_path / "text"), other, HERE)
    assert error.value.what == "text was trained on another schema: one of item.title, user.bio has changed"


@pytest.mark.parametrize(
    ("group", "field", "message"),
    [
        (
            "items", {"kind": "sparse", "encode": "ngrams"},
            "schema.items.f.encode: a sparse field is not encoded (take encode away, or make it text)",
        ),
        (
            "context", {"kind": "text", "encode": "ngrams"},
            "schema.context.f.encode: a request's text is not encoded: servers encode no text (take encode away)",
        ),
        (
            "items", {"kind": "text", "encode": {"dim": 3}},
            'schema.items.f.encode.use: this key is required (add use = "ngrams")',
        ),
        (
            "users", {"kind": "text", "encode": 5},
            "schema.users.f.encode: should be text or a table, got 5 (correct the value)",
        ),
    ],
)  # fmt: skip
def test_what_a_schema_refuses(group: str, field: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Schema.parse({group: {"f": field}})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        ("ngram", "schema.items.f.encode.use: nothing is called 'ngram' (did you mean ngrams?)"),
        ({"use": "ngrams", "dims": 3}, "schema.items.f.encode: unknown key 'dims' (did you mean dim?)"),
        ({"use": "ngrams", "dim": 0}, "schema.items.f.encode.dim: should be at least 1, got 0 (correct the value)"),
        ("sentence", "schema.items.f.encode.model: this key is required (add model = ...)"),
    ],
)
def test_what_encoders_refuse(encode: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        content.check(Schema.parse({"items": {"f": {"kind": "text", "encode": encode}}}))
    assert str(error.value) == message


def test_errors_name_the_field() -> None:
    schema = Schema.parse({"items": {"title": {"kind": "text", "encode": {"use": "ngrams", "chars": [], "words": []}}}})
    with pytest.raises(ConfigError) as error:
        content.TextEncoders.fit(schema, world(), np.arange(2), np.array([2]), HERE)
    assert str(error.value) == (
        "item.title, encode.chars: no n-grams to count (give lengths, as chars = [3, 4, 5])"
    )  # fmt: skip
    none = Catalogue(world().users, Profiles(np.arange(2), {}))
    with pytest.raises(DataError) as missing:
        content.TextEncoders.fit(schema, none, np.arange(2), np.arange(2), HERE)
    assert str(missing.value) == "item.title: the items have no column 'title' (give the column, or take encode away)"


def test_the_folder_holds_encoders_only() -> None:
    assert catalogue(content.PACKAGE) == ("image", "ngrams", "sentence")
