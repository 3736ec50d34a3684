"""Image embeddings: paths beneath a folder and nowhere else; a stand-in of the library, small images made here."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.errors import ConfigError, DataError
from shortlist.features.text.image import Image, beneath


class Picture:
    """What is used of an opened image."""

    def __init__(self, pixels: list[list[int]]) -> None:
        self.pixels = np.array(pixels, dtype=np.uint8)

    def __enter__(self) -> "Picture":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def convert(self, mode: str) -> "Picture":
        assert mode == "RGB"
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.uint8]:
        return self.pixels


class Pillow:
    """What is used of PIL.Image, for where it is not installed: a file holds the pixels as text."""

    class DecompressionBombError(Exception):
        pass

    @staticmethod
    def new(mode: str, size: tuple[int, int]) -> Picture:
        return Picture([[0, 0, 0]])

    @staticmethod
    def open(file: Path) -> Picture:
        return Picture([[int(n) for n in line.split()] for line in file.read_text(encoding="utf-8").splitlines()])


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(sys.modules, "sentence_transformers", importlib.import_module("library"))
    monkeypatch.setitem(sys.modules, "PIL", Pillow())
    monkeypatch.setitem(sys.modules, "PIL.Image", Pillow())
    yield
    sys.modules.pop("library")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "letters.txt").write_text("ab", encoding="utf-8")
    (tmp_path / "covers" / "new").mkdir(parents=True)
    (tmp_path / "covers" / "red.png").write_text("200 0 0\n100 0 0", encoding="utf-8")
    (tmp_path / "covers" / "new" / "mixed.png").write_text("0 30 40", encoding="utf-8")
    (tmp_path / "covers" / "broken.png").write_text("no numbers", encoding="utf-8")
    (tmp_path / "secret.png").write_text("1 1 1", encoding="utf-8")
    return tmp_path


def paths(*values: str | None) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


def image(folder: Path, **options: Any) -> Image:
    return Image.fit(Image.Config("model", folder="covers", **options), paths(), folder)


def test_vectors_of_files(folder: Path) -> None:
    encoder = image(folder, batch_size=1)
    found = encoder(paths("red.png", None, "new/mixed.png", "", "red.png"))
    # (150, 0, 0) and (0, 30, 40): of length 1
    point6, point8 = np.float32(0.6), np.float32(0.8)
    assert found.tolist() == [[1, 0, 0], [0, 0, 0], [0, point6, point8], [0, 0, 0], [1, 0, 0]]
    again = Image.restore(encoder.config, *encoder.state(), folder)
    assert again(paths("new/mixed.png")).tolist() == found[2:3].tolist()


@pytest.mark.parametrize(
    "path", ["../secret.png", "new/../../secret.png", "/etc/hosts", "link.png", "way/secret.png", ".", "a\0b"]
)
def test_no_path_leaves_the_folder(folder: Path, path: str) -> None:
    (folder / "covers" / "link.png").symlink_to(folder / "secret.png")
    (folder / "covers" / "way").symlink_to(folder)
    for missing in ("error", "zero"):
        with pytest.raises(DataError) as error:
            image(folder, missing=missing)(paths("red.png", path))
        assert error.value.what == "the path leaves its folder"
        assert error.value.where == f"image {path!r}"
        assert error.value.hint == "write paths relative to the folder of images, without links that lead out of it"


@given(st.lists(st.sampled_from(["..", ".", "a", "", "~", "/", "..\\", "%2e%2e"]), max_size=6))
def test_whatever_is_written_stays_beneath(parts: list[str]) -> None:
    root = Path("/srv/covers")
    try:
        file = beneath(root, "/".join(parts))
    except DataError:
        return
    assert root in file.parents


def test_a_folder_that_leaves_the_project(folder: Path) -> None:
    with pytest.raises(DataError) as error:
        Image.fit(Image.Config("model", folder=".."), paths(), folder)
    assert error.value.what == "the path leaves its folder"


def test_files_that_are_not_there(folder: Path) -> None:
    hint = 'correct the path, or write missing = "zero"'
    with pytest.raises(DataError) as error:
        image(folder)(paths("red.png", "green.png"))
    assert str(error.value) == f"image 'green.png': no such file ({hint})"
    with pytest.raises(DataError) as broken:
        image(folder)(paths("broken.png"))
    assert str(broken.value) == (
        f"image 'broken.png': not an image: invalid literal for int() with base 10: 'no' ({hint})"
    )  # fmt: skip
    found = image(folder, missing="zero")(paths("broken.png", "red.png", "green.png"))
    assert found.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigError) as error:
        image(folder)
    assert error.value.hint == "pip install 'shortlist[text]'"
    assert error.value.where == "encode.use"
