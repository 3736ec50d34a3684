"""UserCF and Swing on ml-1m: processor time and memory of a fit, and of a request for 200 items of UserCF's channel.

    SHORTLIST_DATA=... python -m bench.similar [--asked 200] [--seed 0] [--out result.json]

All 999,721 pairs, default options; loops are loaded by a fit of two events first. Requests come one at a time from
users of the log, with stored similar users and with those of the history at hand (`fresh`).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.report import data_folder, origin, peak_mb, resident_mb, table, write
from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Built, Lists
from shortlist.funnel.sources.similar_users import SimilarUsers
from shortlist.models.recall.swing import Swing
from shortlist.models.recall.user_cf import UserCF
from shortlist.schema import Catalogue, Schema

SCHEMA, NOBODY = Schema.parse({}), Catalogue.empty()
N = 200


def fitted(name: str, solve: Callable[[Interactions], Any], log: Interactions) -> tuple[Any, dict[str, Any]]:
    solve(Interactions.of(np.zeros(2, dtype=np.int64), np.arange(2)))
    loaded, start = resident_mb(), time.process_time()
    made = solve(log)
    return made, {"what": f"fit {name}", "CPU s": time.process_time() - start, "MB above loaded": peak_mb() - loaded}


def requests(built: Built, log: Interactions, asked: int, fresh: bool, seed: int) -> dict[str, Any]:
    """Milliseconds of processor time by request; the first five are not counted."""
    assert isinstance(built.form, Lists)
    source = SimilarUsers(SimilarUsers.Config(fresh=fresh), built.form, SCHEMA, built.beside, NOBODY.users)
    took = []
    for user in np.random.default_rng(seed).choice(log.user_keys, asked + 5):
        key, none = np.array([user]), Ragged.empty(1)
        history = log.histories(key)
        request = Requests(key, np.zeros(1, dtype=np.int64), N, history, none, none)
        start = time.process_time()
        source.recall(request, N, lambda owners, items, met=history: ~met.contains(owners, items))  # type: ignore[misc]
        took.append(1000 * (time.process_time() - start))
    p50, p99 = np.percentile(took[5:], [50, 99])
    return {"what": f"request, {'fresh' if fresh else 'stored'}", "p50 ms": float(p50), "p99 ms": float(p99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frame = pl.read_parquet(data_folder() / "ml-1m" / "interactions.parquet").cast(pl.Int64)
    log = Interactions.of(frame["user_id"].to_numpy(), frame["movie_id"].to_numpy())
    del frame
    user_cf, swing = UserCF(UserCF.Config(), SCHEMA), Swing(Swing.Config(), SCHEMA)
    built, fit = fitted("user_cf", lambda events: user_cf.solve(events, NOBODY, 0), log)
    other = fitted("swing", lambda events: swing.solve(events, NOBODY, 0), log)[1]
    asked = [requests(built, log, options.asked, fresh, options.seed) for fresh in (False, True)]
    print(table([fit, other]), table(asked), sep="\n")
    write(options.out, {"origin": origin(seed=options.seed), "fits": [fit, other], "requests": asked})


if __name__ == "__main__":
    main()
