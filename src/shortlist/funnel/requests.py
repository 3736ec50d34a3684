"""How a Requests batch is made, offline and online alike: columns of users, moments and what was known then."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.expressions import Expression
from shortlist.schema import Catalogue, Schema

__all__ = ["make"]


def make(
    users: NDArray[np.int64],
    now: NDArray[np.int64],
    n: int,
    events: Ragged,
    schema: Schema,
    catalogue: Catalogue,
    *,
    exclude: Ragged | None = None,
    context: Mapping[str, NDArray[Any]] | None = None,
    where: Expression | None = None,
    prefix: Ragged | None = None,
    ids: tuple[str, ...] = (),
    known: Any = None,
    as_of: NDArray[np.int64] | None = None,
) -> Requests:
    """Requests of `users` [R] at `now` [R] (ms), asking for n items.

    `events` are everything known of each user before `now`, oldest first: actions of weight 0 (impressions) become
    `shown`, the others `history`. `prefix` is what earlier pages of this list hold. The region comes from `context`,
    else, request by request, from the user's profile. `known` answers for the project's features, as of the log offsets
    `as_of` [R] where these are recorded.
    """
    interest = schema.weights[events.actions] > 0 if len(events.actions) else np.zeros(0, dtype=bool)
    columns = dict(context or {})
    if schema.region is not None and schema.region in schema.users:
        columns[schema.region] = _region(columns.get(schema.region), catalogue.users.take(schema.region, users))
    return Requests(
        users=users,
        now=now,
        n=n,
        history=events.where(interest),
        shown=events.where(~interest),
        exclude=exclude if exclude is not None else Ragged.empty(len(users)),
        context=columns,
        where=where,
        prefix=prefix,
        ids=ids,
        known=known,
        as_of=as_of,
    )


def _region(told: NDArray[Any] | None, own: NDArray[Any]) -> NDArray[Any]:
    """What a request tells, the profile's where it tells nothing."""
    if told is None:
        return own
    silent = np.array([value is None for value in told], dtype=bool) if told.dtype == object else told != told
    return np.where(silent, own, told) if silent.any() else told
