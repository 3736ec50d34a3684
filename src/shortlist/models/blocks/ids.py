"""The two ids that neural collaborative filtering reads: who asks and what is ranked (He X. et al., WWW 2017).

R requests, B rows, D width.
"""

from dataclasses import replace

from torch import Tensor

from shortlist.batch import Batch, Layout, Side
from shortlist.errors import ConfigError
from shortlist.models.blocks.embed import Embed

__all__ = ["ids_of", "both", "sizes", "USER", "ITEM"]

USER, ITEM = "user.id", "item.id"


def ids_of(layout: Layout, model: str) -> Layout:
    """The layout with the ids of user and item alone. Raises ConfigError naming the column that is missing."""
    columns = {}
    for what, name, side in (("requests", USER, layout.request), ("rows", ITEM, layout.row)):
        if name not in side.sparse:
            hint = "keep that column, or choose a ranker that does without it, as dnn or deepfm"
            raise ConfigError(f"{model} needs {name} among the columns of {what}", where="rank.use", hint=hint)
        columns[name] = side.sparse[name]
    request, row = (Side(sparse={name: columns[name]}) for name in (USER, ITEM))
    words = {name: layout.vocabularies[name] for name in columns.values()}
    return replace(layout, request=request, row=row, vocabularies=words)


def both(embed: Embed, batch: Batch, layout: Layout) -> tuple[Tensor, Tensor]:
    """Vectors of the user and of the item of each row, both [B, D]. A request's is looked up once."""
    p_RD = embed(batch.request, layout.request, (USER,)).squeeze(1)
    return p_RD.index_select(0, batch.request_of), embed(batch.row, layout.row, (ITEM,)).squeeze(1)


def sizes(factors: int, layers: tuple[int, ...], model: str) -> tuple[int, ...]:
    """Widths of the MLP, first that of its input [p'; q']: `layers`, or 4f, 2f, f where none are given.

    Raises ConfigError for an input that two vectors of one width cannot fill.
    """
    widths = layers or (4 * factors, 2 * factors, factors)
    if widths[0] % 2:
        what = f"the first is the width of [p'; q'] and should be even, got {widths[0]}"
        raise ConfigError(what, where=f"{model}.layers", hint=f"write {widths[0] + 1}")
    return widths
