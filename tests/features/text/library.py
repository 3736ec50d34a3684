"""A module with the interface of sentence-transformers that is used here, for where the real one is not installed."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["SentenceTransformer"]


class SentenceTransformer:
    """A model folder holds `letters.txt`; a text's vector counts these letters, an image's is its mean colour."""

    asked: ClassVar[list[tuple[list[Any], int, str]]] = []

    def __init__(
        self,
        name: str,
        *,
        device: str | None = None,
        trust_remote_code: bool = True,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        assert not trust_remote_code
        assert model_kwargs == {"use_safetensors": True}
        if device not in (None, "cpu"):
            raise RuntimeError(f"no device {device}\nand more lines")
        self.letters = (Path(name) / "letters.txt").read_text(encoding="utf-8").strip()

    def encode(
        self,
        inputs: list[Any],
        *,
        batch_size: int,
        convert_to_numpy: bool,
        show_progress_bar: bool,
        prompt: str = "",
    ) -> NDArray[np.float32]:
        assert convert_to_numpy
        assert not show_progress_bar
        self.asked.append((inputs, batch_size, prompt))
        if isinstance(inputs[0], str):
            rows = [[(prompt + text).count(letter) for letter in self.letters] for text in inputs]
        else:
            rows = [list(np.asarray(image).reshape(-1, 3).mean(axis=0)) for image in inputs]
        found = np.array(rows, dtype=np.float32)
        return np.where(found == 13, np.float32(np.nan), found)
