"""Texts become vectors where models are fitted, never in a server: a release carries the vectors.

N entities, D width. A schema's text field says by which encoder (`features/text/`); what is fitted is kept with the
vectors in one artifact. Servers read the vectors alone (`stored`), by key.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Manifest, check_fits, save
from shortlist.config import build, find
from shortlist.errors import DataError, ShortlistError
from shortlist.features.hashing import sealed
from shortlist.schema import Catalogue, Profiles, Schema, text

__all__ = [
    "TextEncoder", "TextEncoders", "Keyed", "check", "vectors_of", "with_vectors", "save_texts", "stored", "restored",
]  # fmt: skip

PACKAGE = "shortlist.features.text"
VECTORS, KEYS, FITTED = "vectors", "keys", "fitted"
Keyed = tuple[NDArray[np.int64], NDArray[Any]]
"""Keys [N] ascending and their vectors [N, D], float32 or float16."""


class TextEncoder(Protocol):
    """One way from texts to vectors, with its `Config`: a file of `features/text/`.

    `folder` is the project's, which relative paths are beneath. A text's vector depends on the text and on what was
    fitted, not on the texts it is encoded with; an empty or null text is zero.
    """

    Config: ClassVar[Any]

    @property
    def dim(self) -> int: ...

    @classmethod
    def fit(cls, config: Any, texts: pl.Series, folder: Path) -> Self:
        """From the texts of training's entities."""
        ...

    def __call__(self, texts: pl.Series) -> NDArray[np.float32]:
        """[N, D]."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """A JSON table and arrays."""
        ...

    @classmethod
    def restore(
        cls, config: Any, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path
    ) -> Self: ...


@dataclass(frozen=True)
class TextEncoders:
    """The fitted encoder of every text field that has one, by field (`item.title`)."""

    fitted: Mapping[str, TextEncoder]

    @classmethod
    def fit(
        cls,
        schema: Schema,
        catalogue: Catalogue,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        folder: Path,
    ) -> Self:
        """On the texts of training's users and items (keys) only. Raises ConfigError, and DataError for a field whose
        column is not there."""
        fitted = {}
        for full, (kind, config) in _kinds(schema).items():
            entity, _, name = full.partition(".")
            profiles, known = (catalogue.users, users) if entity == "user" else (catalogue.items, items)
            if name not in profiles.columns:
                what = f"the {entity}s have no column {name!r}"
                raise DataError(what, where=full, hint="give the column, or take encode away")
            seen = np.unique(known[profiles.rows(known) >= 0])
            texts = text(profiles.take(name, seen))
            with _about(full):
                fitted[full] = kind.fit(config, texts, folder)
        return cls(fitted)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What an artifact keeps: a JSON table and arrays, each by field."""
        states = {full: encoder.state() for full, encoder in self.fitted.items()}
        arrays = {f"{full}.{name}": array for full, (_, own) in states.items() for name, array in own.items()}
        return {full: {**table, "arrays": sorted(own)} for full, (table, own) in states.items()}, arrays

    @classmethod
    def restore(
        cls, schema: Schema, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path
    ) -> Self:
        """The inverse of `state`, under the schema it was fitted under. Loads models: not for servers."""
        fitted = {}
        for full, (kind, config) in _kinds(schema).items():
            own = {name: arrays[f"{full}.{name}"] for name in table[full]["arrays"]}
            with _about(full):
                fitted[full] = kind.restore(config, table[full], own, folder)
        return cls(fitted)

    @property
    def fingerprint(self) -> str:
        """Identity of what was fitted: with the schema's words, equal ones give equal vectors."""
        return sealed(*self.state())


def check(schema: Schema) -> None:
    """Whether every encoder is there and its options are its own. Raises ConfigError."""
    _kinds(schema)


def vectors_of(field: str, catalogue: Catalogue, encoder: TextEncoder) -> Keyed:
    """Of everybody who has a text in a field (`item.title`): empty texts are left out."""
    entity, _, name = field.partition(".")
    profiles = catalogue.users if entity == "user" else catalogue.items
    if name not in profiles.columns:
        return profiles.keys[:0], np.zeros((0, encoder.dim), dtype=np.float32)
    with _about(field):
        matrix = encoder(text(profiles.columns[name]))
    there = matrix.any(axis=1)
    return profiles.keys[there], matrix[there]


def with_vectors(catalogue: Catalogue, vectors: Mapping[str, Keyed]) -> Catalogue:
    """The catalogue as models see it: texts are vectors, under their fields' names; an entity without one has none."""
    sides: dict[str, Profiles] = {"user": catalogue.users, "item": catalogue.items}
    for full, (keys, matrix) in vectors.items():
        entity, _, name = full.partition(".")
        profiles = sides[entity]
        rows = profiles.rows(keys)
        column = np.full(len(profiles), None, dtype=object)
        found = rows >= 0
        matrix = matrix if found.all() else matrix[found]  # a mapped one stays mapped: its rows are views
        column[rows[found]] = np.fromiter(matrix, dtype=object, count=len(matrix))
        sides[entity] = Profiles(profiles.keys, {**profiles.columns, name: column})
    return Catalogue(sides["user"], sides["item"])


def save_texts(
    folder: Path,
    schema: Schema,
    catalogue: Catalogue,
    encoders: TextEncoders,
    *,
    snapshot: str,
    created_ms: int,
    dtype: Literal["float32", "float16"] = "float32",
) -> Manifest:
    """Encode a catalogue and save vectors and encoders as one artifact. A half's ten bits are enough for a cosine:
    `float16` halves the file."""
    table, fitted = encoders.state()
    arrays = {f"{FITTED}.{name}": array for name, array in fitted.items()}
    for full, encoder in encoders.fitted.items():
        keys, matrix = vectors_of(full, catalogue, encoder)
        arrays |= {f"{KEYS}.{full}": keys, f"{VECTORS}.{full}": matrix.astype(dtype)}
    reads = tuple(encoders.fitted)
    return save(
        folder,
        kind="features.text",
        name="text",
        arrays=arrays,
        config={"fields": table},
        reads=reads,
        fingerprint=schema.fingerprint(reads),
        snapshot=snapshot,
        metrics={full: len(arrays[f"{KEYS}.{full}"]) for full in reads},
        created_ms=created_ms,
    )


def stored(artifact: Artifact) -> dict[str, Keyed]:
    """The vectors of an artifact by field; a large matrix is mapped. Needs no encoder."""
    fields = artifact.manifest.config["fields"]
    return {full: (artifact.array(f"{KEYS}.{full}"), artifact.array(f"{VECTORS}.{full}")) for full in fields}


def restored(artifact: Artifact, schema: Schema, folder: Path) -> TextEncoders:
    """The encoders of an artifact, for texts that came later. Loads models: not for servers. Raises ArtifactError when
    the schema, or a model's files, are others now."""
    check_fits(artifact.manifest, schema)
    table = artifact.manifest.config["fields"]
    names = [f"{full}.{name}" for full, own in table.items() for name in own["arrays"]]
    return TextEncoders.restore(
        schema, table, {name: np.array(artifact.array(f"{FITTED}.{name}")) for name in names}, folder
    )


def _kinds(schema: Schema) -> dict[str, tuple[Any, Any]]:
    """The class and the options of every text field that has an encoder."""
    out: dict[str, tuple[Any, Any]] = {}
    for entity, fields in (("user", schema.users), ("item", schema.items)):
        for name, declared in fields.items():
            if declared.encode is None:
                continue
            words = {"use": declared.encode} if isinstance(declared.encode, str) else dict(declared.encode)
            where = f"schema.{entity}s.{name}.encode"
            kind: Any = find(words.pop("use"), [PACKAGE], f"{where}.use")
            out[f"{entity}.{name}"] = kind, build(kind.Config, words, where, ("use",))
    return out


@contextmanager
def _about(full: str) -> Iterator[None]:
    """An encoder's errors name the field they are about."""
    try:
        yield
    except ShortlistError as error:
        raise type(error)(error.what, where=f"{full}, {error.where}", hint=error.hint) from error
