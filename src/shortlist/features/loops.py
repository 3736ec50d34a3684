"""Sequential parts of counting, compiled: who is pushed out by a cap, running sums by group, counts of what came late.

E events, G groups, P points, Q questions. Import this only inside a function: it loads numba.
"""

__all__ = ["lives", "running", "dominated", "trailing"]

import numpy as np
from numpy.typing import NDArray

from shortlist.tables.compiled import loop

Ints = NDArray[np.int64]
Real = NDArray[np.float64]


@loop
def lives(bounds: Ints, subs: Ints, minutes: Ints, cap: int, slack: int, steps: Ints, lengths: Ints) -> Ints:
    """Of each event [E] the place of the one that pushed its sub out, E where none did.

    Entity k owns events `bounds[k]:bounds[k+1]`, in order of log offsets. It holds `cap` subs; one more pushes out that
    with the least (newest minute, sub), perhaps itself. Subs whose newest minute is before all of
    `floor(n - slack, step) - length`, n the newest so far, have expired and push out nobody.
    """
    total = len(subs)
    ends = np.full(total, total, dtype=np.int64)
    before = np.full(total, -1, dtype=np.int64)  # the event before it of its sub's present life
    held, newest, last = np.empty(cap, np.int64), np.empty(cap, np.int64), np.empty(cap, np.int64)
    for entity in range(len(bounds) - 1):
        size, top, reach = 0, np.int64(-1), np.int64(0)
        for e in range(bounds[entity], bounds[entity + 1]):
            sub, minute = subs[e], minutes[e]
            if top < 0 or minute > top:
                top = minute
                reach = (top - slack) // steps[0] * steps[0] - lengths[0]
                for w in range(1, len(steps)):
                    reach = min(reach, (top - slack) // steps[w] * steps[w] - lengths[w])
            if minute < reach:
                continue
            place = -1
            for j in range(size):
                if held[j] == sub:
                    place = j
                    break
            if place >= 0:
                if newest[place] >= reach:
                    before[e] = last[place]
                newest[place] = max(newest[place], minute)
                last[place] = e
                continue
            if size == cap:
                kept = 0
                for j in range(size):
                    if newest[j] >= reach:
                        held[kept], newest[kept], last[kept] = held[j], newest[j], last[j]
                        kept += 1
                size = kept
            if size < cap:
                held[size], newest[size], last[size] = sub, minute, e
                size += 1
                continue
            least = 0
            for j in range(1, size):
                if newest[j] < newest[least] or (newest[j] == newest[least] and held[j] < held[least]):
                    least = j
            if minute < newest[least] or (minute == newest[least] and sub < held[least]):
                ends[e] = e
                continue
            gone = last[least]
            while gone >= 0:
                ends[gone] = e
                gone = before[gone]
            held[least], newest[least], last[least] = sub, minute, e
    return ends


@loop
def running(groups: NDArray[np.int32], minutes: NDArray[np.int32], values: Real, half_life: float) -> Real:
    """Sums of values up to and with each event [E] of its group, decayed to its minute where `half_life` > 0."""
    out = np.empty(len(values))
    for e in range(len(values)):
        out[e] = values[e]
        if e > 0 and groups[e] == groups[e - 1]:
            fade = 1.0 if half_life <= 0 else 2.0 ** (-(minutes[e] - minutes[e - 1]) / half_life)
            out[e] += out[e - 1] * fade
    return out


@loop
def dominated(order: Ints, ranks: Ints, values: Real, asked: Ints, known: Ints, low: Ints, high: Ints) -> Real:
    """Sum of values of points `low[q]:high[q]` with a rank below `known[q]`: [Q]. A Fenwick tree, filled by rank.

    `order` [P] sorts the points by rank, `asked` [Q] the questions by `known`.
    """
    tree = np.zeros(len(values) + 1)
    out = np.zeros(len(known))
    filled = 0
    for n in range(len(asked)):
        q = asked[n]
        while filled < len(order) and ranks[order[filled]] < known[q]:
            place = order[filled] + 1
            while place < len(tree):
                tree[place] += values[order[filled]]
                place += place & -place
            filled += 1
        place = high[q]
        while place > 0:
            out[q] += tree[place]
            place -= place & -place
        place = low[q]
        while place > 0:
            out[q] -= tree[place]
            place -= place & -place
    return out


@loop
def trailing(
    minutes: Ints, ranks: Ints, values: Real, low: Ints, high: Ints, known: Ints, at: Ints, half_life: float
) -> Real:
    """Sum of points `low[q]:high[q]` with a rank below `known[q]`, decayed to the minute `at[q]`: [Q]."""
    out = np.zeros(len(known))
    for q in range(len(known)):
        for p in range(low[q], high[q]):
            if ranks[p] < known[q]:
                out[q] += values[p] * 2.0 ** (-(at[q] - minutes[p]) / half_life)
    return out
