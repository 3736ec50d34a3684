"""Update rules: torch's fused ones, and rules of our own for tables of which a batch touches a few rows.

A table of V rows and width D whose gradient is sparse gets row-wise Adagrad (Duchi et al., JMLR 2011, with one
accumulator a row as in Mudigere et al., ISCA 2022), lazy Adam (Kingma & Ba, ICLR 2015, moments of touched rows only) or
plain SGD. Rows that appear twice in a batch are summed first; rows that do not appear stay as they are, moments too.
N touched rows.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from shortlist.config import NonNegative, Positive, frozen

__all__ = ["Rules", "Optimizer", "build", "row_adagrad", "lazy_adam", "row_sgd"]

State = dict[str, Tensor]


@frozen
class Rules:
    """Which rule at which rate. `weight_decay` is for what is not a table: decoupled from the gradient with adam, a
    part of it otherwise. `l2_embedding` adds to the gradients of tables, on the rows that a batch touches: as in DIN
    (Zhou et al., KDD 2018), but not divided by how often a row appears."""

    optimizer: Literal["adagrad", "adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    lr_embedding: Positive | None = None  # None: lr
    weight_decay: NonNegative = 0.0
    l2_embedding: NonNegative = 0.0
    clip: NonNegative = 0.0  # longest gradient of all parameters together; 0: no limit


def row_adagrad(state: State, rows: Tensor, grad: Tensor, lr: float, eps: float = 1e-10) -> Tensor:
    """Change of distinct rows [N, D]: G_r += mean(g_r^2), -lr * g_r / (sqrt(G_r) + eps)."""
    total = state["sum"][rows] + grad.square().mean(dim=1)
    state["sum"][rows] = total
    return grad * (-lr / (total.sqrt() + eps)).unsqueeze(1)


def lazy_adam(
    state: State, rows: Tensor, grad: Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Tensor:
    """Change of distinct rows [N, D] by Adam; the moments' bias is corrected by the steps of the whole table."""
    state["step"] += 1
    step, (beta1, beta2) = state["step"].item(), betas
    mean = state["exp_avg"][rows].lerp_(grad, 1 - beta1)
    square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
    root = (square.sqrt() / math.sqrt(1 - beta2**step)).add_(eps)
    return mean.mul_(-lr / (1 - beta1**step)).div_(root)


def row_sgd(state: State, rows: Tensor, grad: Tensor, lr: float) -> Tensor:
    """Change of distinct rows [N, D]: -lr * g_r."""
    return -lr * grad


def _start(rule: str, weight: Tensor) -> State:
    if rule == "adagrad":
        return {"sum": weight.new_zeros(len(weight))}
    if rule == "adam":
        moments = {name: _zeros(weight) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros(()), **moments}
    return {}


def _zeros(weight: Tensor) -> Tensor:
    """As many zeros. On the CPU from numpy, which asks for large pages: rows here and there are found sooner."""
    if not weight.is_cpu:
        return torch.zeros_like(weight)
    return torch.from_numpy(np.zeros(weight.shape, dtype=weight.detach().numpy().dtype))


RowRule = Callable[[State, Tensor, Tensor, float], Tensor]
ROW_RULES: dict[str, RowRule] = {"adagrad": row_adagrad, "adam": lazy_adam, "sgd": row_sgd}


class Optimizer:
    """The rules of all parameters as one; its state goes by parameter name. Made by `build`.

    `dense` are torch's rules; `tables` the parameters with sparse gradients and the state of each; `small` are tables
    among the dense.
    """

    def __init__(
        self,
        names: Mapping[Tensor, str],
        rules: Rules,
        dense: tuple[torch.optim.Optimizer, ...],
        tables: Mapping[Tensor, State],
        small: tuple[Tensor, ...] = (),
    ) -> None:
        self.names = names
        self.rules = rules
        self.dense = dense
        self.tables = tables
        self.small = small
        self.slots: dict[Tensor, Tensor] = {}  # scratch of each table on the CPU

    def zero_grad(self) -> None:
        for weight in self.names:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> str | None:
        """Clip and update. With a gradient that is not finite nothing changes, and its parameter's name comes back."""
        given = {weight: weight.grad for weight in self.names if weight.grad is not None}
        if not given:
            return None
        summed = {weight: self._summed(weight, grad) for weight, grad in given.items() if weight in self.tables}
        grads = {
            self.names[weight]: [sums for _, sums in summed[weight]] if weight in summed else [grad]
            for weight, grad in given.items()
        }
        values = [value for parts in grads.values() for value in parts]
        norms = torch._foreach_norm(values)
        total = torch.stack(norms).norm().item()
        if not math.isfinite(total):
            wrong = (name for name, parts in grads.items() if not all(part.isfinite().all() for part in parts))
            return next(wrong, ", ".join(grads))
        if self.rules.clip and total > self.rules.clip:
            torch._foreach_mul_(values, self.rules.clip / total)
        if self.rules.l2_embedding:
            for weight in self.small:
                _penalize(weight, self.rules.l2_embedding)
        for part in self.dense:
            part.step()
        for weight, parts in summed.items():
            self._change(weight, parts)
        return None

    def _summed(self, weight: Tensor, grad: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Distinct rows [U] of a table and their gradients [U, D], repeats summed, in parts without common rows."""
        if weight.is_cpu:
            from shortlist.training.rows import summed  # loads numba

            ids = grad._indices()[0] if grad.is_sparse else torch.arange(len(grad))
            values = grad._values() if grad.is_sparse else grad
            if weight not in self.slots:
                self.slots[weight] = torch.full((len(weight),), -1, dtype=torch.int32)
            return summed(ids, values, self.slots[weight], torch.get_num_threads())
        if grad.is_sparse:
            whole = grad.coalesce()
            return [(whole.indices()[0], whole.values())]
        return [(torch.arange(len(weight), device=weight.device), grad)]

    def _change(self, weight: Tensor, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Apply the rule to rows that appear once."""
        rules, state = self.rules, self.tables[weight]
        lr = rules.lr_embedding or rules.lr
        if weight.is_cpu:
            from shortlist.training.rows import change  # loads numba

            change(rules.optimizer, weight, state, parts, lr, rules.l2_embedding)
            return
        for rows, grad in parts:
            if rules.l2_embedding:
                grad = grad + rules.l2_embedding * weight[rows]
            weight[rows] += ROW_RULES[rules.optimizer](state, rows, grad, lr)

    def state(self) -> State:
        """`<parameter>/<what>` -> tensor, as it stands: not a copy."""
        kept = {**self.tables, **{weight: state for part in self.dense for weight, state in part.state.items()}}
        return {
            f"{self.names[weight]}/{what}": value for weight, state in kept.items() for what, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. Raises KeyError for a parameter unknown here."""
        weights = {name: weight for weight, name in self.names.items()}
        for key, value in tensors.items():
            name, _, what = key.rpartition("/")
            weight = weights[name]
            if weight in self.tables:
                self.tables[weight][what] = value.to("cpu" if what == "step" else weight.device, copy=True)
                continue
            for part in self.dense:
                for group in part.param_groups:
                    if any(weight is mine for mine in group["params"]):
                        here = weight.device if what != "step" or group["fused"] else "cpu"
                        part.state[weight][what] = value.to(here, copy=True)


def _penalize(weight: Tensor, l2: float) -> None:
    """Add to a dense gradient on the rows that have any."""
    if weight.grad is not None:
        touched = (weight.grad != 0).any(dim=1, keepdim=True)
        weight.grad.addcmul_(weight, touched.to(weight.dtype), value=l2)


def build(model: nn.Module, rules: Rules) -> Optimizer:
    """The rules of all parameters of a model, where it stands (move it to its device first).

    Tables are the weights of nn.Embedding; one that appears under two names is one. A module that has an `own_lr` is
    learned at that rate, without decay.
    """
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    every = {module.weight for module in modules}
    sparse = {module.weight for module in modules if module.sparse}
    lr_table = rules.lr_embedding or rules.lr
    rates = [(module, getattr(module, "own_lr", None)) for module in model.modules()]
    own: dict[Tensor, float] = {
        weight: rate for module, rate in rates if rate is not None for weight in module.parameters()
    }
    dense = []
    # listed in the order of names: a set has none that lasts from one process to the next
    if rest := [weight for weight in names if weight not in every and weight not in own]:
        dense.append(_fused(rules.optimizer, rest, rules.lr, rules.weight_decay, decoupled=True))
    if small := [weight for weight in names if weight in every - sparse]:
        dense.append(_fused(rules.optimizer, small, lr_table, 0.0))
    for lr in sorted(set(own.values())):
        mine = [weight for weight in names if own.get(weight) == lr]
        dense.append(_fused(rules.optimizer, mine, lr, 0.0))
    tables = {weight: _start(rules.optimizer, weight) for weight in names if weight in sparse}
    return Optimizer(names, rules, tuple(dense), tables, tuple(small))


def _fused(rule: str, weights: list[Tensor], lr: float, decay: float, decoupled: bool = False) -> torch.optim.Optimizer:
    if rule == "adam":
        return torch.optim.Adam(weights, lr, weight_decay=decay, decoupled_weight_decay=decoupled, fused=True)
    if rule == "adagrad":
        # fused on the CPU only; elsewhere torch takes the loop over all parameters at once
        return torch.optim.Adagrad(weights, lr, weight_decay=decay, fused=all(w.is_cpu for w in weights))
    return torch.optim.SGD(weights, lr, weight_decay=decay, fused=True)
