"""Training on a GPU, where there is one: the whole way from a project, in float32 and in bf16, beside the CPU."""

import json
from pathlib import Path

import pytest
import torch
from tests.evaluation.test_outcome import project

from shortlist.artifact import load
from shortlist.cli import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def losses(folder: Path) -> dict[str, float]:
    models = folder / "var" / "models" / "test"
    return {name: float(load(models / name).manifest.metrics["loss"]) for name in ("towers", "coarse", "rank")}


def trained(folder: Path, words: str) -> dict[str, float]:
    folder.mkdir()
    file = project(folder, learned=True) / "shortlist.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("train = { ", f"train = {{ {words}, "), encoding="utf-8")
    assert main(["train", "--project", str(file)]) == 0
    return losses(folder)


def test_a_gpu_learns_what_the_cpu_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cpu = trained(tmp_path / "cpu", 'device = "cpu"')
    gpu = trained(tmp_path / "gpu", 'device = "cuda"')
    half = trained(tmp_path / "half", 'device = "cuda", precision = "bf16"')
    assert gpu == pytest.approx(cpu, rel=0.05)  # other dice, the same data
    assert half == pytest.approx(gpu, rel=0.05)
    assert main(["evaluate", "--project", str(tmp_path / "half" / "shortlist.toml"), "--no-map", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]["page"]["recall@5"][0] > 0
