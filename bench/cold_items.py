"""Items that nobody has met, by their content: recall@20 and NDCG@20 of lists of cold items alone.

    SHORTLIST_DATA=... python -m bench.cold_items --data citeulike_a --field words --tags tags --out cold.json

Everything is fitted to the published training part, in which the held-out items have no event; a user's list ranks the
held-out items of one part by what the user has in training (`bench.published` ranks all items). Channels: `content`,
i2i over vectors of the text `--field` (n-grams, `--dims` singular directions, or a random projection), summed over the
user's items; `tags`, items by the tags of `--tags` that the user prefers; `hot`, which has no score for any of them, so
that all tie. Settings are chosen on the validation items by the sum of both metrics; each channel's choice is measured
once on the test items.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.published import commit
from bench.report import origin, peak_mb, table, write
from shortlist.config import load
from shortlist.dataset.split import relevant
from shortlist.evaluation.project import Data, funnels, open_data, train, trained
from shortlist.events import workspace
from shortlist.funnel.pipeline import Source
from shortlist.metrics.topk import accuracy

K, BLOCK = 20, 1024
EVERY = 1_000_000
Ints = NDArray[np.int64]


def project(folder: Path, adapter: str, seed: int, channel: Mapping[str, Any], field: str, encode: str) -> Data:
    """The project of one channel, whose log is imported once for each way its texts become vectors."""
    words = "\n".join(f"{name} = {json.dumps(value)}" for name, value in channel.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shortlist.toml").write_text(
        f'seed = {seed}\n[data]\nadapter = "{adapter}"\n[split]\nuse = "published"\n'
        f'[schema]\nitems.{field} = {{ kind = "text", encode = {encode} }}\n'
        f"[[recall]]\nquota = {K}\n{words}\n[scene.home]\npage = {K}\nbudget = {K}\n",
        encoding="utf-8",
    )
    found = load(folder)
    workspace.import_log(found, lambda text: print(text, file=sys.stderr), 0, fresh=True)
    return open_data(found)


def ranked(data: Data, source: Source | None, on: Literal["valid", "test"]) -> dict[str, float]:
    """Means over users with a held-out event of this part; without a source, what a list in random order has."""
    asked, log = (data.split.valid if on == "valid" else data.split.test), data.split.train
    users, cold = asked.user_keys, asked.item_keys
    offsets, labels = relevant(asked, users, "", data.schema, log)
    if source is None:
        # Each label is among the first K of N with K / N; each of the K places holds a label with |T| / N.
        counts, discount = np.diff(offsets), 1 / np.log2(np.arange(2, K + 2))
        gain = counts / len(cold) * discount.sum() / np.cumsum(discount)[np.minimum(counts, K) - 1]
        return {"recall@20": K / len(cold), "ndcg@20": float(gain.mean()), "empty": 0.0}
    lists = np.full((len(users), K), -1, dtype=np.int64)

    def held(owners: Ints, items: Ints) -> NDArray[np.bool_]:
        return np.isin(items, cold)

    for at in range(0, len(users), BLOCK):
        part = users[at : at + BLOCK]
        requests = data.requests(part, np.zeros(len(part), dtype=np.int64), K, log.histories(part))
        owners, items, _ = source.recall(requests, K, held)
        those = held(owners, items)
        owners, items = owners[those], items[those]
        place: Ints = np.arange(len(owners)) - np.searchsorted(owners, np.arange(len(part)))[owners]
        best = place < K
        lists[at + owners[best], place[best]] = items[best]
    columns = accuracy(lists, offsets, labels, [K], ("recall", "ndcg"))
    means = {name: float(np.nanmean(column)) for name, column in columns.items()}
    return {**means, "empty": float((lists[:, 0] < 0).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, choices=["citeulike_a", "ml_1m_cold_items"])
    parser.add_argument("--field", required=True, help="the text of an item")
    parser.add_argument("--tags", required=True, help="the tags of an item")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--keep", type=int, nargs="+", default=[500, 3000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    words = "words = [1], chars = []"
    ways = [f'{{ use = "ngrams", dim = {dim}, project = "svd", {words} }}' for dim in args.dims]
    ways.append(f'{{ use = "ngrams", dim = {args.dims[-1]}, {words} }}')
    content = {"name": "content", "use": "content", "last": EVERY}
    plans = [(way, {**content, "keep": keep}) for way in ways for keep in args.keep]
    tags = {"name": "tags", "use": "tags", "fields": [args.tags], "keep": EVERY, "per_tag": EVERY}
    plans += [(ways[0], {**tags, "top": top}) for top in (10, 50, 500)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:

        def run(way: str, channel: Mapping[str, Any], on: Literal["valid", "test"]) -> dict[str, Any]:
            started = time.perf_counter()
            data = project(Path(temporary), args.data, args.seed, channel, args.field, way)
            train(data, "valid", created_ms=0)
            artifacts = trained(data, "valid")
            assert artifacts is not None
            found = ranked(data, funnels(data, artifacts.__getitem__)["home"].channels[0].source, on)
            spent = {"seconds": time.perf_counter() - started, "peak MB": peak_mb(), "load": os.getloadavg()[0]}
            text = " ".join(f"{name}={channel[name]}" for name in ("keep", "top") if name in channel)
            text += f" {way}" if channel["use"] == "content" else ""
            rows.append({"on": on, "channel": channel["use"], "options": text, **found, **spent})
            print(rows[-1], file=sys.stderr, flush=True)
            return rows[-1]

        tried = [(run(way, channel, "valid"), way, channel) for way, channel in plans]
        for use in ("content", "tags"):
            own = [entry for entry in tried if entry[2]["use"] == use]
            _, way, channel = max(own, key=lambda entry: float(entry[0]["recall@20"]) + float(entry[0]["ndcg@20"]))
            run(way, channel, "test")
        data = open_data(load(Path(temporary)))
        for on in ("valid", "test"):
            spent = {"seconds": 0.0, "peak MB": peak_mb(), "load": os.getloadavg()[0]}
            rows.append({"on": on, "channel": "hot", "options": "", **ranked(data, None, on), **spent})
    for on in ("valid", "test"):
        print(on)
        print(table([row for row in rows if row["on"] == on]))
    recipe = origin(command="python -m bench.cold_items", data=args.data, seed=args.seed, commit=commit())
    write(args.out, {"origin": recipe, "runs": rows})


if __name__ == "__main__":
    main()
