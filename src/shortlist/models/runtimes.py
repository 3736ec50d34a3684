"""What runs a ranker: torch, ONNX Runtime, or a library that AOTInductor compiled; the fastest measured is chosen.

R requests, B rows, N candidates, D width of a kept item. A runtime other than torch sees a batch as named tensors, in
the order of the layout, sequences cut to the longest of the batch; rows, requests and steps may be any number.
docs/decisions/runtimes.md says what was measured.
"""

import hashlib
import importlib.util
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shortlist import __version__
from shortlist.artifact import Artifact, Manifest
from shortlist.batch import Batch, Columns, Group, Layout, Side
from shortlist.candidates import Candidates, Requests
from shortlist.models.blocks.fields import dense
from shortlist.models.tabular import Tabular

if TYPE_CHECKING:
    from shortlist.models.learned import Learned

__all__ = [
    "Runtime", "Eager", "Onnx", "Aot", "NotOfferedError", "RECORD", "settle", "opened", "offers", "measure", "choose",
    "graph", "library", "difference", "example", "sample",
]  # fmt: skip

LOG = logging.getLogger("shortlist.models")
ITSELF = "itself"  # what a table ranker runs on
RECORD = "runtime"  # the key of an artifact's config that says what was chosen, and its graph's name
TOLERANCE = 1e-5  # of a logit, and relative to it where it is beyond 1
MARGIN = 0.9  # a runtime is worth its trouble when it takes at most this share of a plainer one's time
ROUNDS = 5  # times that every request is asked of every runtime
SHAPES = ((1, 1), (1, 50), (3, 17))  # requests and rows of the self-test


class NotOfferedError(Exception):
    """This runtime cannot be had here; the text says why."""


class Runtime(Protocol):
    """A ranker's forward pass. `item` [B, D] are a coarse ranker's kept items, None where it keeps none."""

    def __call__(self, batch: Batch, item: Tensor | None = None) -> dict[str, Tensor]:
        """task -> logit [B]."""


class Eager:
    """The module itself, in torch: always there."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: Batch, item: Tensor | None = None) -> dict[str, Tensor]:
        out: dict[str, Tensor]
        out = self.model(batch) if item is None else self.model.score(self.model.user(batch.request), item, batch)
        return out


class Onnx:
    """A graph in ONNX Runtime, on one thread: requests are what runs side by side."""

    def __init__(self, content: bytes, layout: Layout) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise NotOfferedError("onnxruntime is not installed (pip install 'shortlist[onnx]')")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # what fails is raised; warnings are the exporter's
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NotOfferedError(f"onnxruntime does not read the graph: {_first(error)}") from error
        self.layout = layout
        self.names = [given.name for given in self.session.get_inputs()]

    def __call__(self, batch: Batch, item: Tensor | None = None) -> dict[str, Tensor]:
        given = tensors(batch, self.layout, item)
        out = self.session.run(list(self.layout.tasks), {name: given[name].numpy() for name in self.names})
        return {task: torch.from_numpy(logit) for task, logit in zip(self.layout.tasks, out, strict=True)}


class Aot:
    """A library made by `library`, from this machine's cache."""

    def __init__(self, path: Path, layout: Layout) -> None:
        if not path.is_file():
            raise NotOfferedError("nothing is compiled in this machine's cache (publish here)")
        owned(path.parent)
        try:
            self.run: Any = torch._inductor.aoti_load_package(str(path), run_single_threaded=False)
        except Exception as error:
            raise NotOfferedError(f"the compiled library does not load: {_first(error)}") from error
        self.layout = layout

    def __call__(self, batch: Batch, item: Tensor | None = None) -> dict[str, Tensor]:
        out = self.run(*tensors(batch, self.layout, item).values())
        return dict(zip(self.layout.tasks, out, strict=True))


# ------------------------------------------------------------------------------------------ a batch as tensors


def tensors(batch: Batch, layout: Layout, item: Tensor | None = None) -> dict[str, Tensor]:
    """What the layout names of a batch, by name, contiguous; sequences as long as the longest, at least one step."""
    out: dict[str, Tensor] = {}
    for name, columns, side in (("request", batch.request, layout.request), ("row", batch.row, layout.row)):
        names = tuple(side.sparse)
        at = [columns.sparse_names.index(column) for column in names]
        out[f"{name}.sparse"] = columns.sparse if names == columns.sparse_names else columns.sparse[:, at]
        out[f"{name}.dense"] = dense(columns, side)
        for key, channels in side.groups.items():
            group = columns.groups[key]
            wide = group.channels[next(iter(channels))].shape[1]
            steps = max(1, min(wide, int(group.length.max()))) if len(group.length) else 1
            out[f"{name}.{key}.length"] = group.length.clamp(max=steps)
            for channel in channels:
                ids = group.channels[channel][:, :steps]
                out[f"{name}.{key}.{channel}"] = ids if wide else ids.new_zeros(len(ids), 1)
        for key in side.vecs:
            out[f"{name}.{key}"] = columns.vecs[key]
    out["request_of"] = batch.request_of
    if item is not None:
        out["item"] = item
    return {name: tensor.contiguous() for name, tensor in out.items()}


class Flat(nn.Module):
    """A ranker as a function of `tensors`; `kept` when the last of them is a coarse ranker's items."""

    def __init__(self, model: nn.Module, layout: Layout, kept: bool) -> None:
        super().__init__()
        self.model, self.layout, self.kept = model, layout, kept

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        tensor = iter(given)
        request, row = columns(tensor, self.layout.request), columns(tensor, self.layout.row)
        batch = Batch(request, row, next(tensor))
        out = Eager(self.model)(batch, next(tensor) if self.kept else None)
        return tuple(out[task] for task in self.layout.tasks)


def columns(tensor: Iterator[Tensor], side: Side) -> Columns:
    """The next of `tensors` as a side of a batch."""
    sparse, numbers = next(tensor), next(tensor)
    groups = {}
    for key, channels in side.groups.items():
        length = next(tensor)
        groups[key] = Group(length, {channel: next(tensor) for channel in channels})
    return Columns(sparse, numbers, tuple(side.sparse), side.dense, groups, {key: next(tensor) for key in side.vecs})


def example(layout: Layout, requests: int, rows: int, rng: np.random.Generator, steps: int | None = None) -> Batch:
    """A batch of random columns; sequences are of random lengths up to `steps`, else of a width of their own each."""
    widths = iter((5, 11, 13, 17, 19, 23, 29, 31)) if steps is None else iter(())

    def side(of: Side, n: int) -> Columns:
        def ids(words: str, *shape: int) -> NDArray[np.int64]:
            return rng.integers(0, layout.vocabularies[words], (n, *shape))

        groups = {}
        for key, channels in of.groups.items():
            wide = next(widths, 37) if steps is None else max(1, steps)
            length = rng.integers(0, (wide if steps is None else steps) + 1, n)
            if steps is None:
                length[0] = wide
            groups[key] = (length, {channel: ids(words, wide) for channel, words in channels.items()})
        return Columns.of(
            n,
            {name: ids(words) for name, words in of.sparse.items()},
            {name: rng.normal(size=n) for name in of.dense},
            groups,
            {name: rng.normal(size=(n, wide)).astype(np.float32) for name, wide in of.vecs.items()},
        )

    owners = np.sort(np.arange(rows) % requests)
    return Batch.of(side(layout.request, requests), side(layout.row, rows), owners)


# ------------------------------------------------------------------------------------------ export


def program(learned: "Learned") -> Any:
    """The ranker as a graph whose rows, requests and steps are free. Raises NotOfferedError."""
    layout, rng = learned.layout, np.random.default_rng(0)
    batch = example(layout, 3, 7, rng)
    with torch.no_grad():
        item = _items(learned, batch)
    given = tensors(batch, layout, item)
    free = torch.export.Dim.DYNAMIC
    steps = {
        f"{name}.{key}.{channel}"
        for name, side in (("request", layout.request), ("row", layout.row))
        for key, channels in side.groups.items()
        for channel in channels
    }
    shapes = tuple({0: free, 1: free} if name in steps else {0: free} for name in given)
    flat = Flat(learned.model, layout, item is not None).eval()
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(flat, tuple(given.values()), dynamic_shapes=(shapes,), strict=True)
    except Exception as error:
        raise NotOfferedError(f"the model cannot be exported: {_first(error)}") from error


def graph(learned: "Learned") -> bytes:
    """The ranker as an ONNX graph. Raises NotOfferedError."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotOfferedError(f"{missing[0]} is not installed (pip install 'shortlist[onnx]')")
    made = program(learned)
    names = list(tensors(example(learned.layout, 1, 1, np.random.default_rng(0), 1), learned.layout))
    names += ["item"] * (learned.items is not None)
    try:
        with torch.no_grad(), quiet():
            done: Any = torch.onnx.export(
                made, dynamo=True, input_names=names, output_names=list(learned.layout.tasks), verbose=False
            )
        proto = done.model_proto
        for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
            for node in nodes:
                del node.metadata_props[:]  # where in the sources of the exporting machine a node comes from
        for value in (proto.graph, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
            del value.metadata_props[:]
        content: bytes = proto.SerializeToString(deterministic=True)
    except Exception as error:
        raise NotOfferedError(f"the graph cannot be written as ONNX: {_first(error)}") from error
    return content


def library(learned: "Learned", path: Path) -> None:
    """Compile the ranker to `path`, in this machine's cache. Raises NotOfferedError."""
    made = program(learned)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        owned(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch, torch.no_grad(), quiet():
            done = torch._inductor.aoti_compile_and_package(made, package_path=f"{scratch}/model.pt2")
            Path(done).replace(path)
    except NotOfferedError:
        raise
    except Exception as error:
        raise NotOfferedError(f"the model cannot be compiled: {_first(error)}") from error


def owned(folder: Path) -> None:
    """Raises NotOfferedError for a folder that others may write to: what lies there is run."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise NotOfferedError(f"others may write to {folder} (chmod 700, or set SHORTLIST_CACHE)")


def cached(manifest: Manifest) -> Path:
    """Where the library of an artifact lies: by what it holds, and by what compiled it for which processor."""
    files = {name: entry.sha256 for name, entry in manifest.files.items() if not name.endswith(".onnx")}
    config = {key: value for key, value in manifest.config.items() if key != RECORD}
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    processor = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    words = [files, config, torch.__version__, __version__, torch.backends.cpu.get_cpu_capability(), processor]
    name = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SHORTLIST_CACHE") or f"{base}/shortlist") / "compiled" / f"{name}.pt2"


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of their own insides: what fails is raised."""
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "torch._inductor", "onnxscript", "onnx_ir")]
    before = [exporter.level for exporter in exporters]
    for exporter in exporters:
        exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for exporter, level in zip(exporters, before, strict=True):
            exporter.setLevel(level)


# ------------------------------------------------------------------------------------------ choice


def difference(learned: "Learned", runtime: Runtime, rng: np.random.Generator) -> float:
    """The largest difference of a logit from torch's, relative to it beyond 1: random batches and an empty history."""
    eager, worst = Eager(learned.model), 0.0
    with torch.inference_mode():
        for requests, rows, steps in (*((*shape, 9) for shape in SHAPES), (2, 5, 0)):
            batch = example(learned.layout, requests, rows, rng, steps)
            item = _items(learned, batch)
            expected, found = eager(batch, item), runtime(batch, item)
            for task, logit in expected.items():
                gap = float(((found[task] - logit).abs() / logit.abs().clamp(min=1)).max())
                worst = max(worst, gap if np.isfinite(gap) else float("inf"))
    return worst


def tested(learned: "Learned", runtime: Runtime) -> Runtime:
    """The runtime, once it has answered as torch does. Raises NotOfferedError."""
    try:
        gap = difference(learned, runtime, np.random.default_rng(0))
    except Exception as error:
        raise NotOfferedError(f"the self-test failed: {_first(error)}") from error
    if gap > TOLERANCE:
        raise NotOfferedError(f"its answers differ from torch's by {gap:.1e}, allowed are {TOLERANCE:.0e}")
    return runtime


def offers(
    learned: "Learned", manifest: Manifest, names: Sequence[str]
) -> tuple[dict[str, Runtime], dict[str, str], bytes | None]:
    """Of these runtimes the ones that work here and agree with torch, why the others do not, and the ONNX graph."""
    found: dict[str, Runtime] = {"torch": Eager(learned.model)}
    left_out: dict[str, str] = {}
    content: bytes | None = None
    for name in names:
        try:
            if name == "onnx":
                content = graph(learned)
                found[name] = tested(learned, Onnx(content, learned.layout))
            elif name == "aot":
                place = cached(manifest)
                if not place.is_file():
                    library(learned, place)
                found[name] = tested(learned, Aot(place, learned.layout))
        except NotOfferedError as reason:
            left_out[name] = str(reason)
    return found, left_out, content


def measure(
    learned: "Learned",
    runtimes: Mapping[str, Runtime],
    requests: Requests,
    candidates: Candidates,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Milliseconds of the forward pass of one request by runtime, the median; runtimes take turns in random order."""
    whole = learned.assembler(requests, candidates)
    batches = [
        whole.rows(int(low), int(high))
        for low, high in zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True)
        if high > low
    ]
    took: dict[str, list[float]] = {name: [] for name in runtimes}
    with torch.inference_mode():
        asked = [(batch, _items(learned, batch)) for batch in batches]
        for timed in (False, *(True for _ in range(ROUNDS))):
            for batch, item in asked:
                for name in rng.permutation(list(runtimes)).tolist():
                    started = time.perf_counter()
                    runtimes[name](batch, item)
                    if timed:
                        took[name].append(1000 * (time.perf_counter() - started))
    return {name: float(np.median(times)) for name, times in took.items() if times}


def choose(p50_ms: Mapping[str, float]) -> str:
    """The fastest; but torch, which is everywhere, then ONNX, which goes to any machine, where little would be won."""
    best = "torch"
    for name in ("onnx", "aot"):
        if name in p50_ms and p50_ms[name] <= MARGIN * p50_ms[best]:
            best = name
    return best


def settle(
    learned: "Learned",
    manifest: Manifest,
    names: Sequence[str],
    requests: Requests,
    candidates: Candidates,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What an artifact is to be amended by: the record of the choice for its config, and the graph if it was chosen."""
    alone = isinstance(learned.model, Tabular)  # nothing else can run it
    found, left_out, content = offers(learned, manifest, () if alone else names)
    if alone:
        found = {ITSELF: found["torch"]}
    took = measure(learned, found, requests, candidates, rng)
    use = ITSELF if alone else choose(took)
    per = round(len(candidates) / max(1, len(requests)))
    record = {
        "use": use,
        "p50_ms": {name: round(ms, 3) for name, ms in took.items()},
        "candidates": per,
        "left_out": left_out,
    }
    return {RECORD: record}, {RECORD: content} if use == "onnx" and content is not None else {}


def opened(artifact: Artifact, learned: "Learned") -> Runtime:
    """The runtime chosen at publish, tested again here; torch, told in the log, where it cannot be had."""
    manifest = artifact.manifest
    use = manifest.config.get(RECORD, {}).get("use", "torch")
    try:
        if use == "onnx":
            return tested(learned, Onnx(artifact.graph(RECORD), learned.layout))
        if use == "aot":
            return tested(learned, Aot(cached(manifest), learned.layout))
        if use not in ("torch", ITSELF):
            raise NotOfferedError("this version does not know it")
    except NotOfferedError as reason:
        LOG.warning("%s runs on torch, not on %s: %s", manifest.name, use, reason)
    return Eager(learned.model)


def sample(
    learned: "Learned", requests: Requests, channels: Sequence[str], n: int, rng: np.random.Generator
) -> Candidates:
    """n random items for each request, as if the first channel had brought them: a stage's work, not its answer."""
    keys = learned.assembler.items.keys
    n = min(n, len(keys))
    items = np.concatenate([rng.permutation(keys)[:n] for _ in range(len(requests))]).astype(np.int64)
    rank = np.zeros((len(items), len(channels)), dtype=np.int32)
    rank[:, :1] = np.tile(np.arange(1, n + 1), len(requests))[:, None]
    offsets = np.arange(len(requests) + 1, dtype=np.int64) * n
    empty = replace(Candidates.empty(len(requests), tuple(channels)), offsets=offsets, items=items)
    return replace(empty, rank=rank, score=np.zeros(rank.shape, dtype=np.float32), fate=np.zeros(len(items), np.int16))


def _items(learned: "Learned", batch: Batch) -> Tensor | None:
    """Items [B, D] as a coarse ranker keeps them, fresh."""
    if learned.items is None:
        return None
    item: Tensor = learned.model.item(batch.row).contiguous()
    return item


def _first(error: Exception) -> str:
    """The first line of what an engine says, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
