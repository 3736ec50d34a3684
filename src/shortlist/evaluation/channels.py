"""What a recall channel costs, beside what it brings: memory of its form, and time of a single request."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shortlist.artifact import Artifact
from shortlist.candidates import Requests
from shortlist.funnel.pipeline import Funnel

__all__ = ["Cost", "costs"]

ASKED = 50  # single requests that are timed


@dataclass(frozen=True)
class Cost:
    """`bytes` of the channel's artifact; milliseconds of a single request to its source, the median and the slowest in
    twenty. `cold_users` and `cold_items` say whether it serves users without events of training and brings items that
    nobody has met; None where the model does not say."""

    bytes: int
    p50_ms: float
    p95_ms: float
    cold_users: bool | None = None
    cold_items: bool | None = None


def costs(
    funnel: Funnel, requests: Requests, artifacts: Mapping[str, Artifact], models: Mapping[str, type]
) -> dict[str, Cost]:
    """By channel. At most `ASKED` of the requests, spread evenly, are asked one by one, after one that is not timed."""
    at = np.unique(np.linspace(0, len(requests) - 1, min(ASKED, len(requests))).astype(np.int64))
    out = {}
    for channel in funnel.channels:
        took = []
        for n, row in enumerate([int(at[0]), *at.tolist()]):
            one = requests.take(row, row + 1)
            keep = funnel.keep(one)
            started = time.perf_counter()
            channel.source.recall(one, channel.quota, keep)
            if n:
                took.append((time.perf_counter() - started) * 1000)
        size = sum(entry.bytes for entry in artifacts[channel.name].manifest.files.values())
        model = models[channel.name]
        cold = (getattr(model, "cold_users", None), getattr(model, "cold_items", None))
        out[channel.name] = Cost(size, float(np.median(took)), float(np.quantile(took, 0.95)), *cold)
    return out
