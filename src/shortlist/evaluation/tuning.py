"""What is chosen on a project's validation part and judged on its test part."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.evaluation.project import Data, put_to_test, scene_of
from shortlist.evaluation.quotas import Reached, Step, chosen, equal, found, reached
from shortlist.metrics.bootstrap import difference, mean

__all__ = ["Tuned", "tuned_quotas"]

Ints = NDArray[np.int64]
ALIKE = 0.01  # candidates of two ways that differ by no more than this share are as many


@dataclass(frozen=True)
class Tuned:
    """Quotas [C] by way of choosing (`now`, `equal`, `tuned`), and what each found on the test part, `rrf` besides.
    `chosen_on` of the `requests` of the validation part were looked at."""

    channels: tuple[str, ...]
    budget: int
    chosen_on: int
    requests: int
    quotas: dict[str, Ints]
    test: dict[str, Reached]

    def words(self, seed: int) -> dict[str, Any]:
        """As plain values: recall with its interval, and distinct candidates a request."""
        told: dict[str, Any] = {}
        for name, way in self.test.items():
            e = mean(way.recall, np.random.default_rng(seed))
            told[name] = {"recall": [e.value, e.low, e.high], "candidates": way.candidates}
        by = {
            name: {way: int(q[n]) for way, q in self.quotas.items()} for n, name in enumerate(self.channels)
        }  # fmt: skip
        gaps = {}
        for other in ("equal", "rrf", "now"):
            e = difference(self.test["tuned"].recall, self.test[other].recall, np.random.default_rng(seed))
            gaps[other] = [e.value, e.low, e.high]
        looked = {"budget": self.budget, "chosen_on": self.chosen_on, "requests": self.requests}
        return {**looked, "quotas": by, "test": told, "tuned_minus": gaps}

    def said(self, seed: int) -> list[str]:
        """In words: whether tuning was worth it, and what to write into the project."""
        names = {"equal": "equal quotas", "rrf": "a reciprocal-rank merge of as many", "now": "the quotas as they are"}
        lines = []
        if self.chosen_on < self.requests:
            lines.append(f"chosen on {self.chosen_on} of the {self.requests} requests of the validation part")
        for other, (value, low, high) in self.words(seed)["tuned_minus"].items():
            verdict = "finds more than" if low > 0 else "finds less than" if high < 0 else "cannot be told from"
            line = f"tuned {verdict} {names[other]}: recall {value:+.4f} [{low:+.4f}, {high:+.4f}]"
            mine, theirs = self.test["tuned"].candidates, self.test[other].candidates
            if abs(mine - theirs) > ALIKE * theirs:
                line += f", of {mine:.1f} candidates a request on the test part against {theirs:.1f}"
            lines.append(line)
        wanted = ", ".join(f"{name} = {q}" for name, q in zip(self.channels, self.quotas["tuned"], strict=True))
        out = [name for name, q in zip(self.channels, self.quotas["tuned"], strict=True) if not q]
        gone = f" (0: take {' and '.join(out)} out of the scene)" if out else ""
        return [*lines, f"quota of each [[recall]]: {wanted}{gone}"]


def tuned_quotas(
    data: Data, scene: str | None = None, budget: int | None = None, step: int = 10, progress: Step | None = None
) -> Tuned:
    """Choose the quotas of a scene's channels on validation and judge them on test, each with its own models.

    `budget` distinct candidates a request, by default the scene's. Raises ArtifactError when models are missing or
    stale, ConfigError for an unknown scene, a scene without channels and a budget below their number.
    """
    scene = scene_of(data.project, scene)
    _, funnel, asked = put_to_test(data, "valid", scene)
    channels = tuple(channel.name for channel in funnel.channels)
    now = np.array([channel.quota for channel in funnel.channels], dtype=np.int64)
    budget = funnel.budget if budget is None else budget
    depth = min(budget, max(len(data.catalogue.items), len(data.interactions.item_keys)))  # no list is longer
    seen = found(funnel, asked.requests, asked.offsets, asked.labels, depth, step, progress)
    chosen_on, many = seen.requests, len(asked.requests)
    quotas = {"now": now, "equal": equal(seen, budget), "tuned": chosen(seen, budget)}
    _, funnel, asked = put_to_test(data, "test", scene)
    return Tuned(
        channels, budget, chosen_on, many, quotas,
        reached(funnel, asked.requests, asked.offsets, asked.labels, quotas, progress),
    )  # fmt: skip
