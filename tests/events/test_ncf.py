"""The published leave-one-out benchmark: its held-out events, its lists, and their known defect."""

from pathlib import Path

import numpy as np
import pytest

from shortlist.config import load
from shortlist.dataset.log import interactions
from shortlist.dataset.published import published
from shortlist.dataset.splits.last_out import LastOut
from shortlist.events import workspace


def test_the_published_lists_fit_the_last_events(tmp_path: Path, data_folder: Path | None) -> None:
    if data_folder is None:
        pytest.skip("SHORTLIST_DATA is not set: generated lists in tests/dataset stand in")
    (tmp_path / "shortlist.toml").write_text('[data]\nadapter = "ncf_ml_1m"\n', encoding="utf-8")
    project = load(tmp_path)
    workspace.import_log(project, lambda text: None, 0)
    split = LastOut(LastOut.Config(valid="random")).split(interactions(project), np.random.default_rng(0))
    table = workspace.published(project)
    assert table is not None
    fixed = published(split, table)
    assert fixed.candidates is not None
    assert fixed.candidates.shape == (6_040, 100)
    # What the data set's own notes say: 156 negatives equal the held-out item.
    assert fixed.defects["negatives that are the held-out item"] == 156
    assert fixed.audit() == []
    assert len(fixed.before_test) == 993_681
