"""One run of a peer's ranker on the columns of `bench.rank_speed`, in the peer's own environment: prints one JSON line.

    PYTHON bench/rank_peer.py FOLDER PEER MODEL ROWS BATCH DIM THREADS SEED

FOLDER holds the columns as .npy files. PEER is `rechub` (torch-rechub's trainer), `rechub_bare` (its model in a bare
loop over tensors), `deepctr` (DeepCTR-Torch's fit) or `fuxictr` (FuxiCTR's layers and its train step over tensors);
MODEL is `deepfm` or `dcn_v2`. One epoch over ROWS rows with Adam at 1e-3; then AUC on the test columns, and rows a
second of inference. Nothing of this project is imported here.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

HIDDEN = [256, 128, 64]
CROSSES = 3


def auc(score: Any, y: Any) -> float:
    from scipy.stats import rankdata

    rank, hits = rankdata(score), y > 0.5
    n = int(hits.sum())
    return float((rank[hits].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))


class Given:
    """The columns of a part, by name, as numpy and as tensors."""

    def __init__(self, folder: Path, part: str, rows: int) -> None:
        sparse, dense = (np.load(folder / f"{part}_{kind}.npy")[:rows] for kind in ("sparse", "dense"))
        self.y = np.load(folder / f"{part}_labels.npy")[:rows]
        self.columns = {f"s{n}": np.ascontiguousarray(sparse[:, n]) for n in range(sparse.shape[1])}
        self.columns |= {f"d{n}": np.ascontiguousarray(dense[:, n]) for n in range(dense.shape[1])}
        self.tensors = {name: torch.from_numpy(column) for name, column in self.columns.items()}
        self.labels = torch.from_numpy(self.y)
        self.sparse, self.dense = sparse.shape[1], dense.shape[1]

    def batch(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.tensors.items()}

    def __len__(self) -> int:
        return len(self.y)


def rechub(model: str, sizes: list[int], given: Given, dim: int) -> Any:
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.ranking import DCNv2, DeepFM

    dense = [DenseFeature(f"d{n}") for n in range(given.dense)]
    sparse = [SparseFeature(f"s{n}", vocab_size=size, embed_dim=dim) for n, size in enumerate(sizes)]
    layers = {"dims": HIDDEN, "activation": "relu", "dropout": 0.0}
    if model == "deepfm":
        return DeepFM(dense + sparse, sparse, layers)
    return DCNv2(dense + sparse, CROSSES, layers, use_low_rank_mixture=False)


def rechub_trainer(model: Any, given: Given, batch: int) -> Callable[[], Any]:
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    trainer = CTRTrainer(model, optimizer_params={"lr": 1e-3})
    one = {name: column[:1] for name, column in given.columns.items()}
    loader, *_ = DataGenerator(given.columns, given.y).generate_dataloader(
        x_val=one, y_val=given.y[:1], x_test=one, y_test=given.y[:1], batch_size=batch
    )
    return lambda: trainer.train_one_epoch(loader)


def bare(model: Any, given: Given, batch: int) -> Callable[[], Any]:
    rule = torch.optim.Adam(model.parameters(), 1e-3)
    loss = torch.nn.BCELoss()

    def epoch() -> None:
        for index in torch.randperm(len(given)).split(batch):
            value = loss(model(given.batch(index)), given.labels[index])
            rule.zero_grad()
            value.backward()
            rule.step()
            value.item()

    return epoch


def deepctr(model: str, sizes: list[int], given: Given, dim: int) -> Any:
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DCN, DeepFM

    columns = [SparseFeat(f"s{n}", vocabulary_size=size, embedding_dim=dim) for n, size in enumerate(sizes)]
    columns += [DenseFeat(f"d{n}", 1) for n in range(given.dense)]
    none = {"l2_reg_linear": 0.0, "l2_reg_embedding": 0.0}
    if model == "deepfm":
        made = DeepFM(columns, columns, dnn_hidden_units=HIDDEN, **none)
    else:
        made = DCN(columns, columns, CROSSES, "matrix", HIDDEN, l2_reg_cross=0.0, **none)
    made.compile("adam", "binary_crossentropy")
    return made


def fuxictr(model: str, sizes: list[int], given: Given, dim: int) -> Any:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    words = FeatureMap("generated", ".")
    words.labels = ["label"]
    for n, size in enumerate(sizes):
        words.features[f"s{n}"] = {"source": "", "type": "categorical", "vocab_size": size}
    for n in range(given.dense):
        words.features[f"d{n}"] = {"source": "", "type": "numeric"}
    words.num_fields = words.get_num_fields()

    class Composed(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(words, verbose=0, model_root=".", metrics=["AUC"])
            self.embed = FeatureEmbedding(words, dim)
            wide = dim * words.num_fields
            if model == "deepfm":
                self.fm = FactorizationMachine(words)
                self.deep = MLP_Block(input_dim=wide, hidden_units=HIDDEN, output_dim=1)
            else:
                self.cross = CrossNetV2(wide, CROSSES)
                self.deep = MLP_Block(input_dim=wide, hidden_units=HIDDEN)
                self.last = torch.nn.Linear(wide + HIDDEN[-1], 1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self._max_gradient_norm = 10.0

        def forward(self, inputs: Any) -> Any:
            x = self.get_inputs(inputs)
            e = self.embed(x)
            if model == "deepfm":
                z = self.fm(x, e) + self.deep(e.flatten(start_dim=1))
            else:
                flat = e.flatten(start_dim=1)
                z = self.last(torch.cat([self.cross(flat), self.deep(flat)], dim=-1))
            return {"y_pred": self.output_activation(z)}

    return Composed()


def fuxictr_epoch(model: Any, given: Given, batch: int) -> Callable[[], Any]:
    def epoch() -> None:
        model.train()
        for index in torch.randperm(len(given)).split(batch):
            model.train_step(given.batch(index) | {"label": given.labels[index]}).item()

    return epoch


def main() -> None:
    folder, peer, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    rows, batch, dim, threads, seed = map(int, sys.argv[4:9])
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    given, test = Given(folder, "train", rows), Given(folder, "test", rows)
    sizes = [int(size) for size in np.load(folder / "sizes.npy")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if peer.startswith("rechub"):
            model = rechub(name, sizes, given, dim)
            epoch = (rechub_trainer if peer == "rechub" else bare)(model, given, batch)
            say = model
        elif peer == "deepctr":
            model = deepctr(name, sizes, given, dim)
            epoch = lambda: model.fit(given.columns, given.y, batch_size=batch, epochs=1, verbose=0)  # noqa: E731
            say = None
        else:
            model = fuxictr(name, sizes, given, dim)
            epoch = fuxictr_epoch(model, given, batch)
            say = lambda asked: model(asked)["y_pred"]  # noqa: E731
        start, busy = time.perf_counter(), time.process_time()
        epoch()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        model.eval()
        start, worked = time.perf_counter(), time.process_time()
        if say is None:
            p = model.predict(test.columns, batch).ravel()
        else:
            with torch.no_grad():
                blocks = torch.arange(len(test)).split(batch)
                p = torch.cat([say(test.batch(index)).ravel() for index in blocks]).numpy()
        inference, worked = time.perf_counter() - start, time.process_time() - worked
    speed = {"rows/s": rows / seconds, "rows/cpu s": rows / busy}
    speed |= {"inference rows/s": len(test) / inference, "inference rows/cpu s": len(test) / worked}
    print(json.dumps({"auc": auc(p, test.y), **speed}))


if __name__ == "__main__":
    main()
