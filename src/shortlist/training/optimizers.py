"""Update rules: torch's fused ones, and rules of our own for tables of which a batch touches a few rows.

A table of V rows and width D whose gradient is sparse gets row-wise Adagrad (Duchi et al., JMLR 2011, with one
accumulator a row as in Mudigere et al., ISCA 2022), lazy Adam (Kingma & Ba, ICLR 2015, moments of touched rows only) or
plain SGD. Rows that appear twice in a batch are summed first; rows that do not appear stay as they are, moments too.
N touched rows.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from shortlist.config import NonNegative, Positive, frozen

__all__ = ["Rules", "Optimizer", "build", "row_adagrad", "lazy_adam", "row_sgd"]

State = dict[str, Tensor]


@frozen
class Rules:
    """Which rule at which rate. `weight_decay` is for what is not a table: decoupled from the gradient with adam, a
    part of it otherwise. `l2_embedding` adds to the gradients of tables, on touched rows where these are sparse."""

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
        moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros(()), **moments}
    return {}


RowRule = Callable[[State, Tensor, Tensor, float], Tensor]
ROW_RULES: dict[str, RowRule] = {"adagrad": row_adagrad, "adam": lazy_adam, "sgd": row_sgd}


class Optimizer:
    """The rules of all parameters as one; its state goes by parameter name. Made by `build`.

    `dense` are torch's rules; `tables` the parameters with sparse gradients and the state of each.
    """

    def __init__(
        self,
        names: Mapping[Tensor, str],
        rules: Rules,
        dense: tuple[torch.optim.Optimizer, ...],
        tables: Mapping[Tensor, State],
    ) -> None:
        self.names = names
        self.rules = rules
        self.dense = dense
        self.tables = tables

    def zero_grad(self) -> None:
        for weight in self.names:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> str | None:
        """Clip and update. With a gradient that is not finite nothing changes, and its parameter's name comes back."""
        grads = {name: _values(weight) for weight, name in self.names.items() if weight.grad is not None}
        if not grads:
            return None
        values = list(grads.values())
        norms = torch._foreach_norm(values)
        total = torch.stack(norms).norm().item()
        if not math.isfinite(total):
            return next((name for name, grad in grads.items() if not grad.isfinite().all()), ", ".join(grads))
        if self.rules.clip and total > self.rules.clip:
            torch._foreach_mul_(values, self.rules.clip / total)
        for part in self.dense:
            part.step()
        for weight, state in self.tables.items():
            self._rows(weight, state)
        return None

    def _rows(self, weight: Tensor, state: State) -> None:
        if weight.grad is None:
            return
        if weight.grad.is_sparse:
            rows, grad = weight.grad.indices()[0], weight.grad.values()
        else:
            rows, grad = torch.arange(len(weight), device=weight.device), weight.grad
        if self.rules.l2_embedding:
            grad = grad + self.rules.l2_embedding * weight[rows]
        lr = self.rules.lr_embedding or self.rules.lr
        weight[rows] += ROW_RULES[self.rules.optimizer](state, rows, grad, lr)  # distinct: each row once

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


def _values(weight: Tensor) -> Tensor:
    """The numbers of a gradient; rows of a sparse one are summed first."""
    grad = weight.grad
    assert grad is not None
    if not grad.is_sparse:
        return grad
    weight.grad = grad.coalesce()
    return weight.grad.values()


def build(model: nn.Module, rules: Rules) -> Optimizer:
    """The rules of all parameters of a model, where it stands (move it to its device first).

    Tables are the weights of nn.Embedding; one that appears under two names is one.
    """
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    every = {module.weight for module in modules}
    sparse = {module.weight for module in modules if module.sparse}
    lr_table = rules.lr_embedding or rules.lr
    dense = []
    # listed in the order of names: a set has none that lasts from one process to the next
    if rest := [weight for weight in names if weight not in every]:
        dense.append(_fused(rules.optimizer, rest, rules.lr, rules.weight_decay, decoupled=True))
    if small := [weight for weight in names if weight in every - sparse]:
        dense.append(_fused(rules.optimizer, small, lr_table, rules.l2_embedding))
    tables = {weight: _start(rules.optimizer, weight) for weight in names if weight in sparse}
    return Optimizer(names, rules, tuple(dense), tables)


def _fused(rule: str, weights: list[Tensor], lr: float, decay: float, decoupled: bool = False) -> torch.optim.Optimizer:
    if rule == "adam":
        return torch.optim.Adam(weights, lr, weight_decay=decay, decoupled_weight_decay=decoupled, fused=True)
    if rule == "adagrad":
        # fused on the CPU only; elsewhere torch takes the loop over all parameters at once
        return torch.optim.Adagrad(weights, lr, weight_decay=decay, fused=all(w.is_cpu for w in weights))
    return torch.optim.SGD(weights, lr, weight_decay=decay, fused=True)
