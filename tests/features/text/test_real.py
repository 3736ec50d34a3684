"""The real libraries on tiny models made here: where the extra `text` is not installed, nothing of this is tested."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.errors import ConfigError
from shortlist.features.text.image import Image
from shortlist.features.text.sentence import Sentence

library: Any = pytest.importorskip("sentence_transformers", reason="the extra `text` is not installed")
modules: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")


def texts(*values: str | None) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


def test_sentences(tmp_path: Path) -> None:
    tokenizers: Any = importlib.import_module("tokenizers")
    splits: Any = importlib.import_module("tokenizers.pre_tokenizers")
    words = {word: n for n, word in enumerate(["[UNK]", "red", "fox", "sea"])}
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokens.pre_tokenizer = splits.Whitespace()
    weights = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 2, 0]], dtype=np.float32)
    static = modules.StaticEmbedding(tokens, embedding_weights=weights)
    library.SentenceTransformer(modules=[static]).save(str(tmp_path / "model"))
    config = Sentence.Config("model", device="cpu")
    encoder = Sentence.fit(config, texts(), tmp_path)
    found = encoder(texts("red fox", "", "sea", "fox"))
    # the mean of (1, 0, 0) and (0, 1, 0), of length 1
    half = np.sqrt(0.5)
    assert found == pytest.approx(np.array([[half, half, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]]), abs=1e-6)
    again = Sentence.restore(config, *encoder.state(), tmp_path)
    assert again(texts("red fox")).tobytes() == found[:1].tobytes()


def test_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ConfigError) as error:
        Sentence.fit(Sentence.Config("model", device="cpu"), texts(), tmp_path)
    assert error.value.what.startswith("cannot load 'model': Error while deserializing header")


def clip(folder: Path) -> None:
    """A CLIP of two small towers with weights that nobody trained."""
    hf: Any = importlib.import_module("transformers")
    raw = folder / "raw"
    raw.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (raw / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}), encoding="utf-8")
    (raw / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**tower, **ends, "vocab_size": len(tokens), "max_position_embeddings": 64}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(str(raw))
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = hf.CLIPTokenizer(vocab=str(raw / "vocab.json"), merges=str(raw / "merges.txt"))
    hf.CLIPProcessor(images, tokenizer).save_pretrained(str(raw))
    library.SentenceTransformer(modules=[modules.CLIPModel(str(raw))]).save(str(folder / "clip"))


def test_images_and_texts_of_one_space(tmp_path: Path) -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    clip(tmp_path)
    (tmp_path / "covers").mkdir()
    pillow.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "covers" / "red.png")
    pillow.new("L", (30, 50), 9).save(tmp_path / "covers" / "grey.jpg")
    (tmp_path / "covers" / "cut.png").write_bytes((tmp_path / "covers" / "red.png").read_bytes()[:40])
    images = Image.fit(Image.Config("clip", folder="covers", device="cpu", missing="zero"), texts(), tmp_path)
    found = images(texts("red.png", None, "grey.jpg", "red.png", "cut.png", "none.png"))
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0, 1, 1, 0, 0], abs=1e-6)
    assert found[0] == pytest.approx(found[3], abs=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-3
    words = Sentence.fit(Sentence.Config("clip", device="cpu"), texts(), tmp_path)
    assert words(texts("a red square")).shape == (1, images.dim) == (1, 8)
    assert Image.restore(images.config, *images.state(), tmp_path)(texts("red.png")) == pytest.approx(found[:1])
