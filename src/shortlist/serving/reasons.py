"""Why a shown item is there, in words a visitor would understand. Words rest on provenance, nothing is made up."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import located, spans
from shortlist.forms import Lists
from shortlist.funnel.pipeline import BACKFILL
from shortlist.serving.wire import Brought

__all__ = ["because", "words"]


def because(form: Lists, history: NDArray[np.int64], shown: NDArray[np.int64], last: int) -> NDArray[np.int64]:
    """For each shown item [S] the one of the `last` items of the history whose list scores it highest, -1 for none.

    Ties go to the more recent one; a score of 0 or less is no reason.
    """
    out = np.full(len(shown), -1, dtype=np.int64)
    recent = history[::-1]
    _, first = np.unique(recent, return_index=True)
    recent = recent[np.sort(first)][:last]
    if not len(recent) or not len(form.keys) or not len(shown):
        return out
    at, known = located(form.keys, recent)
    recent, at = recent[known], at[known]
    starts, counts = form.offsets[at], form.offsets[at + 1] - form.offsets[at]
    flat = spans(starts, counts)
    order = np.argsort(shown, kind="stable")
    place = np.minimum(np.searchsorted(shown[order], form.items[flat]), len(shown) - 1)
    hit = (shown[order][place] == form.items[flat]) & (form.scores[flat] > 0)
    owner, target, score = np.repeat(np.arange(len(recent)), counts)[hit], order[place[hit]], form.scores[flat[hit]]
    best = np.lexsort((owner, -score, target))
    target, owner = target[best], owner[best]
    first = np.flatnonzero(np.diff(target, prepend=-1))
    out[target[first]] = recent[owner[first]]
    return out


def words(
    brought: Sequence[Brought],
    source: Callable[[str], str],
    rests_on: Mapping[str, str | None],
    region: str | None,
) -> list[str]:
    """One phrase a channel, best rank first. `source` names a channel's query builder, `rests_on` by channel the
    title of the item of the history that it goes from."""
    out: dict[str, None] = {}
    for one in brought:
        if one.channel == BACKFILL:
            out["popular, to fill the page"] = None
            continue
        kind = source(one.channel)
        title = rests_on.get(one.channel)
        if title is not None:
            out[f"because of {title}"] = None
        elif kind == "popular":
            out[f"popular in {region}" if region else "popular"] = None
        elif kind == "similar_users":
            out["liked by people like you"] = None
        else:
            out[one.channel.replace("_", " ")] = None
    return list(out)
