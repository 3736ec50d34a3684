"""A numpy generator that a checkpoint can keep: its state is a tensor."""

import json

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Rng"]


class Rng(nn.Module):
    """`dice`, a generator, saved and restored with the state of the module that holds it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.dice = np.random.default_rng(seed)

    def get_extra_state(self) -> Tensor:
        text = json.dumps(self.dice.bit_generator.state)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.dice.bit_generator.state = json.loads(bytes(state.tolist()))
