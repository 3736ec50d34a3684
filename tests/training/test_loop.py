"""The loop: records, early stopping, exact resume, and what it refuses."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.world import Listed, Logits, Two, labelled, pairs, row_columns
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.training.checkpoints import fingerprint
from shortlist.training.curves import draw, ended, read
from shortlist.training.loop import LOG, Loop, Step, train
from shortlist.training.objectives.bce import Bce
from shortlist.training.objectives.softmax import Softmax

ROOT = Path(__file__).parents[2]


def batches(n: int = 5, rows: int = 8) -> list[Batch]:
    """The label is whether a + b > 0: a line learns it."""
    dice = torch.Generator().manual_seed(7)
    xs = [torch.randn(rows, 2, generator=dice) for _ in range(n)]
    return [labelled(x, (x.sum(dim=1, keepdim=True) > 0).float()) for x in xs]


def logits(dropout: float = 0.2) -> Logits:
    torch.manual_seed(1)
    return Logits(("click",), dropout=dropout)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(value, two[name]) for name, value in one.items())


def run(model: nn.Module, config: Loop.Config, **more: Any) -> list[Step]:
    return list(train(model, Bce(Bce.Config()), Listed(batches()), config, **more))


class Ticks:
    """A clock that moves half a second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


# ---------------------------------------------------------------------------------------------- records


def test_a_record_per_step_with_speed_and_time_left() -> None:
    records = run(logits(), Loop.Config(epochs=2, lr=0.05), clock=Ticks())
    assert [(r.epoch, r.step) for r in records] == [(1 + n // 5, n + 1) for n in range(10)]
    # 8 rows in the half second between two looks at the clock; 9 steps to go after the first
    assert (records[0].rows_per_second, records[0].seconds_left) == (16.0, 4.5)
    assert records[-1].seconds_left == 0
    assert records[0].parts == pytest.approx({"click": records[0].loss})
    assert np.mean([r.loss for r in records[5:]]) < np.mean([r.loss for r in records[:5]])


def test_without_a_length_time_left_is_known_after_an_epoch() -> None:
    class Endless:
        def __init__(self) -> None:
            self.inner = Listed(batches(3))

        def __iter__(self) -> Iterator[Batch]:
            return iter(self.inner)

        def state(self) -> dict[str, Any]:
            return self.inner.state()

        def load(self, state: Mapping[str, Any]) -> None:
            self.inner.load(state)

    records = list(train(logits(), Bce(Bce.Config()), Endless(), Loop.Config(epochs=2), clock=Ticks()))
    assert [r.seconds_left for r in records] == [None, None, None, 1.0, 0.5, 0.0]


def test_it_learns_what_is_to_be_learned() -> None:
    model = logits(dropout=0.0)
    run(model, Loop.Config(epochs=60, optimizer="adam", lr=0.05))
    data = batches()[0]
    assert data.labels is not None
    assert (((model(data)["click"] > 0).float() - data.labels[:, 0]) == 0).all()
    assert not model.training


def test_same_seed_same_weights_whatever_others_do_with_the_dice() -> None:
    first, second, third = logits(), logits(), logits()
    run(first, Loop.Config(epochs=2))
    for _ in train(second, Bce(Bce.Config()), Listed(batches()), Loop.Config(epochs=2)):
        torch.rand(3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    run(third, Loop.Config(epochs=2, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


# ---------------------------------------------------------------------------------------------- validation


def test_the_best_weights_are_kept_and_patience_ends_a_run() -> None:
    kept: list[dict[str, Tensor]] = []
    values = iter([0.1, 0.5, 0.5, 0.3, 0.9])

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        kept.append(weights(model))
        return {"hit": next(values)}

    model = logits()
    records = run(model, Loop.Config(epochs=9, lr=0.1, patience=2), validate=validate)
    found = [r for r in records if r.metrics]
    # better, better, as good (which is not better), worse: two without a better one
    assert [(r.step, r.metrics["hit"], r.best) for r in found] == [
        (5, 0.1, True), (10, 0.5, True), (15, 0.5, False), (20, 0.3, False),
    ]  # fmt: skip
    assert records[-1].step == 20
    assert same(weights(model), kept[1])
    steps = [r.loss for r in records if not r.metrics]
    assert found[1].loss == pytest.approx(np.mean(steps[5:10]))


def test_lower_can_be_better_and_the_last_weights_are_validated_too() -> None:
    values = iter([3.0, 1.0, 2.0, 0.5])

    def validate(model: nn.Module) -> dict[str, float]:
        return {"other": 0.0, "error": next(values)}

    config = Loop.Config(epochs=2, validate_every=3, metric="error", direction="min")
    found = [r for r in run(logits(), config, validate=validate) if r.metrics]
    assert [(r.step, r.best) for r in found] == [(3, True), (6, True), (9, False), (10, True)]


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"hit": 0.1}, ConfigError, "training.metric: validation gives no metric 'hits' (did you mean hit?)"),
        (
            {"hits": float("nan")},
            DataError,
            "validation after step 5: the metric hits is nan (look at what it is measured on)",
        ),
    ],
)
def test_a_metric_that_is_not_there_or_no_number(
    metrics: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as found:
        run(logits(), Loop.Config(metric="hits"), validate=lambda model: metrics)
    assert str(found.value) == message


# ---------------------------------------------------------------------------------------------- what is refused


def spoiled(column: str, value: float) -> list[Batch]:
    """The third batch of an epoch (in the order of the first one) has a value that is no number."""
    many = batches()
    place = int(np.random.default_rng(0).permutation(5)[2])
    row = many[place].row
    dense = row.dense.clone()
    dense[4, row.dense_names.index(column)] = value
    many[place] = replace(many[place], row=replace(row, dense=dense))
    return many


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_column_with_no_number_in_it_stops_the_run_before_the_step(value: float) -> None:
    model = logits(dropout=0.0)
    with torch.no_grad():
        model.bottom.weight.fill_(0.5)
    steps = train(model, Bare(), Listed(spoiled("item.b", value)), Loop.Config())
    assert [next(steps).step, next(steps).step] == [1, 2]
    before = weights(model)
    with pytest.raises(DataError) as error:
        next(steps)
    hint = "the column has values that are no numbers: correct them, or leave it out"
    assert str(error.value) == f"batch 3, column item.b: the loss is {value} ({hint})"
    assert same(before, weights(model))


class Bare(nn.Module):
    """Mean of the bottom layer: what is not finite stays so."""

    def forward(self, model: Logits, batch: Batch) -> Any:
        from shortlist.training.loss import Loss

        return Loss(model.bottom(batch.row.dense).mean())


def test_a_loss_or_a_gradient_that_is_no_number_without_a_column_to_blame() -> None:
    from shortlist.training.loss import Loss

    def loss(model: Logits, batch: Batch) -> Loss:
        return Loss(model.bottom.weight.sum() * float("inf"))

    def slope(model: Logits, batch: Batch) -> Loss:
        zero = model.bottom.weight * 0
        return Loss(zero.abs().pow(0.5).sum())  # the slope of a root at 0

    hint = "(the columns are finite: lower lr, or set clip)"
    for objective, what in ((loss, "the loss is "), (slope, "the gradient of bottom.weight is not finite ")):
        with pytest.raises(DataError) as error:
            list(train(logits(), objective, Listed(batches()), Loop.Config()))
        assert str(error.value).startswith(f"batch 1: {what}")
        assert str(error.value).endswith(hint)


def test_a_label_out_of_range_names_the_batch() -> None:
    many = batches()
    place = int(np.random.default_rng(0).permutation(5)[1])
    labels = many[place].labels
    assert labels is not None
    labels[0, 0] = 5.0
    with pytest.raises(DataError) as error:
        list(train(logits(), Bce(Bce.Config()), Listed(many), Loop.Config()))
    hint = "(correct the task's definition, or mask the row)"
    assert str(error.value) == f"batch 2, task click: the label 5 is outside 0..1 {hint}"


def test_tasks_that_cannot_be_learned_are_said_once_and_stop_nothing() -> None:
    many = []
    for batch in batches():
        assert batch.labels is not None
        labels = torch.cat([batch.labels, torch.zeros(8, 2)], dim=1)
        valid = torch.tensor([[True, True, False]]).expand(8, 3)
        many.append(replace(batch, tasks=("click", "like", "share"), labels=labels, valid=valid))
    torch.manual_seed(0)
    model = Logits(("click", "like", "share"))
    records = list(train(model, Bce(Bce.Config()), Listed(many), Loop.Config(epochs=2)))
    assert [(r.step, r.notes) for r in records if r.notes] == [
        (5, ("task like: all 40 labels are 0", "task share: no row carries a label"))
    ]


def test_no_batch_is_an_error() -> None:
    with pytest.raises(DataError) as error:
        list(train(logits(), Bce(Bce.Config()), Listed([]), Loop.Config()))
    assert str(error.value) == "training: there is no batch to learn from (give it rows)"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Loop.Config(device="meta", precision="bf16"), "training.precision: torch has no bf16 on meta "),
        (Loop.Config(device="gpu"), "training.device: no device 'gpu' here: "),
    ],
)
def test_a_device_that_is_not_there(config: Loop.Config, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(logits(), config)
    assert str(error.value).startswith(message)


# ---------------------------------------------------------------------------------------------- resume


def retriever() -> tuple[Two, Softmax, Listed]:
    """Sparse tables, draws of the objective and a learned temperature: all that a checkpoint must hold."""
    dice = np.random.default_rng(0)
    many = [pairs(dice.integers(0, 20, 8).tolist(), dice.integers(2, 32, 8).tolist()) for _ in range(5)]
    config = Softmax.Config(negatives="mixed", n=6, learn_temperature=True, temperature=0.5)
    from shortlist.training.frequency import Streaming

    objective = Softmax(config, "cos", frequency=Streaming(bits=8), catalogue=row_columns, counts=np.ones(30))
    return Two(20, 32, sparse=True), objective, Listed(many)


def rising(model: nn.Module) -> dict[str, float]:
    """Best in the middle of a run."""
    return {"hit": -abs(float(model.item.weight[2:].norm().item()) - 16.0)}  # type: ignore[union-attr, index]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
@pytest.mark.parametrize("stop", [1, 3, 5, 6, 8, 14])
def test_a_run_that_was_left_goes_on_bit_for_bit(stop: int, optimizer: str, tmp_path: Path) -> None:
    config = Loop.Config(epochs=3, lr=0.05, optimizer=optimizer, validate_every=4, clip=1.0)  # type: ignore[arg-type]
    model, objective, many = retriever()
    unbroken = list(train(model, objective, many, config, validate=rising))
    first, objective_1, many_1 = retriever()
    left: list[Step] = []
    for record in train(first, objective_1, many_1, config, validate=rising, folder=tmp_path):
        left.append(record)
        if len(left) == stop:
            break
    second, objective_2, many_2 = retriever()
    rest = list(train(second, objective_2, many_2, config, validate=rising, folder=tmp_path))

    def facts(records: list[Step]) -> list[tuple[object, ...]]:
        return [(r.epoch, r.step, r.loss, dict(r.parts), dict(r.metrics), r.best) for r in records]

    assert facts(left) + facts(rest) == facts(unbroken)
    assert same(weights(second), weights(model))
    assert same(weights(objective_2), weights(objective))
    log = read(tmp_path / LOG)
    assert [r["step"] for r in log] == [r.step for r in unbroken]
    # done: nothing more happens, and the weights are there
    third, objective_3, many_3 = retriever()
    assert list(train(third, objective_3, many_3, config, validate=rising, folder=tmp_path)) == []
    assert same(weights(third), weights(model))


def test_the_best_before_a_stop_is_the_best_after_it(tmp_path: Path) -> None:
    config, model, rest = Loop.Config(epochs=4, lr=0.1, patience=2), logits(), logits()
    for record in train(model, Bce(Bce.Config()), Listed(batches()), config, validate=high, folder=tmp_path):
        if record.metrics:
            break
    best = weights(model)
    records = run(rest, config, validate=lambda model: {"hit": 0.1}, folder=tmp_path)
    assert [(r.step, r.best) for r in records if r.metrics] == [(10, False), (15, False)]
    assert same(weights(rest), best)


def high(model: nn.Module) -> dict[str, float]:
    return {"hit": 0.9}


SCRIPT = """
import sys
import torch
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.bce import Bce
from tests.training.test_loop import batches, logits
from tests.training.world import Listed

torch.set_num_threads(1)
config = Loop.Config(epochs=4, lr=0.05, checkpoint_every=3)
for record in train(logits(), Bce(Bce.Config()), Listed(batches()), config, folder=sys.argv[1]):
    print(record.step, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(("how", "at"), [(signal.SIGKILL, 11), (signal.SIGINT, 7)])
def test_a_run_that_was_killed_goes_on_bit_for_bit(how: signal.Signals, at: int, tmp_path: Path) -> None:
    config = Loop.Config(epochs=4, lr=0.05, checkpoint_every=3)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == at:
            process.send_signal(how)
            break
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait(300) != 0
    process.stdin.close()
    process.stdout.close()
    whole, rest = logits(), logits()
    unbroken = run(whole, config)
    records = run(rest, config, folder=tmp_path)
    # killed after 11: the checkpoint is that of step 9; interrupted after 7: that of step 7
    assert records[0].step == (10 if how == signal.SIGKILL else 8)
    assert [r.loss for r in records] == [r.loss for r in unbroken][records[0].step - 1 :]
    assert same(weights(whole), weights(rest))
    assert [r["step"] for r in read(tmp_path / LOG)] == list(range(1, 21))


def test_an_interrupt_waits_for_the_end_of_the_step(tmp_path: Path) -> None:
    """SIGINT comes while the third step is computed: the third step is in the checkpoint."""
    seen = 0

    def objective(model: nn.Module, batch: Batch) -> Any:
        nonlocal seen
        seen += 1
        if seen == 3:
            signal.raise_signal(signal.SIGINT)
        return Bce(Bce.Config())(model, batch)

    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(train(logits(), objective, Listed(batches()), Loop.Config(epochs=2), folder=tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
    whole, rest = logits(), logits()
    run(whole, Loop.Config(epochs=2))
    assert run(rest, Loop.Config(epochs=2), folder=tmp_path)[0].step == 4
    assert same(weights(whole), weights(rest))


def test_an_interrupt_while_validating_validates_again(tmp_path: Path) -> None:
    def stop(model: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(logits(), Loop.Config(epochs=2), validate=stop, folder=tmp_path)
    records = run(logits(), Loop.Config(epochs=2), validate=lambda model: {"hit": 1.0}, folder=tmp_path)
    assert [(r.step, bool(r.metrics)) for r in records][:2] == [(5, True), (6, False)]


def test_a_thread_that_is_not_the_main_one_trains_too() -> None:
    found: list[Step] = []
    thread = threading.Thread(target=lambda: found.extend(run(logits(), Loop.Config(epochs=1))))
    thread.start()
    thread.join()
    assert len(found) == 5


def started(folder: Path, **more: Any) -> None:
    for _ in train(logits(), Bce(Bce.Config()), Listed(batches()), Loop.Config(), folder=folder, **more):
        break


def refused(folder: Path, model: nn.Module, config: Loop.Config, mark: str = "") -> str:
    with pytest.raises(ArtifactError) as error:
        list(train(model, Bce(Bce.Config()), Listed(batches()), config, folder=folder, fingerprint=mark))
    assert error.value.where.startswith(str(folder))
    assert f"remove {folder} to start anew" in error.value.hint
    return error.value.what


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    layouts = [Layout(Side(), Side(sparse={"item.id": "item"}), {"item": n}) for n in (5, 6)]
    marks = [fingerprint(layout, Softmax.Config()) for layout in layouts]
    started(tmp_path, fingerprint=marks[0])
    what = "the checkpoint was made with another configuration: lr was 0.001, now 0.01"
    assert refused(tmp_path, logits(), Loop.Config(lr=0.01), marks[0]) == what
    what = "the checkpoint was made for another schema or another model"
    assert refused(tmp_path, logits(), Loop.Config(), marks[1]) == what
    torch.manual_seed(0)
    what = "the checkpoint holds another model: model.bottom.weight was float32 [4, 2], now float32 [4, 3]"
    assert refused(tmp_path, Logits(("click",), width=3), Loop.Config(), marks[0]) == what
    run(logits(), Loop.Config(), folder=tmp_path, fingerprint=marks[0])  # it is still there


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    started(tmp_path)
    manifest, tensors = tmp_path / "checkpoint.json", next(tmp_path.glob("state-1-*.safetensors"))
    table, whole = json.loads(manifest.read_text()), tensors.read_bytes()
    tensors.write_bytes(whole[:-8] + bytes(255 - byte for byte in whole[-8:]))
    assert refused(tmp_path, logits(), Loop.Config()) == "damaged: its checksum differs"
    tensors.unlink()
    assert refused(tmp_path, logits(), Loop.Config()) == "missing, though the checkpoint names it"
    tensors.write_bytes(whole)
    for text in ("{", "[]", '{"format": 1}', json.dumps(table | {"run": {"nothing": 1}}), "\xff"):
        manifest.write_bytes(text.encode("latin-1"))
        assert refused(tmp_path, logits(), Loop.Config()) == "the checkpoint is damaged"
    manifest.write_text(json.dumps(table | {"format": 2}))
    assert refused(tmp_path, logits(), Loop.Config()) == "unknown format 2"
    manifest.write_text(json.dumps(table))
    assert run(logits(), Loop.Config(), folder=tmp_path)[0].step == 2


def test_one_state_and_one_best_are_left(tmp_path: Path) -> None:
    values = iter(range(100))
    run(logits(), Loop.Config(epochs=3, checkpoint_every=2), folder=tmp_path, validate=lambda m: {"hit": -next(values)})
    names = sorted(path.name.rpartition("-")[0] or path.name for path in tmp_path.iterdir())
    assert names == ["best-5", "checkpoint.json", LOG, "state-15"]


# ---------------------------------------------------------------------------------------------- curves


def test_the_log_becomes_a_picture(tmp_path: Path) -> None:
    values = iter([0.25, 0.5, 0.125])
    run(logits(), Loop.Config(epochs=3), folder=tmp_path, validate=lambda model: {"hit@10": next(values)})
    records = read(tmp_path / LOG)
    assert [r["metrics"] for r in records if "metrics" in r] == [{"hit@10": 0.25}, {"hit@10": 0.5}, {"hit@10": 0.125}]
    assert set(records[0]) == {"epoch", "step", "loss", "parts", "rows_per_second"}
    assert ended(tmp_path / LOG) == {"loss": records[-1]["loss"], "hit@10": 0.5}
    svg = draw(records)
    assert svg.startswith("<svg role=")
    for text in (">loss<", ">hit@10<", ">0.5<", ">step<"):
        assert text in svg
    with (tmp_path / LOG).open("a") as log:
        log.write('{"epoch": 4, "st')
    assert read(tmp_path / LOG) == records


def test_a_log_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path / LOG)
    assert str(error.value) == f"{tmp_path / LOG}: cannot be read: No such file or directory (name a run's log)"
    (tmp_path / LOG).write_text("no\n{}\n")
    with pytest.raises(DataError) as error:
        read(tmp_path / LOG)
    assert str(error.value) == f"{tmp_path / LOG}, line 1: not a record (name a run's log)"
    with pytest.raises(DataError) as error:
        draw([])
    assert str(error.value) == "log: no step was recorded (train first)"


def test_columns_of_vectors_and_of_histories_are_named_too() -> None:
    from shortlist.training.loop import _not_finite

    nothing = Columns(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0))
    assert _not_finite(nothing) is None
    vec = torch.zeros(2, 3)
    vec[1, 1] = float("nan")
    assert _not_finite(replace(nothing, vecs={"item.image": vec})) == "item.image"
