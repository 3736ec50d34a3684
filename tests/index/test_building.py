"""From `index = { use = ... }` to files of an artifact: what is chosen, measured, refused and stored."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.index.world import clustered

from shortlist import artifact
from shortlist.config import ChannelConfig, IndexConfig, parse
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ArtifactError, ConfigError
from shortlist.forms import Vectors
from shortlist.funnel.effective import effective
from shortlist.index import building
from shortlist.index.building import canary, indexed, kind_of, opened
from shortlist.index.kinds.flat import Flat
from shortlist.index.kinds.hnsw import Hnsw
from shortlist.index.kinds.ivf import Ivf
from shortlist.index.points import Points
from shortlist.index.vectors import VectorIndex
from shortlist.schema import Catalogue, Schema
from shortlist.training.fit import fit, fitted
from shortlist.training.plan import Plan, plan_of

WHERE = "recall.taste.index"
SCHEMA = Schema.parse({})


def refused(**words: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        kind_of(IndexConfig(**words), WHERE)
    return str(caught.value)


def channel(index: Any) -> IndexConfig:
    return parse({"recall": [{"name": "taste", "use": "ials", "index": index}]}).recall[0].index


def test_the_word_of_a_project_file() -> None:
    assert parse({"recall": [{"name": "taste", "use": "ials"}]}).recall[0].index == IndexConfig()
    assert channel("hnsw") == IndexConfig(use="hnsw")
    table = {"use": "ivf", "lists": 100, "recall": 0.9}
    assert channel(table) == IndexConfig(use="ivf", recall=0.9, options={"lists": 100})
    with pytest.raises(ConfigError) as caught:
        channel({"use": "ivf", "recall": 1.5})
    assert str(caught.value) == "project.recall[0].index.recall: should be at most 1.0, got 1.5 (correct the value)"
    with pytest.raises(ConfigError) as caught:
        channel(7)
    said = "project.recall[0].index: should be a table or a name, got 7"
    assert str(caught.value) == f'{said} (write {{ use = "..." }})'


def test_by_size() -> None:
    assert kind_of(IndexConfig(), WHERE, 49_999)[:2] == ("flat", Flat)
    assert kind_of(IndexConfig(), WHERE, 50_000)[:2] == ("ivf", Ivf)
    assert kind_of(IndexConfig(use="hnsw", options={"m": 8}), WHERE)[2] == Hnsw.Config(m=8)


def test_what_nobody_knows() -> None:
    assert refused(use="ivv") == f"{WHERE}.use: nothing is called 'ivv' (did you mean ivf?)"
    assert refused(use="ivf", options={"probe": 3}) == f"{WHERE} (ivf): unknown key 'probe' (did you mean probes?)"
    what = 'auto has no options, got probes (say which kind they are for: use = "ivf")'
    assert refused(options={"probes": 3}) == f"{WHERE}: {what}"


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "annoy", None)
    hint = "pip install 'shortlist[annoy]', or leave the index at \"auto\""
    assert refused(use="annoy") == f"{WHERE}.use: annoy is not installed ({hint})"


def test_effort_is_raised_until_enough_is_found_and_no_further(rng: np.random.Generator) -> None:
    form, queries = clustered(rng, 3000, "ip")
    points = Points(form)
    built = Ivf.build(Ivf.Config(lists=64, storage="float32"), points, 0)
    probes, found = [], []
    for recall in (0.3, 0.8, 0.95, 1.0):
        engine, share = canary(built, queries, recall, WHERE)
        assert share >= recall
        probes.append(engine.config.probes)
        found.append(share)
        lower = engine.tuned(max(1, probes[-1] * 3 // 4))
        rows = lower.find(queries, 100)
        edge = points.exact(queries, 100)[1][:, -1:]
        less = (points.ranked(queries, rows, 100)[1] >= edge).mean()
        assert less < recall or probes[-1] == 1
    assert probes == sorted(probes)
    assert found == sorted(found)


def test_what_cannot_be_found_is_refused_with_what_was(rng: np.random.Generator) -> None:
    """Codes of one bit in effect: a byte for 18 numbers, and nothing scored again beyond what is asked."""
    form, _ = clustered(rng, 3000, "ip")
    config = IndexConfig(use="ivfpq", recall=0.99, options={"lists": 10, "bytes": 1, "refine": 1})
    with pytest.raises(ArtifactError) as caught:
        indexed(form, config, WHERE)
    found = caught.value.what.split("finds ")[1].split(" ")[0]
    assert 0.0 < float(found) < 0.99
    assert caught.value.what == f"probes = 10 is all there is, and finds {found} of the best 100 items, not 0.99"
    assert (caught.value.where, caught.value.hint) == (
        WHERE, 'declare less recall, give it other options, or use = "flat"',
    )  # fmt: skip


def test_queries_of_users_are_asked_where_there_are_any(rng: np.random.Generator) -> None:
    form, queries = clustered(rng, 1500, "ip")
    asked: list[int] = []

    def users() -> Any:
        asked.append(1)
        return queries

    indexed(form, IndexConfig(use="ivf"), WHERE, users)
    assert asked == [1]
    indexed(form, IndexConfig(use="flat"), WHERE, users)  # exact: nothing to measure
    assert asked == [1]
    with pytest.raises(ArtifactError) as caught:
        indexed(form, IndexConfig(use="ivf"), WHERE, lambda: queries[:0])
    assert str(caught.value) == f'{WHERE}: no queries to measure it with (use = "flat")'


def test_a_thousand_items_or_one_vector_need_no_structure(rng: np.random.Generator) -> None:
    few, _ = clustered(rng, 999, "ip")
    same = Vectors(np.arange(2000), np.ones((2000, 3), dtype=np.float32))
    for form in (few, same):
        built = indexed(form, IndexConfig(use="hnsw"), WHERE)
        assert built.config["index"]["use"] == "flat"
        assert built.config["index"]["asked"]["use"] == "hnsw"
        assert built.metrics["index_recall"] == 1.0


def factors(users: int = 40, items: int = 1200) -> Interactions:
    rng = np.random.default_rng(0)
    owner, item = np.repeat(np.arange(users), 60), rng.integers(0, items, users * 60)
    return Interactions.of(owner, item, np.arange(users * 60) * 1000)


def plan(index: IndexConfig, use: str = "ials") -> Plan:
    options = {"dim": 8, "epochs": 2} if use == "ials" else {}
    return plan_of(ChannelConfig("taste", use, index=index), "taste", options)


def test_a_channel_is_fitted_with_its_index_and_served_without_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = IndexConfig(use="ivf", options={"lists": 8})
    work = (Catalogue.empty(), SCHEMA, tmp_path)
    done = fit([plan(asked)], factors(), *work, snapshot="s", created_ms=7)["taste"].manifest
    assert "index.faiss" in done.files
    assert done.metrics["index_recall"] >= 0.95
    assert set(done.config["index"]["options"]) == {"lists", "probes", "storage", "refine"}
    monkeypatch.setattr(Ivf, "build", None)
    index = opened(artifact.load(tmp_path / "taste"))
    assert isinstance(index, VectorIndex)
    assert isinstance(index.engine, Ivf)
    assert fitted([plan(asked)], SCHEMA, tmp_path, "s") is not None
    for other in (IndexConfig(), IndexConfig(use="ivf"), IndexConfig(use="ivf", recall=0.9, options={"lists": 8})):
        assert fitted([plan(other)], SCHEMA, tmp_path, "s") is None


def test_an_index_over_lists_is_refused(tmp_path: Path) -> None:
    plans = [plan(IndexConfig(use="ivf"), "hot")]
    with pytest.raises(ConfigError) as caught:
        fit(plans, factors(), Catalogue.empty(), SCHEMA, tmp_path, snapshot="s", created_ms=7)
    assert str(caught.value) == f"{WHERE}: hot makes lists: an index does nothing (take index away)"


def test_a_word_that_is_wrong_is_refused_before_anything_is_fitted() -> None:
    with pytest.raises(ConfigError) as caught:
        plan(IndexConfig(use="ivf", options={"list": 3}))
    assert str(caught.value) == f"{WHERE} (ivf): unknown key 'list' (did you mean lists?)"


def test_an_artifact_from_before_there_were_kinds_is_searched_exactly(rng: np.random.Generator, tmp_path: Path) -> None:
    form, queries = clustered(rng, 200, "ip")
    artifact.save(tmp_path / "a", kind="x", name="x", form=form, created_ms=1)
    index = opened(artifact.load(tmp_path / "a"))
    assert isinstance(index, VectorIndex)
    np.testing.assert_array_equal(index.search(queries, 5)[0], VectorIndex(form).search(queries, 5)[0])


def test_a_file_that_was_changed_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    form, _ = clustered(rng, 1500, "ip")
    built = indexed(form, IndexConfig(use="ivf"), WHERE)
    artifact.save(tmp_path / "a", kind="x", name="x", form=form, config=built.config, files=built.files, created_ms=1)
    path = tmp_path / "a" / "index.faiss"
    with path.open("r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        handle.write(b"other")
    with pytest.raises(ArtifactError) as caught:
        artifact.load(tmp_path / "a")
    assert str(caught.value) == f"{path}: the content has changed since it was written (train and publish again)"


def test_files_of_an_index_replace_nothing(tmp_path: Path) -> None:
    def clash(folder: Path) -> None:
        (folder / "weights.npy").write_bytes(b"")

    arrays = {"weights": np.zeros(3)}
    with pytest.raises(ArtifactError) as caught:
        artifact.save(tmp_path / "a", kind="x", name="x", arrays=arrays, files=clash, created_ms=1)
    assert caught.value.what == "two files are called 'weights.npy'"
    assert not (tmp_path / "a").exists()


def test_published_with_a_release_and_checked_there(rng: np.random.Generator, tmp_path: Path) -> None:
    form, _ = clustered(rng, 1500, "ip")
    built = indexed(form, IndexConfig(use="hnsw", options={"build_ef": 40}), WHERE)
    artifact.save(tmp_path / "a", kind="x", name="x", form=form, config=built.config, files=built.files, created_ms=1)
    copied, _ = artifact.Releases._copy(_made(tmp_path / "r"), {"x": tmp_path / "a"})
    index = opened(artifact.load(tmp_path / "r" / "artifacts" / copied["x"]["folder"]))
    assert isinstance(index, VectorIndex)
    assert isinstance(index.engine, Hnsw)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_what_the_kinds_need_is_an_extra_of_that_name() -> None:
    assert {extra for _, extra in building.NEEDS.values()} == {"annoy", "scann", "sklearn"}


def test_what_is_meant_is_shown() -> None:
    def shown(use: str, index: Any) -> dict[str, Any]:
        config = parse({"recall": [{"name": "taste", "use": use, "index": index}]})
        found: dict[str, Any] = effective(config, SCHEMA)["recall"][0]
        return found

    assert shown("ials", "auto")["index"] == {"use": "auto", "recall": 0.95, "seed": 0}
    wanted = {"use": "ivf", "recall": 0.9, "seed": 0, "lists": None, "probes": 4, "storage": "int8", "refine": 2}
    assert shown("ials", {"use": "ivf", "recall": 0.9, "probes": 4})["index"] == wanted
    assert "index" not in shown("hot", "auto")
    with pytest.raises(ConfigError) as caught:
        shown("hot", "ivf")
    assert str(caught.value) == f"{WHERE}: hot makes lists: an index does nothing (take index away)"
