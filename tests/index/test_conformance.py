"""Every kind of index, for every metric, against brute force in float64: what it finds, scores, leaves out, stores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.index.world import EXACT, METRICS, VARIANTS, clustered, recall, scores_of, there, truth

from shortlist import artifact
from shortlist.config import IndexConfig, catalogue
from shortlist.errors import ArtifactError
from shortlist.forms import Metric, Vectors
from shortlist.index import building, vectors
from shortlist.index.building import KINDS, Indexed, indexed, opened
from shortlist.index.vectors import VectorIndex


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary of fewer and shorter queries: the same, and quicker."""
    monkeypatch.setattr(building, "SAMPLE", 64)
    monkeypatch.setattr(building, "DEPTH", 50)


each = pytest.mark.parametrize(("variant", "metric"), [(v, m) for v in VARIANTS for m in METRICS])
each_kind = pytest.mark.parametrize("variant", list(VARIANTS))


def made(form: Vectors, variant: str, **more: Any) -> Indexed:
    use, options = VARIANTS[variant]
    there(use)
    return indexed(form, IndexConfig(use=use, options={**options, **more}), "here")


def index_of(form: Vectors, variant: str, **more: Any) -> VectorIndex:
    index = made(form, variant, **more).index
    assert index is not None
    return index


def stored(place: Path, form: Vectors, built: Indexed) -> artifact.Artifact:
    artifact.save(
        place, kind="recall.x", name="x", form=form, config=built.config, files=built.files,
        metrics=built.metrics, created_ms=1,
    )  # fmt: skip
    return artifact.load(place)


def test_all_kinds_are_here() -> None:
    assert {use for use, _ in VARIANTS.values()} == set(catalogue(KINDS))


@each
def test_finds_the_best_and_scores_them_exactly(rng: np.random.Generator, variant: str, metric: Metric) -> None:
    form, queries = clustered(rng, 1500, metric)
    index = index_of(form, variant)
    assert np.array_equal(index.keys, np.sort(form.keys))
    exact = truth(form, queries)
    for n in (1, 10, 50):
        keys, scores = index.search(queries, n)
        assert keys.shape == scores.shape == (60, n)
        assert keys.dtype == np.int64
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, scores_of(form, exact, keys), rtol=1e-5, atol=1e-5)
        assert (np.diff(scores, axis=1) <= 0).all()
        assert all(len(set(row)) == n for row in keys.tolist())
        share = recall(exact, scores_of(form, exact, keys))
        assert share == 1.0 if variant in EXACT else share >= 0.9  # 0.95 of 50 is declared, of other queries


@each_kind
def test_the_declared_recall_is_measured_and_kept(rng: np.random.Generator, variant: str) -> None:
    form, _ = clustered(rng, 1500, "ip")
    use, options = VARIANTS[variant]
    there(use)
    built = indexed(form, IndexConfig(use=use, recall=0.98, options=options), "here")
    assert built.metrics["index_recall"] >= 0.98
    assert built.config["index"]["use"] == use
    assert built.config["index"]["asked"] == {"use": use, "recall": 0.98, "seed": 0, "options": options}


@each
def test_asks_for_more_than_there_is(rng: np.random.Generator, variant: str, metric: Metric) -> None:
    form, queries = clustered(rng, 130, metric)
    index = index_of(form, variant)
    exact = np.sort(truth(form, queries), axis=1)[:, ::-1]
    keys, scores = index.search(queries, 140)
    assert (keys[:, 130:] == -1).all()
    assert np.isneginf(scores[:, 130:]).all()
    assert (np.sort(keys[:, :130], axis=1) == np.sort(form.keys)).all()
    np.testing.assert_allclose(scores[:, :130], exact, rtol=1e-5, atol=1e-5)
    assert index.search(queries, 0)[0].shape == (60, 0)
    assert index.search(queries[:0], 5)[0].shape == (0, 5)


@each
@pytest.mark.parametrize("share", [0.7, 0.2, 0.01])
def test_finds_only_what_is_allowed(
    rng: np.random.Generator, variant: str, metric: Metric, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "FEW", 50)  # 15 of 1500 are searched one and all, more by the kind
    form, queries = clustered(rng, 1500, metric)
    index = index_of(form, variant)
    mask = rng.random(1500) < share
    allowed = np.isin(form.keys, index.keys[mask])
    exact = np.where(allowed, truth(form, queries), -np.inf)
    keys, scores = index.search(queries, 10, mask)
    assert np.isin(keys, index.keys[mask]).all()
    np.testing.assert_allclose(scores, scores_of(form, exact, keys), rtol=1e-5, atol=1e-5)
    found = recall(exact, scores_of(form, exact, keys))
    assert found == 1.0 if variant in EXACT or share == 0.01 else found >= 0.9


@each
def test_as_deep_as_items_count_and_several_vectors(rng: np.random.Generator, variant: str, metric: Metric) -> None:
    form, queries = clustered(rng, 1500, metric)
    index, owners = index_of(form, variant), np.sort(rng.integers(0, 25, 60))
    counts = set(form.keys[rng.random(1500) < 0.02].tolist())

    def keep(owner: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.array([item in counts for item in items.tolist()], dtype=bool)

    got = index.top(owners, queries, 5, keep)
    wanted = VectorIndex(form).top(owners, queries, 5, keep)
    assert np.array_equal(np.unique(got[0]), np.unique(owners))
    for request in np.unique(owners):
        mine = got[0] == request
        assert keep(got[0][mine], got[1][mine]).sum() == 5
        assert len(set(got[1][mine].tolist())) == mine.sum()
    common = set(zip(got[0].tolist(), got[1].tolist(), strict=True)) & set(
        zip(wanted[0].tolist(), wanted[1].tolist(), strict=True)
    )
    assert len(common) >= (1.0 if variant in EXACT else 0.9) * len(wanted[0])


@each
def test_stored_and_opened_it_answers_the_same(
    rng: np.random.Generator, variant: str, metric: Metric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, queries = clustered(rng, 1200, metric)
    built = made(form, variant)
    assert built.index is not None
    keys, scores = built.index.search(queries, 20)
    there = stored(tmp_path / "a", form, built)
    for above in (artifact.MAPPED_ABOVE, 0):  # read, mapped
        monkeypatch.setattr(building, "MAPPED_ABOVE", above)
        index = opened(there)
        assert isinstance(index, VectorIndex)
        assert type(index.engine) is type(built.index.engine)
        assert index.engine.config == built.index.engine.config
        assert index.fingerprint == built.index.fingerprint
        again, scores_again = index.search(queries, 20)
        np.testing.assert_array_equal(again, keys)
        np.testing.assert_array_equal(scores_again, scores)
        mask = rng.random(1200) < 0.5
        np.testing.assert_array_equal(index.search(queries, 5, mask)[0], built.index.search(queries, 5, mask)[0])


@each_kind
def test_the_same_vectors_and_seed_make_the_same_index(rng: np.random.Generator, variant: str, tmp_path: Path) -> None:
    if variant == "scann":
        pytest.skip("ScaNN takes no seed")
    form, _ = clustered(rng, 1200, "ip")
    files = []
    for name in ("a", "b"):
        built = stored(tmp_path / name, form, made(form, variant))
        files.append({n: e.sha256 for n, e in built.manifest.files.items()})
    assert files[0] == files[1]


@each_kind
@pytest.mark.parametrize("n", [1, 2, 17])
@pytest.mark.parametrize("width", [1, 5])
def test_a_handful_of_items(rng: np.random.Generator, variant: str, n: int, width: int) -> None:
    for metric in METRICS:
        form, queries = clustered(rng, n, metric, width)
        keys, scores = index_of(form, variant).search(queries, n)
        exact = np.sort(truth(form, queries), axis=1)[:, ::-1]
        np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-5)
        assert (np.sort(keys, axis=1) == np.sort(form.keys)).all()


@each
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_vectors_that_are_all_the_same(variant: str, metric: Metric, value: float) -> None:
    """Nothing to group them by: still items, each once, with the right score."""
    form = Vectors(np.arange(400), np.full((400, 6), value, dtype=np.float32), metric)
    keys, scores = index_of(form, variant).search(np.ones((3, 6), dtype=np.float32), 7)
    assert (keys >= 0).all()
    assert all(len(set(row)) == 7 for row in keys.tolist())
    # 1 * 1, six times; the cosine of equal vectors; six ones squared, from the zero vector
    wanted = {"ip": 6.0 * value, "cos": value, "l2": 6.0 * (value - 1)}[metric]
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)


@each_kind
def test_zero_vectors_under_cos(rng: np.random.Generator, variant: str) -> None:
    form, queries = clustered(rng, 1100, "cos")
    form.matrix[:30] = 0
    index = index_of(form, variant)
    exact = truth(form, queries)
    keys, scores = index.search(queries, 10)
    np.testing.assert_allclose(scores, scores_of(form, exact, keys), rtol=1e-5, atol=1e-5)
    keys, scores = index.search(np.zeros((2, 18), dtype=np.float32), 10)
    assert (keys >= 0).all()
    assert not scores.any()


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if VARIANTS[variant][0] in ("ball_tree", "annoy")])
def test_a_zero_vector_is_no_nearer_than_a_cosine_of_zero(rng: np.random.Generator, variant: str) -> None:
    """At distance 1 of every query it would stand before all whose cosine is below 1/2, and in 64 columns most are."""
    matrix = rng.standard_normal((1200, 64)).astype(np.float32)
    matrix[::10] = 0
    form, queries = Vectors(np.arange(1200), matrix, "cos"), rng.standard_normal((8, 64)).astype(np.float32)
    keys, scores = index_of(form, variant).search(queries, 30)
    wanted = -np.sort(-truth(form, queries), axis=1)[:, :30]
    assert float(wanted.max()) < 0.5 < 10 * float(wanted.min())
    np.testing.assert_allclose(scores, wanted, atol=1e-6 if variant in EXACT else 0.1)
    assert (keys % 10 > 0).all()


@each_kind
def test_an_empty_form(variant: str, tmp_path: Path) -> None:
    form = Vectors(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float32))
    built = made(form, variant)
    index = opened(stored(tmp_path / "a", form, built))
    assert isinstance(index, VectorIndex)
    keys, scores = index.search(np.ones((2, 4), dtype=np.float32), 3)
    assert keys.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()
    assert [len(c) for c in index.top(np.arange(2), np.ones((2, 4), dtype=np.float32), 3)] == [0, 0, 0]


@each_kind
def test_a_file_cut_short(rng: np.random.Generator, variant: str, tmp_path: Path) -> None:
    """The artifact refuses it; whoever opens an index without looking is refused as well."""
    form, _ = clustered(rng, 1100, "ip")
    built = made(form, variant)
    there = stored(tmp_path / "a", form, built)
    files = sorted(name for name in there.manifest.files if not name.startswith("form."))
    if variant == "flat":
        assert files == []
        return
    largest = max(files, key=lambda name: there.manifest.files[name].bytes)
    path = tmp_path / "a" / largest
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.truncate(size // 2)
    with pytest.raises(ArtifactError) as caught:
        artifact.load(tmp_path / "a")
    said = f"{path}: has {size // 2} bytes, the manifest says {size} (train and publish again)"
    assert str(caught.value) == said
    with pytest.raises(ArtifactError) as caught:
        opened(there)
    assert caught.value.hint == "train and publish again"


@each_kind
def test_an_index_of_other_vectors(rng: np.random.Generator, variant: str, tmp_path: Path) -> None:
    if variant == "flat":
        pytest.skip("it has no files of its own")
    one, _ = clustered(rng, 1100, "ip")
    other, _ = clustered(rng, 1050, "ip")
    with pytest.raises(ArtifactError) as caught:
        opened(stored(tmp_path / "a", other, made(one, variant)))
    assert caught.value.hint == "train and publish again"
