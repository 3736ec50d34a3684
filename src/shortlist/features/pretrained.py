"""Encoders that somebody else trained: loaded by sentence-transformers from a folder, or by name from where its models
are kept (Reimers & Gurevych, EMNLP 2019). N inputs, D width.

The library is an extra (`text`) and reads safetensors alone; no code that comes with a model is run.
"""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from shortlist.errors import ArtifactError, ConfigError, DataError

__all__ = ["Pretrained", "extra"]

CHUNK = 1 << 20
# what loading files of any content comes to, where they are no model, or not of this machine
LOADING = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AssertionError, SafetensorError)


@dataclass(frozen=True)
class Pretrained:
    """A loaded model; `digest` is the sha256 of its folder's files, empty for a model by name."""

    name: str
    digest: str
    model: Any

    @classmethod
    def load(cls, name: str, folder: Path, device: str) -> "Pretrained":
        """`name` is a folder, relative to `folder` where it is not absolute, else the name of a model. Raises
        ConfigError."""
        library = extra("sentence_transformers", "encode.use")
        place = folder / name
        local = place.is_dir()
        try:
            model = library.SentenceTransformer(
                str(place) if local else name,
                device=None if device == "auto" else device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except LOADING as error:
            said = str(error).strip() or repr(error)
            what = f"cannot load {name!r}: {said.splitlines()[0]}"
            hint = "name a folder that sentence-transformers saved, with weights as safetensors"
            raise ConfigError(what, where="encode.model", hint=hint) from error
        return cls(name, _digest(place) if local else "", model)

    @classmethod
    def again(cls, name: str, digest: str, folder: Path, device: str) -> "Pretrained":
        """The model that `digest` was taken of. Raises ArtifactError when its files have changed."""
        found = cls.load(name, folder, device)
        if found.digest != digest:
            what = f"the files of {name!r} have changed since"
            raise ArtifactError(what, where="encode.model", hint="restore them, or train and publish again")
        return found

    def __call__(self, inputs: Sequence[Any], batch_size: int, prompt: str = "") -> NDArray[np.float32]:
        """[N, D], of length 1; a model's zero stays zero. Raises DataError for a vector that is not finite."""
        options = {"prompt": prompt} if prompt else {}
        given = self.model.encode(
            list(inputs), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False, **options
        )
        vectors = np.asarray(given, dtype=np.float32)
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            what = f"{self.name!r} gives {len(wrong)} vectors that are no numbers, the first for input {wrong[0]}"
            raise DataError(what, where="encode.model", hint="look at these inputs, or take another model")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        found: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        return found


def extra(module: str, where: str) -> Any:
    """A module of the extra `text`. Raises ConfigError naming it where it cannot be had."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"{module} cannot be imported: {error}"
        raise ConfigError(what, where=where, hint="pip install 'shortlist[text]'") from error


def _digest(folder: Path) -> str:
    """Of all files of a folder, names and content."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as handle:
            while part := handle.read(CHUNK):
                digest.update(part)
    return digest.hexdigest()
