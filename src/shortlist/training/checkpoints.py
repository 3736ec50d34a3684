"""A run on disk, so that it goes on after a kill as if nothing had happened.

A folder holds `checkpoint.json` and the safetensors files it names with their checksums: `state-...` (weights, state of
the update rules, dice) and `best-...` (the weights that validated best). The JSON is renamed into place after they are
on the disk, and old ones are removed after that: whenever a run dies, what the JSON names is there and whole.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shortlist.config import plain
from shortlist.errors import ArtifactError

__all__ = ["Checkpoint", "save", "load", "fingerprint", "check_same", "check_weights", "damaged", "stopped"]

FORMAT = 1
MANIFEST, SCRATCH = "checkpoint.json", ".writing"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """`run` are plain values (step, epoch, place of the loader, ...); `best` is empty before the first validation."""

    step: int
    config: Mapping[str, Any]
    fingerprint: str
    run: Mapping[str, Any]
    tensors: Tensors
    best: Tensors = field(default_factory=dict)
    best_step: int = 0


def fingerprint(*parts: Any) -> str:
    """Identity of what weights are for: a layout, a model's config, ... (dataclasses and plain values)."""
    return hashlib.sha256(json.dumps([plain(part) for part in parts]).encode()).hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a folder. Raises ArtifactError when it cannot be written; the old one stays then."""
    with _os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = {"state": _tensors(folder, f"state-{checkpoint.step}", checkpoint.tensors)}
        if checkpoint.best:
            before = _manifest(folder)
            if before is not None and "best" in before["files"] and before["best_step"] == checkpoint.best_step:
                files["best"] = before["files"]["best"]
            else:
                files["best"] = _tensors(folder, f"best-{checkpoint.best_step}", checkpoint.best)
        table = {
            "format": FORMAT,
            "step": checkpoint.step,
            "best_step": checkpoint.best_step,
            "config": dict(checkpoint.config),
            "fingerprint": checkpoint.fingerprint,
            "run": dict(checkpoint.run),
            "files": files,
        }
        scratch = folder / f".{MANIFEST}"
        with scratch.open("w", encoding="utf-8") as handle:
            json.dump(table, handle, indent=1, allow_nan=False)
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(folder / MANIFEST)
        _sync(folder)
        kept = {file["name"] for file in files.values()}
        for path in [*folder.glob("state-*.safetensors"), *folder.glob("best-*.safetensors"), folder / SCRATCH]:
            if path.name not in kept:
                path.unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint of a folder, None where there is none. Raises ArtifactError for one that is damaged."""
    file = folder / MANIFEST
    try:
        table = _manifest(folder)
        if table is None:
            return None
        tensors = {name: _read(folder, entry) for name, entry in table["files"].items()}
        return Checkpoint(
            table["step"],
            table["config"],
            table["fingerprint"],
            table["run"],
            tensors["state"],
            tensors.get("best", {}),
            table["best_step"],
        )
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", where=str(file), hint="check permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged(folder) from None


def stopped(folder: Path) -> int | None:
    """The step that a run has reached which may go on here, None where there is none, or it is at its end."""
    try:
        table = _manifest(folder)
        return None if table is None or table["run"]["finished"] else int(table["step"])
    except (ArtifactError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / MANIFEST
    if not file.exists():
        return None
    table: dict[str, Any] = json.loads(file.read_bytes())
    if table["format"] != FORMAT:
        hint = f"this version reads format {FORMAT}; use the version that wrote it, or {_anew(folder)}"
        raise ArtifactError(f"unknown format {table['format']!r}", where=str(file), hint=hint)
    return table


def damaged(folder: Path) -> ArtifactError:
    """What is said of a checkpoint that holds something else than it should."""
    return ArtifactError("the checkpoint is damaged", where=str(folder / MANIFEST), hint=_anew(folder))


def check_same(checkpoint: Checkpoint, config: Mapping[str, Any], mark: str, folder: Path) -> None:
    """Raises ArtifactError when a checkpoint is of another run: another config or fingerprint."""
    for name in {**checkpoint.config, **config}:
        then, now = checkpoint.config.get(name), config.get(name)
        if then != now:
            raise _other(f"was made with another configuration: {name} was {then!r}, now {now!r}", folder)
    if checkpoint.fingerprint != mark:
        raise _other("was made for another schema or another model", folder)


def check_weights(then: Tensors, now: Tensors, folder: Path) -> None:
    """Raises ArtifactError when weights are not those of this model, by name, shape or type."""
    for name in {**then, **now}:
        before, after = _shape(then.get(name)), _shape(now.get(name))
        if before != after and not name.endswith("_extra_state"):
            raise _other(f"holds another model: {name} was {before}, now {after}", folder)


def _other(what: str, folder: Path) -> ArtifactError:
    hint = f"restore what it was made with, or {_anew(folder)}"
    return ArtifactError(f"the checkpoint {what}", where=str(folder / MANIFEST), hint=hint)


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _tensors(folder: Path, name: str, tensors: Tensors) -> dict[str, Any]:
    """Write a file of tensors under a name that its content ends, and say what it must be."""
    scratch = folder / SCRATCH
    # safetensors keeps no two views of one memory: a weight under two names is written twice
    save_file({key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}, scratch)
    _sync(scratch)
    with scratch.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        size = handle.tell()
    path = folder / f"{name}-{digest[:12]}.safetensors"
    scratch.replace(path)
    return {"name": path.name, "sha256": digest, "bytes": size}


def _read(folder: Path, entry: Mapping[str, Any]) -> Tensors:
    path = folder / Path(entry["name"]).name  # never outside the folder
    try:
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != entry["sha256"]:
                raise ArtifactError("damaged: its checksum differs", where=str(path), hint=_anew(folder))
        tensors: Tensors = load_file(path)
    except FileNotFoundError:
        raise ArtifactError("missing, though the checkpoint names it", where=str(path), hint=_anew(folder)) from None
    except SafetensorError as error:
        raise ArtifactError(f"damaged: {error}", where=str(path), hint=_anew(folder)) from None
    return tensors


def _anew(folder: Path) -> str:
    return f"remove {folder} to start anew"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _os_errors(where: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise ArtifactError(what, where=str(where), hint="check free space and permissions") from error
