"""A ranker's tables split over the processes of a team by TorchRec: whole tables here and there (`table_wise`), or rows
of every table (`row_wise`).

Each distinct id of a batch is pulled once, all tables in one exchange, and its gradient pushed once: the batch's
look-ups are first listed by a pass without gradients. TorchRec updates the rows where they are, on the way back. Import
only where TorchRec is: docs/decisions/scale.md. V rows, D width, U distinct rows.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Batch
from shortlist.errors import ConfigError
from shortlist.training.distributed import Team
from shortlist.training.optimizers import Rules

__all__ = ["Sharded", "check"]

How = Literal["table_wise", "row_wise"]
SUM = "momentum1"  # TorchRec's name of the accumulator of row-wise Adagrad
EPS = 1e-10  # as in `optimizers`


class Split(nn.Module):
    """In the place of a table: while a batch is learned from, the rows that were pulled for it; else the whole table,
    as it was when it was last gathered. Processes that do not lead know its shape alone."""

    def __init__(self, table: nn.Embedding, leads: bool) -> None:
        super().__init__()
        whole = table.weight.detach().clone() if leads else table.weight.detach().to("meta")
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.asked: list[Tensor] | None = None
        self.given: list[Tensor] = []

    def forward(self, rows: Tensor) -> Tensor:
        if self.asked is not None:
            self.asked.append(rows)
            return torch.zeros(*rows.shape, self.weight.shape[1])
        return self.given.pop(0) if self.given else functional.embedding(rows, self.weight)


class Sharded:
    """A model whose tables are split; `whole` puts them back. All processes make it, and ask it, at once."""

    def __init__(self, model: nn.Module, how: How, rules: Rules, team: Team) -> None:
        """Raises ConfigError where TorchRec is not installed, or has no such rule on this device."""
        check(rules)
        from torchrec import EmbeddingCollection, EmbeddingConfig
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
        from torchrec.distributed.types import ShardingEnv
        from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
        from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

        self.model, self.team = model, team
        tables = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
        self.tables = dict(zip(tables, (f"t{n}" for n in range(len(tables))), strict=True))
        configs = [
            EmbeddingConfig(
                name=self.tables[name],
                embedding_dim=_wide(table.embedding_dim),
                num_embeddings=table.num_embeddings,
                feature_names=[self.tables[name]],
            )
            for name, table in tables.items()
        ]
        collection = EmbeddingCollection(tables=configs, device=torch.device("cpu"))
        rate = rules.lr_embedding or rules.lr
        for name, table in tables.items():
            weight, width = collection.embeddings[self.tables[name]].weight, table.embedding_dim
            with torch.no_grad():
                weight.zero_()[:, :width] = table.weight
            if rules.optimizer == "adagrad":  # its mean is over columns that are there for the width alone, too
                words = {"lr": rate * (width / _wide(width)) ** 0.5, "eps": EPS}
                apply_optimizer_in_backward(RowWiseAdagrad, [weight], words)
            else:
                apply_optimizer_in_backward(torch.optim.SGD, [weight], {"lr": rate})
        ways = {
            split: row_wise() if how == "row_wise" else table_wise(rank=n % team.ranks)
            for n, split in enumerate(self.tables.values())
        }
        plan = construct_module_sharding_plan(
            collection, ways, local_size=team.ranks, world_size=team.ranks, device_type="cpu"
        )  # fmt: skip
        env = ShardingEnv.from_process_group(dist.group.WORLD)
        self.collection: Any = EmbeddingCollectionSharder().shard(collection, plan, env, torch.device("cpu"))
        self.sums: dict[str, Tensor] = {}
        self.splits = {name: Split(table, team.rank == 0) for name, table in tables.items()}
        for name, split in self.splits.items():
            _put(model, name, split)

    def __call__(self, batch: Batch) -> Any:
        self._pull(self._listed(batch))
        out = self.model(batch)
        assert not any(split.given for split in self.splits.values()), "a model looks up the same rows each time"
        return out

    def gather(self) -> None:
        weights, sums = self._shards()
        for name, split in self.splits.items():
            rows, width = split.weight.shape
            whole = _whole(weights[name], (rows, _wide(width)), self.team.rank)
            if whole is not None:
                with torch.no_grad():
                    split.weight.copy_(whole[:, :width])
            if name in sums:
                total = _whole(sums[name], (rows,), self.team.rank)
                if total is not None:
                    self.sums[name] = total

    def state(self) -> dict[str, Tensor]:
        """What the rule has kept of every row, as of the last `gather`."""
        return dict(self.sums)

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        own, sums = self._shards()
        for name in self.splits:
            weight = weights[f"{name}.weight"]
            _take(own[name], functional.pad(weight, (0, _wide(weight.shape[1]) - weight.shape[1])))
            if name in sums:
                _take(sums[name], state[name])

    def whole(self) -> None:
        """Put ordinary tables back where this process has them whole."""
        if self.team.rank:
            return
        for name, split in self.splits.items():
            rows, width = split.weight.shape
            table = nn.Embedding(rows, width, padding_idx=0, _weight=split.weight.detach())
            _put(self.model, name, table)

    def _listed(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Rows that the model looks up in each table, in its order."""
        for split in self.splits.values():
            split.asked = []
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                self.model(batch)
            return {name: split.asked or [] for name, split in self.splits.items()}
        finally:
            self.model.train(training)
            for split in self.splits.values():
                split.asked = None

    def _pull(self, listed: Mapping[str, list[Tensor]]) -> None:
        """Fetch distinct rows [U, D] of every table, and lay them out for the look-ups; row 0 stays zero."""
        from torchrec import KeyedJaggedTensor

        flat = {name: torch.cat([rows.reshape(-1) for rows in [*asked, EMPTY]]) for name, asked in listed.items()}
        found = {name: torch.unique(rows, return_inverse=True) for name, rows in flat.items()}
        lengths = torch.tensor([len(found[name][0]) for name in self.tables])
        keys = KeyedJaggedTensor(
            list(self.tables.values()), torch.cat([found[n][0] for n in self.tables]), lengths=lengths
        )
        pulled = self.collection(keys)
        for name, split in self.splits.items():
            values = pulled[self.tables[name]].values()[:, : split.weight.shape[1]]
            rows = values[found[name][1]] * (flat[name] != 0).unsqueeze(1)
            parts = rows.split([asked.numel() for asked in listed[name]] + [0])[: len(listed[name])]
            split.given = [part.view(*asked.shape, -1) for part, asked in zip(parts, listed[name], strict=True)]

    def _shards(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sharded weights of every table, and of its accumulators where the rule has any."""
        weights = self.collection.state_dict()
        kept = self.collection.fused_optimizer.state_dict()["state"]
        at = {name: f"embeddings.{split}.weight" for name, split in self.tables.items()}
        sums = {n: kept[at[n]][f"{split}.{SUM}"] for n, split in self.tables.items() if at[n] in kept and kept[at[n]]}
        return {name: weights[key] for name, key in at.items()}, sums


EMPTY = torch.zeros(0, dtype=torch.long)


def check(rules: Rules) -> None:
    """Raises ConfigError where TorchRec is not installed, or lacks what the rules say."""
    where = "training.sharded"
    try:
        import torchrec  # noqa: F401
    except ImportError as error:
        what = f"{error.name} is not installed: TorchRec lives in an environment of its own"
        raise ConfigError(what, where=where, hint="`make test-sharded` builds one, docs/decisions/scale.md") from None
    if rules.optimizer == "adam":
        hint = 'write optimizer = "adagrad" or "sgd"'
        raise ConfigError("TorchRec has no lazy adam on the CPU", where=where, hint=hint)
    for name in ("clip", "l2_embedding"):
        if getattr(rules, name):
            what = f"split tables are updated before {name} is known"
            raise ConfigError(what, where=where, hint=f"take {name} away")


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _wide(width: int) -> int:
    """The width a table of TorchRec has: a multiple of four."""
    return -(-width // 4) * 4


def _whole(shards: Any, shape: tuple[int, ...], rank: int) -> Tensor | None:
    """All of a sharded tensor on the process that leads, part by part; all take part."""
    own = {shard.metadata.shard_offsets[0]: shard.tensor.detach() for shard in shards.local_shards()}
    out = torch.empty(shape) if rank == 0 else None
    for part in shards.metadata().shards_metadata:
        start, rows, owner = part.shard_offsets[0], part.shard_sizes[0], part.placement.rank()
        if out is None:
            if owner == rank:
                dist.send(own[start].contiguous(), 0)
        elif owner == 0:
            out[start : start + rows] = own[start]
        else:
            given = torch.empty(rows, *shape[1:])
            dist.recv(given, owner)
            out[start : start + rows] = given
    return out


def _take(shards: Any, whole: Tensor) -> None:
    """Take over this process's part."""
    with torch.no_grad():
        for shard in shards.local_shards():
            start, rows = shard.metadata.shard_offsets[0], shard.metadata.shard_sizes[0]
            shard.tensor.copy_(whole[start : start + rows])
