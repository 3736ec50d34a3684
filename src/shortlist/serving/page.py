"""A slate as it leaves: places with titles, fields, provenance and reasons. S places.

The only Python per item, and only for items shown.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Slates
from shortlist.forms import Lists
from shortlist.funnel.trace import reasons
from shortlist.serving.live import Live
from shortlist.serving.reasons import because, words
from shortlist.serving.wire import Brought, Shown

__all__ = ["page", "finite"]


def page(live: Live, slates: Slates) -> list[Shown]:
    """The places of the first request's slate."""
    picks = slates.picks[: int(slates.offsets[1])]
    keys = slates.candidates.items[picks]
    titles, images = live.titles(keys), live.column(live.schema.image, keys)
    columns = {name: live.column(name, keys) for name in live.shown_fields}
    causes = _causes(live, slates, keys)
    region = live.region(slates.requests)
    tasks = _tasks(slates)
    out = []
    for k, (key, score) in enumerate(zip(keys.tolist(), slates.scores[: len(picks)].tolist(), strict=True)):
        brought = [Brought(**row) for row in reasons(slates, int(picks[k]))]
        titled = {channel: found[k] for channel, found in causes.items()}
        shown = Shown(
            item=live.name(key),
            score=finite(score),
            tasks={name: float(v) for name, column in tasks.items() if math.isfinite(v := column[picks[k]])},
            channels=brought,
            reasons=words(brought, live.source, titled, region),
            title=titles[k],
            image=None if images[k] is None else str(images[k]),
            fields={name: values[k] for name, values in columns.items() if values[k] is not None},
        )
        out.append(shown)
    return out


def _tasks(slates: Slates) -> dict[str, NDArray[np.float32]]:
    """What the last scoring stage says of each candidate [N], by task; nothing where the merge alone scored."""
    scores = slates.candidates.scores
    last = next((stage for stage in ("rank", "coarse") if stage in scores), None)
    prefix = f"{last}."
    return {name.removeprefix(prefix): column for name, column in scores.items() if name.startswith(prefix)}


def _causes(live: Live, slates: Slates, keys: NDArray[np.int64]) -> dict[str, list[str | None]]:
    """By item-to-item channel: for each shown item [S] the title of the item of the history that it rests on."""
    out = {}
    for channel in live.item_to_item:
        form = live.forms[channel]
        assert isinstance(form, Lists)
        found = because(form, slates.requests.history.items, keys, live.looks_back(channel))
        titles = zip(found.tolist(), live.titles(found), strict=True)
        out[channel] = [None if key < 0 else title or live.name(key) for key, title in titles]
    return out


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
