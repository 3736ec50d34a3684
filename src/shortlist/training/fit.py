"""Fit recall channels: interactions in, one artifact per channel out. The loop for models with gradients joins here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist.artifact import Artifact, Manifest, check_fits, load, save
from shortlist.config import ChannelConfig, build, find, plain
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ArtifactError, DataError
from shortlist.schema import Catalogue, Schema

__all__ = ["Fitted", "fit", "models_of", "fitted"]

MODELS = "shortlist.models.recall"

Step = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Fitted:
    """One channel's artifact, and what making it cost."""

    channel: str
    folder: Path
    manifest: Manifest
    seconds: float


def models_of(channels: tuple[ChannelConfig, ...]) -> dict[str, Any]:
    """The model class of each channel, by channel name. Raises ConfigError for a name no file has."""
    return {c.name: find(c.use, [MODELS], f"recall.{c.name}.use") for c in channels}


def fit(
    channels: Mapping[str, tuple[Any, Mapping[str, Any]]],
    interactions: Interactions,
    catalogue: Catalogue,
    schema: Schema,
    folder: Path,
    *,
    snapshot: str,
    created_ms: int,
    step: Step | None = None,
) -> dict[str, Fitted]:
    """Solve each channel (its model class and that model's options) on the events that show interest.

    Interactions of weight 0 (impressions) teach no solver. Raises DataError where nothing is left to learn from.
    """
    interest = interactions.where(schema.weights[interactions.actions] > 0)
    if not len(interest):
        hint = "check schema.actions: an interest has a weight above 0"
        raise DataError("no event shows interest: nothing to learn from", where="training", hint=hint)
    now = int(interest.times.max()) + 1
    done: dict[str, Fitted] = {}
    for n, (name, (model, options)) in enumerate(channels.items()):
        if step:
            step(n, len(channels), name)
        started = time.perf_counter()
        config = build(model.Config, options, f"recall.{name} ({model.__name__})")
        solver = model(config, schema)
        form = solver.solve(interest, catalogue, now)
        seconds = time.perf_counter() - started
        manifest = save(
            folder / name,
            kind=f"recall.{model.__module__.rpartition('.')[2]}",
            name=name,
            form=form,
            config=plain(config),
            reads=tuple(solver.reads),
            fingerprint=schema.fingerprint(solver.reads),
            snapshot=snapshot,
            metrics={
                "fit_seconds": round(seconds, 3),
                "events": len(interest),
                "items": len(interest.item_keys),
            },
            created_ms=created_ms,
        )
        done[name] = Fitted(name, folder / name, manifest, seconds)
    if step:
        step(len(channels), len(channels), "")
    return done


def fitted(
    channels: Mapping[str, tuple[Any, Mapping[str, Any]]], schema: Schema, folder: Path, snapshot: str
) -> dict[str, Artifact] | None:
    """The artifacts of an earlier fit, if all are there and were made from this data, schema and configuration."""
    found: dict[str, Artifact] = {}
    for name, (model, options) in channels.items():
        try:
            artifact = load(folder / name, verify=False)
            check_fits(artifact.manifest, schema)
        except ArtifactError:
            return None
        config = plain(build(model.Config, options, f"recall.{name} ({model.__name__})"))
        kind = f"recall.{model.__module__.rpartition('.')[2]}"
        if (artifact.manifest.snapshot, artifact.manifest.config, artifact.manifest.kind) != (snapshot, config, kind):
            return None
        found[name] = artifact
    return found
