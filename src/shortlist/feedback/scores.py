"""A project's current release opened for scoring: with what is known now, or was known at moments in the past."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Releases
from shortlist.candidates import Ragged
from shortlist.config import Project
from shortlist.evaluation.project import open_data
from shortlist.feedback.live import open_engine
from shortlist.funnel.scoring import Scoring, of_release, together

__all__ = ["opened"]


@contextmanager
def opened(
    project: Project,
    scene: str | None = None,
    stage: str | None = None,
    *,
    known: Literal["now", "then"] = "now",
    recall: bool = True,
) -> Iterator[Scoring]:
    """`known` now: histories and counters as the server has them. Then: replayed from the log as of each row's own
    moment. Raises ArtifactError where there is no release with such a stage."""
    if known == "now":
        with open_engine(project) as engine:
            users = engine.live.users

            def past(keys: NDArray[np.int64], now: NDArray[np.int64]) -> Ragged:
                return together(users(keys, now))

            yield of_release(
                engine.live.release, scene, stage, past=past, known=users.known, recall=recall, now=engine.clock()
            )  # fmt: skip
        return
    release, data = Releases(project.home / "releases").load(), open_data(project)
    log = data.interactions
    yield of_release(
        release, scene, stage, past=lambda keys, now: log.histories(keys), known=lambda: data.known, recall=recall
    )  # fmt: skip
