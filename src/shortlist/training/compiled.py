"""A model whose math torch.compile made, with everything else its own: weights keep their names."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from shortlist.errors import ConfigError

__all__ = ["Compiled"]

MATH = ("query", "candidate", "states")  # what objectives ask of a retriever; of a ranker it is the forward
WHERE = "training.compile"


class Compiled:
    """Compiled when it is first asked, for batches of any size. Raises ConfigError where that cannot be done."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        _check(device)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.sparse:  # a sparse gradient cannot be traced
                module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
        self.model = model
        self.made: dict[str, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        return self._asked("forward", args)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.model, name)
        return (lambda *args: self._asked(name, args)) if name in MATH else found

    def _asked(self, name: str, args: tuple[Any, ...]) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        if name not in self.made:
            self.made[name] = torch.compile(getattr(self.model, name), dynamic=True)
        try:
            return self.made[name](*args)
        except TorchDynamoException as error:
            what = f"torch.compile failed: {str(error).strip().splitlines()[0]}"
            raise ConfigError(what, where=WHERE, hint="take compile away") from error


def _check(device: torch.device) -> None:
    """Raises ConfigError where what makes machine code is missing."""
    if device.type == "cuda":
        return  # triton brings its own
    named = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in ([named] if named else ["g++", "c++", "clang++"])):
        what = f"no C++ compiler is called {named!r} (CXX)" if named else "no C++ compiler is here (g++ or clang++)"
        raise ConfigError(what, where=WHERE, hint="install one, or take compile away")
