"""Fit recall channels: interactions in, one artifact per channel out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist.artifact import Artifact, Manifest, check_fits, load, save
from shortlist.config import ChannelConfig, IndexConfig, find, plain
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.features.base import Known
from shortlist.features.featureset import FeatureSet
from shortlist.forms import Built, Form, Vectors
from shortlist.index.building import Asking, Indexed, indexed
from shortlist.schema import Catalogue, Schema
from shortlist.training.plan import RECALL, Plan, linked

if TYPE_CHECKING:  # it loads torch
    from shortlist.training.loop import Step

__all__ = ["Fitted", "Progress", "fit", "index_of", "models_of", "fitted"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Fitted:
    """One artifact, and what making it cost."""

    name: str
    folder: Path
    manifest: Manifest
    seconds: float


def models_of(channels: tuple[ChannelConfig, ...]) -> dict[str, Any]:
    """The model class of each channel, by channel name. Raises ConfigError for a name no file has."""
    return {c.name: find(c.use, [RECALL], f"recall.{c.name}.use") for c in channels}


def fit(
    plans: Sequence[Plan],
    interactions: Interactions,
    catalogue: Catalogue,
    schema: Schema,
    folder: Path,
    *,
    snapshot: str,
    created_ms: int,
    progress: Progress | None = None,
    features: FeatureSet | None = None,
    known: Known | None = None,
    watch: "Callable[[Step], None] | None" = None,
) -> dict[str, Fitted]:
    """Fit each channel on the events that show interest, into `folder`.

    Interactions of weight 0 (impressions) teach nothing. A model with gradients keeps its run under `.runs`: stopped,
    it goes on from there. Of the `features`, for which `known` answers, retrievers read those of requests: an item's
    vector is made before anyone asks. `watch` is given every step of a model with gradients. Raises DataError where
    nothing is left to learn from.
    """
    interest = interactions.where(schema.weights[interactions.actions] > 0)
    if not len(interest):
        hint = "check schema.actions: an interest has a weight above 0"
        raise DataError("no event shows interest: nothing to learn from", where="training", hint=hint)
    now = int(interest.times.max()) + 1
    done: dict[str, Fitted] = {}
    for plan in plans:
        if plan.solves:
            plan.kind(plan.config(), schema)  # what a solver refuses is said before hours of training
    for n, plan in enumerate(linked(plans)):
        if progress:
            progress(n, len(plans), plan.name)
        started = time.perf_counter()
        if plan.solves:
            manifest = _solve(plan, interest, catalogue, schema, folder / plan.name, snapshot, created_ms, now)
        else:
            from shortlist.training.retrievers import retriever  # loads torch

            manifest = retriever(
                plan, interest, catalogue, schema, folder / plan.name,
                run=folder / ".runs" / plan.name, snapshot=snapshot, created_ms=created_ms, progress=progress,
                features=features, known=known, watch=watch,
            )  # fmt: skip
        done[plan.name] = Fitted(plan.name, folder / plan.name, manifest, time.perf_counter() - started)
    if progress:
        progress(len(plans), len(plans), "")
    return done


def _solve(
    plan: Plan,
    log: Interactions,
    catalogue: Catalogue,
    schema: Schema,
    folder: Path,
    snapshot: str,
    created_ms: int,
    now: int,
) -> Manifest:
    started = time.perf_counter()
    solver = plan.kind(plan.config(), schema)
    beside = () if plan.after is None else (load(folder.parent / plan.after.name),)
    form = solver.solve(log, catalogue, now, *beside)
    seconds = round(time.perf_counter() - started, 3)
    made = index_of(plan, form)
    return save(
        folder,
        kind=f"recall.{plan.use}",
        name=plan.name,
        form=form,
        config=plan.words() | made.config,
        files=made.files,
        reads=tuple(solver.reads),
        fingerprint=schema.fingerprint(solver.reads),
        snapshot=snapshot,
        metrics={
            "fit_seconds": seconds,
            "events": len(log),
            "items": len(log.item_keys),
            **made.metrics,
        },
        created_ms=created_ms,
    )


def index_of(plan: Plan, form: Form | Built, queries: Asking | None = None) -> Indexed:
    """The index over a channel's vectors, as its table `index` asks; `queries` gives what its users ask, where known.

    Raises ConfigError for an index over lists, ArtifactError for one that finds less than is declared.
    """
    own, where = form.form if isinstance(form, Built) else form, f"recall.{plan.name}.index"
    if isinstance(own, Vectors):
        return indexed(own, plan.index, where, queries)
    if plan.index != IndexConfig():
        raise ConfigError(f"{plan.use} makes lists: an index does nothing", where=where, hint="take index away")
    return Indexed(None)


def fitted(plans: Sequence[Plan], schema: Schema, folder: Path, snapshot: str) -> dict[str, Artifact] | None:
    """The artifacts of an earlier fit, if all are there and were made from this data, schema and configuration."""
    found: dict[str, Artifact] = {}
    for plan in linked(plans):
        try:
            artifact = load(folder / plan.name, verify=False)
            check_fits(artifact.manifest, schema)
        except ArtifactError:
            return None
        words = {key: artifact.manifest.config.get(key) for key in plan.words()}
        index = artifact.manifest.config.get("index", {}).get("asked", plain(IndexConfig()))
        if artifact.manifest.snapshot != snapshot or words != plan.words() or index != plain(plan.index):
            return None
        found[plan.name] = artifact
    return found
