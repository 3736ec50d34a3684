"""From vectors to an index in an artifact: the kind is chosen, built, measured against exact search, and opened again.

The canary asks sampled queries and raises the kind's effort until the declared share of the best items is found.
"""

__all__ = ["Asking", "Indexed", "indexed", "opened", "kind_of"]

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import MAPPED_ABOVE, Artifact
from shortlist.config import IndexConfig, build, find, own_keys, plain
from shortlist.errors import ArtifactError, ConfigError
from shortlist.forms import Form, Vectors
from shortlist.index.points import Points
from shortlist.index.vectors import Engine, VectorIndex, identity

KINDS = "shortlist.index.kinds"
EXACT_BELOW = 50_000  # items; with fewer, every vector is read faster than a structure is walked
FEW = 1_000  # items; with fewer, or where all are one vector, every kind is exact
NEEDS = {"annoy": ("annoy", "annoy"), "scann": ("scann", "scann"), "ball_tree": ("sklearn", "sklearn")}
Asking = Callable[[], NDArray[np.float32]]
SAMPLE, DEPTH = 256, 100  # queries of the canary, and how many items of each
MIXED = 5  # items that a query without a user is a sum of, at most


@dataclass(frozen=True)
class Indexed:
    """An index, and what an artifact keeps of it: the key `index` of its configuration, what was measured, and files.
    None and nothing where there are no vectors."""

    index: VectorIndex | None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def files(self, folder: Path) -> None:
        """Write the files of the index."""
        if self.index is not None:
            self.index.engine.write(folder)


def kind_of(config: IndexConfig, where: str, size: int | None = None) -> tuple[str, Any, Any]:
    """The name, the class and the Config of the kind that is asked for, for so many items; `auto` without a size is
    exact. Raises ConfigError for a word no file has, for options it does not own, and for a package that is not there.
    """
    use = config.use
    if use == "auto":
        use = "flat" if size is None or size < EXACT_BELOW else "ivf"
        if config.options:
            what = f"auto has no options, got {', '.join(sorted(config.options))}"
            raise ConfigError(what, where=where, hint='say which kind they are for: use = "ivf"')
    kind: Any = find(use, [KINDS], f"{where}.use")
    options = build(kind.Config, config.options, f"{where} ({use})", own_keys(IndexConfig))
    if use in NEEDS:
        _needed(use, where)
    return use, kind, options


def _needed(use: str, where: str) -> None:
    module, extra = NEEDS[use]
    try:
        importlib.import_module(module)
    except ImportError:
        hint = f"pip install 'shortlist[{extra}]', or leave the index at \"auto\""
        raise ConfigError(f"{module} is not installed", where=f"{where}.use", hint=hint) from None


def indexed(form: Vectors, config: IndexConfig, where: str, queries: Asking | None = None) -> Indexed:
    """The index of a form as `config` asks for it. `queries` gives what users ask, where that is known; else sums
    of a few items' vectors stand for them.

    Raises ArtifactError when not even the greatest effort finds the declared share, ConfigError as `kind_of`.
    """
    started = time.perf_counter()
    use, kind, options = kind_of(config, where, len(form.keys))
    points = Points(form)
    if len(points) < FEW or bool((points.matrix == points.matrix[0]).all()):  # nothing to learn groups or codes from
        use, kind, options = kind_of(IndexConfig(), where)
    engine: Engine = kind.build(options, points, config.seed)
    rng = np.random.default_rng(config.seed)
    found = 1.0
    if not engine.exact:
        asked = _sampled(points, rng) if queries is None else _some(queries(), rng)
        engine, found = canary(engine, asked, config.recall, where)
    index = VectorIndex(form, engine, identity(points))
    if engine.exact:
        index.verify(rng)
    words = {"use": use, "options": plain(engine.config), "fingerprint": index.fingerprint}
    metrics = {"index_recall": round(found, 4), "index_seconds": round(time.perf_counter() - started, 3)}
    return Indexed(index, {"index": words | {"asked": plain(config)}}, metrics)


def _some(queries: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return queries[rng.permutation(len(queries))[:SAMPLE]]


def _sampled(points: Points, rng: np.random.Generator) -> NDArray[np.float32]:
    """Sums of one to five items' vectors [SAMPLE, D]: histories of nobody, less alike than a user's."""
    if not len(points):
        return np.zeros((0, points.width), dtype=np.float32)
    rows = rng.integers(0, len(points), (SAMPLE, MIXED))
    weights = (np.arange(MIXED) < rng.integers(1, MIXED + 1, SAMPLE)[:, None]).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    mixed: NDArray[np.float32] = np.einsum("sm,smd->sd", weights, points.matrix[rows])
    return mixed


def canary(engine: Engine, queries: NDArray[np.float32], recall: float, where: str) -> tuple[Engine, float]:
    """The engine with the least effort that finds `recall` of each query's best, and the share it finds.

    An item counts that scores as high as the last of the exact ones, whatever its key. Raises ArtifactError when the
    greatest effort finds less.
    """
    if not len(queries):
        raise ArtifactError("no queries to measure it with", where=where, hint='use = "flat"')
    points = engine.points
    asked, depth = points.asked(queries), min(DEPTH, len(points))
    edge = points.exact(asked, depth)[1][:, -1]

    def measured(engine: Engine) -> float:
        scores = points.ranked(asked, engine.find(asked, depth), depth)[1]
        return float((scores >= edge[:, None]).mean())

    low, most = 0, engine.most()
    effort = min(most, getattr(engine.config, engine.effort))
    engine = engine.tuned(effort)
    while (found := measured(engine)) < recall:
        if effort == most:
            what = f"{engine.effort} = {effort} is all there is, and finds {found:.4f} of the best {depth} items"
            what += f", not {recall:g}"
            hint = 'declare less recall, give it other options, or use = "flat"'
            raise ArtifactError(what, where=where, hint=hint)
        low, effort = effort, min(most, 2 * effort)
        engine = engine.tuned(effort)
    while effort - low > max(1, low // 8) and low:  # between what is too little and what is enough
        middle = (low + effort) // 2
        if (share := measured(tried := engine.tuned(middle))) >= recall:
            engine, effort, found = tried, middle, share
        else:
            low = middle
    return engine, found


def opened(artifact: Artifact, given: Form | None = None) -> Form | VectorIndex:
    """The artifact's form, vectors with the index that was built over them: nothing is built here. Where another form
    is given, the index is that of the artifact if it was built over these very vectors, else search is exact.

    Raises ArtifactError for an index that is damaged or of other vectors, ConfigError where its package is not there.
    """
    form = artifact.form() if given is None else given
    if not isinstance(form, Vectors):
        return form
    words = artifact.manifest.config.get("index")
    if words is None or (given is not None and identity(Points(form)) != words["fingerprint"]):
        return VectorIndex(form)
    where = f"{artifact.manifest.name}.index"
    asked = IndexConfig(use=words["use"], options=words["options"])
    _, kind, options = kind_of(asked, where)
    mapped = sum(entry.bytes for entry in artifact.manifest.files.values()) > MAPPED_ABOVE
    engine = kind.open(options, Points(form), artifact.folder, mapped)
    return VectorIndex(form, engine, words["fingerprint"])
