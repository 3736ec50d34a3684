"""Ranking one held-out item among drawn ones (He X. et al., WWW 2017): only to compare with that literature.

Metrics over a few drawn candidates order methods otherwise than rankings of everything do (Krichene & Rendle, KDD
2020).
R requests, C candidates each, the held-out item first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.evaluation.ranking import candidates_ranking
from shortlist.funnel.pipeline import Channel, Funnel, sound

__all__ = ["sampled"]

ALL = 1 << 30


def sampled(
    funnel: Funnel, requests: Requests, candidates: NDArray[np.int64], ks: Sequence[int] = (10,)
) -> dict[str, Mapping[str, NDArray[np.float64]]]:
    """Metrics per request of every channel by its own scores of the candidates; an item it lacks is behind all it has.

    Ties are taken at their expectation.
    """
    return {
        channel.name: candidates_ranking(_scores(channel, requests, candidates, funnel.block), 0, ks)
        for channel in funnel.channels
    }


def _scores(channel: Channel, requests: Requests, candidates: NDArray[np.int64], block: int) -> NDArray[np.float32]:
    out = np.full(candidates.shape, -np.inf, dtype=np.float32)
    for at in range(0, len(requests), block):
        part = requests.take(at, min(at + block, len(requests)))
        owners, items, scores = sound(channel.source.recall(part, ALL, _everything), len(part))
        asked = candidates[at : at + len(part)]
        width = int(max(items.max(initial=0), asked.max(initial=0))) + 1
        codes = owners * width + items
        order = np.argsort(codes)
        wanted = (np.arange(len(part))[:, None] * width + asked).ravel()
        place = np.minimum(np.searchsorted(codes, wanted, sorter=order), max(len(codes) - 1, 0))
        if len(codes):
            found = order[place]
            there = codes[found] == wanted
            out[at : at + len(part)] = np.where(there, scores[found], -np.inf).reshape(asked.shape)
    low = np.where(np.isfinite(out), out, np.inf).min(initial=0.0)  # finite, so that what is not brought ties
    return np.where(np.isfinite(out), out, np.float32(low - 1))


def _everything(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(items), dtype=bool)
