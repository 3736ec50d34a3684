"""An explanation in sentences."""

from collections.abc import Mapping
from typing import Any

from shortlist.candidates import Requests
from shortlist.funnel.pipeline import BACKFILL

__all__ = ["tell"]

FILTERS = {
    "seen": "the user has seen it already",
    "available": "it is not in the catalogue of this release, or outside its availability window",
    "excluded": "the request ruled it out",
}
LITTLE = 1e-4  # a change of a score that is not worth a word
FATES = {
    "over_budget": "It was recalled, but too far down to stay within the scene's budget of candidates.",
    "below_coarse": "The coarse ranker put it below the items that went on to the ranker.",
    "below_rank": "The ranker put it below the items that went on to the page.",
    "not_selected": "It came through to the end, but other items took the places.",
    "not_recalled": "No channel brought it.",
}


def tell(found: Mapping[str, Any], requests: Requests, item: int) -> list[str]:
    """Sentences for what `funnel.explain` found: the outcome, what channels and filters did, what would move it."""
    fate = found["fate"]
    if fate == "selected":
        out = [f"It is on the page, at place {found['position']} of {requests.n}."]
        if found["stage"] == BACKFILL:
            out.append("It came from the fallback list, because the channels brought too little.")
    elif fate in FATES:
        out = [FATES[fate]]
    else:
        out = [f"The filter '{fate}' dropped it: {FILTERS.get(fate, 'it did not pass')}."]
    for channel in found["channels"]:
        name, rank, quota = channel["channel"], channel["rank"], channel["quota"]
        if rank is None:
            out.append(f"{name} does not know it for this user.")
        elif channel["brought"]:
            out.append(f"{name} ranks it {rank}, within its quota of {quota}.")
        else:
            out.append(f"{name} ranks it {rank}, outside its quota of {quota}.")
    others = [name for name, ok in found["filters"].items() if not ok and name != fate]
    out += [f"The filter '{name}' would drop it as well: {FILTERS.get(name, 'it does not pass')}." for name in others]
    most = [part for part in found["features"] if abs(part["change"]) > LITTLE][:3]
    if most:
        adds = ", ".join(f"{part['feature']} {part['change']:+.3g}" for part in most)
        out.append(f"What adds most to its score, or takes most of it: {adds}.")
    if found["would_move"]:
        out.append(f"What would change this: {', and '.join(found['would_move'])}.")
    if item in requests.history.items and fate != "seen":
        out.append("The user has interacted with it before.")
    return out
