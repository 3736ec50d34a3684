"""Tables as bytes for serving, and what that costs: measured where training looked last. B rows, T tasks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch
from shortlist.models.blocks.embed import packed
from shortlist.models.learned import Learned
from shortlist.training.plan import Plan

__all__ = ["compact", "lost", "size"]


def compact(learned: Learned, plan: Plan) -> Learned:
    """The same with each table as bytes and a scale a row: what an artifact holds and a server runs."""
    layout = replace(learned.layout, packed=True)
    model: nn.Module = plan.kind(plan.config(), layout)
    weights: dict[str, Tensor] = dict(learned.model.state_dict())
    for name in model.state_dict():
        place, _, what = name.rpartition(".")
        if what == "bytes" and f"{place}.weight" in weights:
            weights[name], weights[f"{place}.scale"] = packed(weights.pop(f"{place}.weight"))
    model.load_state_dict(weights)
    return replace(learned, model=model.eval(), layout=layout)


def lost(
    before: Learned,
    after: Learned,
    outputs: Callable[[Any, Batch], Tensor],
    batches: Iterable[Batch],
    judge: Callable[[Any], Mapping[str, float]] | None = None,
) -> dict[str, float]:
    """What a model's outputs differ by, the largest and the mean, what `judge` says differently (after minus before),
    and the bytes of both models."""
    largest, total, n = 0.0, 0.0, 0
    told = {"float32.bytes": float(size(before.model)), "int8.bytes": float(size(after.model))}
    with torch.inference_mode():
        for batch in batches:
            gap = (outputs(after.model, batch) - outputs(before.model, batch)).abs()
            if gap.numel():
                largest = max(largest, float(gap.max()))
                total, n = total + float(gap.sum(dtype=torch.float64)), n + gap.numel()
        if judge is not None:
            was, now = judge(before.model), judge(after.model)
            told |= {f"int8.{name}": now[name] - was[name] for name in was if name in now and ".gate_" not in name}
    return told | {"int8.largest": largest, "int8.mean": total / max(n, 1)}


def size(model: nn.Module) -> int:
    """Bytes of what is saved."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
