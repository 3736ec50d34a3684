"""Annoy's angular value is a distance: the smallest are the nearest, and it becomes a similarity."""

import numpy as np
import pytest
from tests.index.world import there

from shortlist.config import IndexConfig
from shortlist.forms import Vectors
from shortlist.index.building import indexed


@pytest.mark.parametrize("metric", ["cos", "ip"])
def test_angles_become_similarities(rng: np.random.Generator, metric: str) -> None:
    """The angular distance d is sqrt(2 - 2 cos), so the cosine is 1 - d^2 / 2; of lifted rows, all of one length M,
    times M and the query's own length it is the inner product."""
    there("annoy")
    matrix = rng.standard_normal((1500, 6)).astype(np.float32)
    form = Vectors(np.arange(1500), matrix, "cos" if metric == "cos" else "ip")
    index = indexed(form, IndexConfig(use="annoy"), "here").index
    assert index is not None
    query = rng.standard_normal((1, 6)).astype(np.float32)
    keys, scores = index.search(query, 10)
    assert scores[0, 0] == scores.max() > 0  # the nearest comes first, not the farthest
    made = index.engine.made  # type: ignore[attr-defined]
    found, distances = made.get_nns_by_vector(index.points.lift(query)[0], 1500, -1, include_distances=True)
    cosine = 1 - np.square(distances) / 2
    scale = 1.0 if metric == "cos" else np.linalg.norm(query) * np.linalg.norm(matrix, axis=1).max()
    similarity = dict(zip(found, cosine * scale, strict=True))
    np.testing.assert_allclose(scores[0], [similarity[key] for key in keys[0].tolist()], rtol=1e-3, atol=1e-3)
