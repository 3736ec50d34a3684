"""Rows of served slates: what was shown, what was not, and what it was chosen by."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from tests.serving.world import NOW, SCHEMA, USERS, serving

from shortlist.events import slates
from shortlist.features.base import Rows
from shortlist.serving import engine as module
from shortlist.serving import exposures
from shortlist.serving.engine import Engine
from shortlist.serving.met import requests_of

TAGS = {"kind": "varlen", "split": "|"}
ASKING = {"schema": {**SCHEMA, "context": {"device": "sparse", "hour": "dense", "tags": TAGS}}}


def written(engine: Engine) -> pl.DataFrame:
    engine.flush()
    return slates.read(engine.releases.folder.parent / "rows").rows


def test_a_slate_is_logged_with_some_of_what_was_not_shown(tmp_path: Path) -> None:
    with serving(tmp_path, rejected=2) as (world, engine):
        answer = engine.recommend("ann", 3)
        found = written(engine)
        shown = found.filter("shown")
        assert [int(key) for key in shown["item"]] == [world.log.key("item", s.item) for s in answer.items]
        assert shown["position"].to_list() == [1, 2, 3]
        assert shown["sampled"].to_list() == shown["propensity"].to_list() == [1.0] * 3
        record = engine.record(answer.request_id)
        assert record is not None
        among = record.slates.candidates
        able = [int(i) for i in among.items[among.fate == among.reasons.index("not_selected") + 1]]
        others = found.filter(~pl.col("shown"))
        assert len(others) == 2 < len(able)
        assert set(others["item"]) <= set(able)
        assert others["position"].to_list() == [0, 0]
        assert others["sampled"].to_list() == pytest.approx([2 / len(able)] * 2)
        first = found.row(0, named=True)
        expected = {
            "request_id": answer.request_id, "user": 0, "user_id": "ann", "time_ms": NOW, "as_of_offset": 21,
            "counted_offset": 21, "scene": "home", "release": answer.release, "experiments": "{}", "degraded": "[]",
        }  # fmt: skip
        assert {name: first[name] for name in expected} == expected
        keys = ("user", "item", "time_ms", "as_of_offset")
        assert [found.schema[name] for name in keys] == [pl.Int64()] * 4
        for k, item in enumerate(answer.items):
            row = shown.row(k, named=True)
            brought = {b.channel: (b.rank, b.score) for b in item.channels}
            for channel in ("similar", "popular"):
                told = (row[f"channel_rank.{channel}"], row[f"channel_score.{channel}"])
                assert told == pytest.approx(brought.get(channel, (0, told[1])))
            assert row["score.merge"] == pytest.approx(item.score)
        order = shown.sort("score.merge", descending=True)["merge_rank"].to_list()
        assert order == [1, 2, 3]


def test_rejected_ones_are_equally_likely_and_the_request_id_is_their_dice(tmp_path: Path) -> None:
    with serving(tmp_path, rejected=2) as (_, engine):
        answer = engine.recommend("ann", 3)
        record = engine.record(answer.request_id)
        assert record is not None
        made = exposures.Exposure(answer, NOW, 21, {}, record.slates, record.live.schema)
        one, two = (exposures._drawn(made, 2)[0].tolist() for _ in range(2))
        assert one == two
        counts = np.zeros(len(record.slates.candidates), dtype=np.int64)
        for n in range(3000):
            other = exposures.Exposure(_renamed(answer, f"{n:032x}"), NOW, 21, {}, record.slates, record.live.schema)
            at, share = exposures._drawn(other, 2)
            counts[at] += 1
        able = counts[counts > 0]
        assert share == pytest.approx(2 / len(able))
        assert len(able) > 2
        # each of n is drawn by 2 of n requests; four deviations of a binomial
        p = 2 / len(able)
        assert np.abs(able - 3000 * p).max() < 4 * np.sqrt(3000 * p * (1 - p))


def _renamed(answer: Any, request_id: str) -> Any:
    return msgspec.structs.replace(answer, request_id=request_id)


def test_context_is_typed_and_a_stranger_has_an_id(tmp_path: Path) -> None:
    with serving(tmp_path, ASKING, rejected=0) as (_, engine):
        answer = engine.recommend("newcomer", context={"device": 5, "hour": "7", "tags": "new|red"})
        record = engine.record(answer.request_id)
        assert record is not None
        asked = record.slates.requests.context  # as a log that is imported has them
        assert {name: asked[name].tolist() for name in ("device", "hour", "tags")} == {
            "device": ["5"], "hour": [7.0], "tags": [["new", "red"]],
        }  # fmt: skip
        engine.recommend("ann")
        found = written(engine)
        assert found["shown"].all()
        mine = found.filter(user_id="newcomer")
        assert mine["user"].unique().to_list() == [-1]
        assert mine["context.device"].unique().to_list() == ["5"]
        assert mine["context.hour"].unique().to_list() == [7.0]
        assert mine["context.tags"].to_list() == [["new", "red"]] * 5
        assert found.filter(user_id="ann")["context.hour"].null_count() == 5


class Known:
    """Features of a request and of its items: the user's key and two words; ten times the item's key and nothing."""

    def columns(self, rows: Rows) -> dict[str, Any]:
        if rows.items is not None:
            return {"ten": 10.0 * rows.items, "none": np.full(len(rows.items), np.nan)}
        words = np.empty(1, dtype=object)
        words[0] = ["a", "b"]
        return {"who": rows.users.astype(np.float64), "words": words}


def test_features_are_logged_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "requests_of", lambda *told: replace(requests_of(*told), known=Known()))
    with serving(tmp_path, rejected=3) as (_, engine):
        engine.recommend("bob")
        found = written(engine)
    assert found["feature.ten"].to_list() == [10.0 * key for key in found["item"]]
    assert found["feature.who"].unique().to_list() == [float(USERS.index("bob"))]
    assert found["feature.none"].null_count() == len(found)
    assert found["feature.words"].to_list() == [["a", "b"]] * len(found)


def test_a_preview_leaves_no_rows(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, engine):
        engine.recommend("ann", preview=True)
        assert len(written(engine)) == 0


def test_rows_that_cannot_be_made_are_counted_and_answers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path) as (world, engine):

        def broken(*told: Any) -> pl.DataFrame:
            raise ZeroDivisionError("a mistake of ours")

        real = exposures.rows
        monkeypatch.setattr(exposures, "rows", broken)
        first = engine.recommend("ann")
        assert len(written(engine)) == 0
        assert engine.meters.dropped == 1
        assert "rows of served slates are not kept" in caplog.text
        assert world.log.served(first.request_id) is not None  # the log has it all the same
        monkeypatch.setattr(exposures, "rows", real)
        second = engine.recommend("ann")
        assert written(engine)["request_id"].unique().to_list() == [second.request_id]


def test_a_folder_that_cannot_be_written_drops_rows_and_counts_them(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file where the folder should be")
    with serving(tmp_path) as (_, engine):
        assert len(engine.recommend("ann").items) == 5
        engine.flush()
        assert engine.meters.dropped == 1
