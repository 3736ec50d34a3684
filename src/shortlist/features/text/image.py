"""Image embeddings: a pretrained model's vector of an image file, of length 1 (CLIP: Radford et al., ICML 2021).

N paths beneath a folder, D width. Nothing is learned here. `sentence` with the same model gives texts vectors in the
same space.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.errors import DataError
from shortlist.features.pretrained import Pretrained, extra

__all__ = ["Image"]


class Image:
    """Paths are relative to the project's folder, or to `folder` beneath it, and never leave it, by a link neither. An
    empty path is zero."""

    @frozen
    class Config:
        """`model` is a folder beside the project file or a model's name. Of a file that is not there, or is no image,
        `missing` makes an error or the vector zero."""

        model: str
        folder: str = ""
        missing: Literal["error", "zero"] = "error"
        batch_size: Count = 32
        device: str = "auto"

    def __init__(self, config: Config, model: Pretrained, dim: int, root: Path) -> None:
        self.config = config
        self.model = model
        self.dim = dim
        self.root = root

    @classmethod
    def fit(cls, config: Config, texts: pl.Series, folder: Path) -> Self:
        """Loads the model. Raises ConfigError when the library or the model cannot be had."""
        model = Pretrained.load(config.model, folder, config.device)
        blank = extra("PIL.Image", "encode.use").new("RGB", (32, 32))
        return cls(config, model, model([blank], 1).shape[1], _root(folder, config.folder))

    def __call__(self, texts: pl.Series) -> NDArray[np.float32]:
        """[N, D] of paths. Raises DataError naming the first that leaves the folder or cannot be read."""
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        paths = texts.cast(pl.String).fill_null("").str.strip_chars().to_list()
        places = [n for n, path in enumerate(paths) if path]
        for at in range(0, len(places), self.config.batch_size):
            some = places[at : at + self.config.batch_size]
            read = {n: image for n in some if (image := self._read(paths[n])) is not None}
            if read:
                out[list(read)] = self.model(list(read.values()), self.config.batch_size)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What an artifact keeps: which model it was, not its weights."""
        return {"digest": self.model.digest, "dim": self.dim}, {}

    @classmethod
    def restore(
        cls, config: Config, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path
    ) -> Self:
        """The inverse of `state`; loads the model. Raises ArtifactError when it is another one now."""
        model = Pretrained.again(config.model, table["digest"], folder, config.device)
        return cls(config, model, table["dim"], _root(folder, config.folder))

    def _read(self, path: str) -> Any:
        """The image at a path, None where it may be missing and is."""
        pillow = extra("PIL.Image", "encode.use")
        file = beneath(self.root, path)
        try:
            with pillow.open(file) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            if self.config.missing == "zero":
                return None
            what = "no such file" if isinstance(error, FileNotFoundError) else f"not an image: {error}"
            hint = 'correct the path, or write missing = "zero"'
            raise DataError(what, where=f"image {path!r}", hint=hint) from None


def beneath(root: Path, path: str) -> Path:
    """The file a path names. Raises DataError when it is not beneath the root, wherever links lead."""
    try:
        file = (root / path).resolve()
        inside = file != root and file.is_relative_to(root) and not Path(path).is_absolute()
    except (ValueError, OSError, RuntimeError):  # a NUL, a circle of links
        inside = False
    if not inside:
        hint = "write paths relative to the folder of images, without links that lead out of it"
        raise DataError("the path leaves its folder", where=f"image {path!r}", hint=hint)
    return file


def _root(folder: Path, name: str) -> Path:
    return beneath(folder.resolve(), name) if name else folder.resolve()
