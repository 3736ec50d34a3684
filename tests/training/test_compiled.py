"""The switches of a training: bfloat16, and torch.compile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.ranked import Learner, ranking
from torch import Tensor, nn

from shortlist.errors import ConfigError
from shortlist.training.compiled import Compiled
from shortlist.training.learn import Training

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent.parent
compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="no C++ compiler here")


class Half(nn.Module):
    """The query side of a retriever, and half of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.5))
        self.metric = "ip"

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def query(self, x: Tensor) -> Tensor:
        return x + self.weight


def learned(config: Training, folder: Path) -> dict[str, Tensor]:
    return Learner(ranking(), config, folder).on().weights()


def test_bf16_learns_on_the_cpu_what_float32_learns(tmp_path: Path) -> None:
    full = learned(Training(batch_size=8, epochs=3, lr=0.01), tmp_path / "a")
    half = learned(Training(batch_size=8, epochs=3, lr=0.01, precision="bf16"), tmp_path / "b")
    assert list(half) == list(full)
    assert all(weight.dtype == torch.float32 for name, weight in half.items())
    away = torch.cat([(half[name] - full[name]).flatten() for name in full]).norm()
    long = torch.cat([weight.flatten() for weight in full.values()]).norm()
    assert 0 < away < 0.1 * long  # products of eight bits: not the same, and near


@compiler
def test_a_compiled_model_is_the_model_under_its_own_names() -> None:
    # in a process of its own: torch asks setuptools for paths, which refuses a process where distutils came first
    code = "from tests.training.test_compiled import compiled_is_the_model; compiled_is_the_model()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def compiled_is_the_model() -> None:
    model = Half()
    made = Compiled(model, CPU)
    assert made.metric == "ip"
    assert made(torch.ones(2, 3)).tolist() == [[0.5] * 3] * 2
    assert made(torch.ones(5, 3)).tolist() == [[0.5] * 3] * 5  # of another size
    assert made.query(torch.ones(2, 3)).tolist() == [[1.5] * 3] * 2
    made(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [1, 1, 1]
    assert list(model.state_dict()) == ["weight"]
    assert torch._dynamo.utils.counters["graph_break"] == {}


@compiler
@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
def test_a_compiled_run_learns_what_another_learns_and_goes_on(sparse: bool, tmp_path: Path) -> None:
    plain = Training(batch_size=8, epochs=2, lr=0.01)
    config = Training(batch_size=8, epochs=2, lr=0.01, compile=True)
    expected = Learner(ranking(), plain, tmp_path / "a", sparse=sparse).on().weights()
    Learner(ranking(), config, tmp_path / "b", sparse=sparse).on(9)
    found = Learner(ranking(), config, tmp_path / "b", sparse=sparse).on().weights()
    assert list(found) == list(expected)
    for name, weight in found.items():
        assert torch.allclose(weight, expected[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("", "no C++ compiler is here (g++ or clang++)"),
        ("no-such-compiler", "no C++ compiler is called 'no-such-compiler' (CXX)"),
    ],
)
def test_without_a_compiler_it_says_what_is_missing(
    named: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", named)
    with pytest.raises(ConfigError) as caught:
        learned(Training(compile=True, device="cpu"), tmp_path / "run")
    assert str(caught.value) == f"training.compile: {message} (install one, or take compile away)"


BROKEN = """
import torch
from torch import nn
from shortlist.errors import ConfigError
from shortlist.training.compiled import Compiled

class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(x) * torch.cos(x)

try:
    Compiled(Wave(), torch.device("cpu"))(torch.ones(2, 7))
except ConfigError as error:
    print(error)
"""


@compiler
def test_what_cannot_be_compiled_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    env = os.environ | {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.startswith("training.compile: torch.compile failed: InvalidCxxCompiler: ")
    assert done.stdout.endswith("(take compile away)\n")
