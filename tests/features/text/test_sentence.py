"""Sentence embeddings by a stand-in of the library; `test_real.py` asks the real one, where it is installed."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.features import content
from shortlist.features.text.sentence import Sentence
from shortlist.schema import Catalogue, Profiles, Schema


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, under the library's name."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    found: Any = importlib.import_module("library")
    monkeypatch.setitem(sys.modules, "sentence_transformers", found)
    found.SentenceTransformer.asked.clear()
    yield found
    sys.modules.pop("library")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "letters.txt").write_text("ab", encoding="utf-8")
    return tmp_path


def texts(*values: str | None) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


def test_vectors_of_length_one(library: Any, folder: Path) -> None:
    encoder = Sentence.fit(Sentence.Config("model", batch_size=2, device="cpu"), texts(), folder)
    found = encoder(texts("aaabbbb", None, "", " \n", "b", "aaabbbb"))
    # 3 a and 4 b: length 5
    assert found.tolist() == [
        [np.float32(0.6), np.float32(0.8)], [0, 0], [0, 0], [0, 0], [0, 1], [np.float32(0.6), np.float32(0.8)],
    ]  # fmt: skip
    # each text once, empty ones never
    assert library.SentenceTransformer.asked[-1] == (["aaabbbb", "b"], 2, "")
    assert encoder.dim == 2
    assert found.dtype == np.float32
    library.SentenceTransformer.asked.clear()
    assert encoder(texts(None, "")).tolist() == [[0, 0], [0, 0]]
    assert encoder(texts()).shape == (0, 2)
    assert not library.SentenceTransformer.asked


def test_a_prompt_goes_before(library: Any, folder: Path) -> None:
    encoder = Sentence.fit(Sentence.Config("model", prompt="bbb: "), texts(), folder)
    # three b of the prompt, four a: length 5
    assert encoder(texts("aaaa")).tolist() == [[np.float32(0.8), np.float32(0.6)]]


def test_state_knows_the_model(library: Any, folder: Path) -> None:
    config = Sentence.Config("model")
    encoder = Sentence.fit(config, texts(), folder)
    table, arrays = encoder.state()
    assert (set(table), arrays) == ({"digest", "dim"}, {})
    again = Sentence.restore(config, table, arrays, folder)
    assert again(texts("ab")).tolist() == encoder(texts("ab")).tolist()
    (folder / "model" / "letters.txt").write_text("ba", encoding="utf-8")
    with pytest.raises(ArtifactError) as error:
        Sentence.restore(config, table, arrays, folder)
    assert str(error.value) == (
        "encode.model: the files of 'model' have changed since (restore them, or train and publish again)"
    )


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    schema = Schema.parse({"items": {"title": {"kind": "text", "encode": {"use": "sentence", "model": "model"}}}})
    content.check(schema)  # words are right without it
    items = Profiles(np.arange(1), {"title": np.array(["a"], dtype=object)})
    with pytest.raises(ConfigError) as error:
        content.TextEncoders.fit(schema, Catalogue(Catalogue.empty().users, items), np.arange(0), np.arange(1), folder)
    assert str(error.value) == (
        "item.title, encode.use: sentence_transformers cannot be imported: import of sentence_transformers halted; "
        "None in sys.modules (pip install 'shortlist[text]')"
    )


def test_a_model_that_is_not_there(library: Any, folder: Path) -> None:
    (folder / "empty").mkdir()
    hint = "name a folder that sentence-transformers saved, with weights as safetensors"
    with pytest.raises(ConfigError) as error:
        Sentence.fit(Sentence.Config("empty"), texts(), folder)
    place = folder / "empty" / "letters.txt"
    assert error.value.what == f"cannot load 'empty': [Errno 2] No such file or directory: '{place}'"
    assert error.value.hint == hint
    with pytest.raises(ConfigError) as device:
        Sentence.fit(Sentence.Config("model", device="tpu"), texts(), folder)
    assert str(device.value) == f"encode.model: cannot load 'model': no device tpu ({hint})"


def test_a_vector_that_is_no_number(library: Any, folder: Path) -> None:
    encoder = Sentence.fit(Sentence.Config("model"), texts(), folder)
    with pytest.raises(DataError) as error:
        encoder(texts("a", "a" * 13))
    assert str(error.value) == (
        "encode.model: 'model' gives 1 vectors that are no numbers, the first for input 1 "
        "(look at these inputs, or take another model)"
    )
