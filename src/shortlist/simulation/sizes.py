"""Worlds of known size, fixed before anything was measured on them but how like MovieLens their logs are.

The numbers behind all of them (`World.Config`, `truth.Click`, `policies/popularity.py`) were set once, so that the log
of size M under the popularity policy is like ml-1m in two things: the share of distinct (user, item) pairs on the top
1 % and 10 % of items, and what EASE finds against what hot items find, in NDCG@10 and recall@10, of a random fifth of
each user's pairs, held out (ml-1m has no times to hold the last ones out by). The way there was by hand: the popularity
policy's `power` and the spread of `appeal` move the head, `taste` moves the ratio, `base` holds the click rate near a
tenth. `python -m bench.world --like M` measures both logs. Sizes differ in users, items, visits and ticks alone; tiny
has fewer categories, as it has fewer items.
"""

__all__ = ["SIZES"]

from shortlist.simulation.world import World

SIZES = {
    "tiny": World.Config(users=250, items=300, categories=8),
    "S": World.Config(users=2_300, items=1_500, tick_hours=6),
    "M": World.Config(users=6_300, items=3_700, visits=0.9, tick_hours=3),
    "L": World.Config(users=25_500, items=10_000, visits=0.9, tick_hours=1),
    "XL": World.Config(users=255_000, items=50_000, visits=0.9, tick_hours=1),
}
"""100 thousand, 1, 5, 20 and 200 million events in 30 days under the popularity policy, within some percent."""
