"""Boosted trees of LightGBM: the columns they read, their leaves, and their files, which are text.

B rows, F columns, T trees.
"""

import importlib.util
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns, Group, Layout, Side
from shortlist.errors import ArtifactError, ConfigError
from shortlist.models.blocks.fields import dense

__all__ = ["Table", "Forest", "grown", "needed"]

Floats = NDArray[np.float64]
ORDERED = (".age", "live.position")  # ends of vocabularies whose ids are buckets of a number, in its order
AGAIN = "train and publish again"


def needed(where: str) -> None:
    """Raises ConfigError where LightGBM is not installed."""
    if importlib.util.find_spec("lightgbm") is None:
        hint = "pip install 'shortlist[gbdt]', or choose another model (use)"
        raise ConfigError("lightgbm is not installed", where=where, hint=hint)


class Table:
    """What trees read of a batch. Numbers: dense columns, ages, the length of a group and the age of its last step, and
    how many steps of a request's group have the candidate's id. Categories: columns of at most `categories` ids.

    Columns of more ids stay out, for a tree would learn each by heart, and so do vectors. Id 0 and an unknown age are
    missing values. Raises ConfigError where nothing is left to read.
    """

    def __init__(self, layout: Layout, categories: int) -> None:
        self.layout = layout
        self.small = {name for name, size in layout.vocabularies.items() if size <= categories}
        self.met = _met(layout)
        names: list[str] = []
        for side in (layout.request, layout.row):
            names += [*side.dense, *self._ages(side), *self._categories(side)]
            for group, channels in side.groups.items():
                names += [f"{group}.length", *(f"{group}.{c}.last" for c, w in channels.items() if w.endswith(ORDERED))]
        names += [f"{group}.{channel}.met.{column}" for group, channel, column in self.met]
        self.names = tuple(names)
        inside = {*self._categories(layout.request), *self._categories(layout.row)}
        self.categories = [n for n, name in enumerate(names) if name in inside]
        if not names:
            what = f"trees find no column to read: every one has more than {categories} ids"
            raise ConfigError(what, where="rank.categories", hint="raise categories, or choose lr")

    def _ages(self, side: Side) -> list[str]:
        return [name for name, words in side.sparse.items() if words.endswith(ORDERED)]

    def _categories(self, side: Side) -> list[str]:
        return [name for name, words in side.sparse.items() if words in self.small and not words.endswith(ORDERED)]

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """[B, F]; what belongs to a request is made once."""
        request_of = batch.request_of.numpy()
        parts = [self._side(batch.request, self.layout.request)[request_of], self._side(batch.row, self.layout.row)]
        for group, channel, column in self.met:
            steps = batch.request.groups[group]
            ids = np.where(steps.mask.numpy(), steps.channels[channel].numpy(), 0)[request_of]
            own = batch.row[column].numpy()[:, None]
            parts.append(((ids == own) & (own > 0)).sum(axis=1, dtype=np.float32)[:, None])
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _side(self, columns: Columns, side: Side) -> NDArray[np.float32]:
        ages, names = self._ages(side), self._categories(side)
        parts = [dense(columns, side).numpy()]
        for chosen, least in ((ages, 2), (names, 1)):
            ids = (
                np.stack([columns[name].numpy() for name in chosen], axis=1) if chosen else np.zeros((len(columns), 0))
            )
            parts.append(np.where(ids < least, np.nan, ids).astype(np.float32))
        for name, channels in side.groups.items():
            group = columns.groups[name]
            parts.append(group.length.numpy()[:, None].astype(np.float32))
            parts += [_last(group, c)[:, None] for c, words in channels.items() if words.endswith(ORDERED)]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def _met(layout: Layout) -> list[tuple[str, str, str]]:
    """(group, channel, row column) of one vocabulary: whether the candidate's was met, and how often."""
    return [
        (group, channel, column)
        for group, channels in layout.request.groups.items()
        for channel, words in channels.items()
        for column, own in layout.row.sparse.items()
        if own == words
    ]


def _last(group: Group, channel: str) -> NDArray[np.float32]:
    """The last step's id [N], NaN where there is none."""
    ids, length = group.channels[channel].numpy(), group.length.numpy()
    if not ids.shape[1]:
        return np.full(len(ids), np.nan, dtype=np.float32)
    last = ids[np.arange(len(ids)), np.maximum(length - 1, 0)]
    return np.where((length > 0) & (last > 1), last, np.nan).astype(np.float32)


class Forest:
    """Trees as LightGBM keeps them: `text` is all of it. One thread answers: requests are what runs side by side.

    `leaves` [T][L] are what each leaf adds to the margin: shrinkage and base are in it.
    """

    def __init__(self, text: str, names: Sequence[str]) -> None:
        """Raises ArtifactError for a text that is cut, and for trees of other columns than these."""
        _check(text, names)
        import lightgbm

        self.text = text
        try:
            self.model = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError(f"LightGBM does not read its file: {error}", hint=AGAIN) from None
        lines = re.findall(r"^leaf_value=(.*)$", text, flags=re.MULTILINE)
        self.leaves: list[Floats] = [np.array(line.split(), dtype=np.float64) for line in lines]

    def __len__(self) -> int:
        return len(self.leaves)

    def margin(self, x_BF: NDArray[np.float32]) -> Floats:
        """Sum of leaves [B]."""
        out: Floats = np.asarray(self.model.predict(x_BF, raw_score=True, num_threads=1), dtype=np.float64)
        return out.reshape(len(x_BF))

    def fallen(self, x_BF: NDArray[np.float32]) -> NDArray[np.int64]:
        """The leaf of each tree [B, T], counted over all trees: one number for a leaf of the forest."""
        first = np.cumsum([0, *(len(tree) for tree in self.leaves[:-1])])
        leaf = np.asarray(self.model.predict(x_BF, pred_leaf=True, num_threads=1), dtype=np.int64)
        out: NDArray[np.int64] = leaf.reshape(len(x_BF), len(self)) + first
        return out


def grown(
    params: dict[str, Any],
    leaf_rows: int,
    trees: int,
    table: Table,
    train: dict[str, Any],
    held: dict[str, Any] | None = None,
    patience: int = 0,
    *,
    seed: int,
    threads: int,
) -> Forest:
    """A forest from `train` (`data` [B, F], `label`, `weight`, `group`): the same data, seed and threads make the same.

    With `held` it ends where the first metric there was best, and is given up `patience` trees after that.
    """
    import lightgbm

    fixed = {
        "min_data_in_leaf": leaf_rows, "min_data_per_group": 5 * leaf_rows,  # of a category, as LightGBM's own are
        "seed": seed, "num_threads": threads, "deterministic": True, "force_row_wise": True, "verbosity": -1,
        "first_metric_only": True,
    }  # fmt: skip
    quiet = {"verbosity": -1}
    names = [_plain(name) for name in table.names]
    whole = lightgbm.Dataset(**train, feature_name=names, categorical_feature=table.categories, params=quiet)
    sets = [] if held is None else [lightgbm.Dataset(**held, reference=whole, params=quiet)]
    stop: list[Any] = [] if held is None else [lightgbm.early_stopping(patience, first_metric_only=True, verbose=False)]
    model = lightgbm.train(params | fixed, whole, trees, valid_sets=sets, callbacks=stop)
    best = model.best_iteration if held is not None and model.best_iteration > 0 else -1
    return Forest(model.model_to_string(num_iteration=best), table.names)


def _plain(name: str) -> str:
    """A name as LightGBM takes it: neither blanks nor signs of JSON."""
    return quote(name, safe="")


def _check(text: str, names: Sequence[str]) -> None:
    head, _, rest = text.partition("\n\n")
    found = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    if not head.startswith("tree\n") or not {"feature_names", "tree_sizes"} <= found.keys():
        raise ArtifactError("not a LightGBM file", hint=AGAIN)
    sizes, body = [int(size) for size in found["tree_sizes"].split()], rest.encode()
    starts = [*(f"Tree={n}\n".encode() for n in range(len(sizes))), b"end of trees\n"]
    at = np.cumsum([0, *sizes]).tolist()
    if not all(body.startswith(start, place) for start, place in zip(starts, at, strict=True)):
        # LightGBM would end the process
        raise ArtifactError("a LightGBM file that is cut or changed", hint=AGAIN)
    there = [unquote(name) for name in found["feature_names"].split(" ")]
    if there == list(names):
        return
    told = [f"{len(there)} columns, here are {len(names)}"] if len(there) != len(names) else []
    unknown, missing = [n for n in there if n not in names], [n for n in names if n not in there]
    told += [f"it reads {', '.join(unknown)}"] if unknown else []
    told += [f"it does not know {', '.join(missing)}"] if missing else []
    what = "; ".join(told) or "the same columns in another order"
    raise ArtifactError(f"a LightGBM file of another schema: {what}", hint=AGAIN)
