"""The oracles of card I5 on the in-process reference, and what its words do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shortlist.errors import ArtifactError
from shortlist.training.optimizers import Rules, build
from shortlist.training.parameter_server import ParameterServer, learn

DIM = 3
RULES = ("sgd", "adagrad", "adam", "ftrl")


def server(workers: int = 1, **words: Any) -> ParameterServer:
    return ParameterServer(ParameterServer.Config(**{"dim": DIM, "lr": 0.1, **words}), workers)


def batches(n: int = 12, size: int = 16, ids: int = 40, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Pairs of ids, some of them often, and a label."""
    dice = np.random.default_rng(seed)
    pairs = np.minimum(dice.zipf(1.3, (n, size, 2)), ids - 1)
    return [(torch.from_numpy(p), torch.from_numpy(dice.random(size, dtype=np.float32).round())) for p in pairs]


def loss_of(y: Tensor) -> Any:
    """Log loss of the product of a pair."""
    return lambda x_BPD: nn.functional.binary_cross_entropy_with_logits((x_BPD[:, 0] * x_BPD[:, 1]).sum(dim=1) * 9, y)


def run(made: ParameterServer, data: list[tuple[Tensor, Tensor]]) -> ParameterServer:
    for ids, y in data:
        learn(made, 0, ids, loss_of(y))
    return made


def equal(one: ParameterServer, other: ParameterServer) -> bool:
    (ids, rows), (ids_2, rows_2) = one.rows(), other.rows()
    return ids.tolist() == ids_2.tolist() and torch.equal(rows, rows_2)


# ---------------------------------------------------------------------------------------------- the card


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
def test_1_one_server_and_one_worker_are_local_training_bit_for_bit(rule: str) -> None:
    data, made = batches(), server(rule=rule, std=0.5)
    table = nn.Embedding(40, DIM, sparse=True)
    with torch.no_grad():
        table.weight.copy_(made.pull(0, np.arange(40)))
    local = build(table, Rules(optimizer=rule, lr=0.1))  # type: ignore[arg-type]
    for ids, y in data:
        far = learn(made, 0, ids, loss_of(y))
        local.zero_grad()
        near = loss_of(y)(table(ids))
        near.backward()
        local.step()
        assert far == near.item()
    assert torch.equal(made.pull(0, np.arange(40)), table.weight)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("servers", [2, 5])
def test_2_many_servers_are_one(servers: int, rule: str) -> None:
    words: dict[str, Any] = {"rule": rule, "admit": 2, "expire": 4, "l1": 0.001}
    one, many = server(**words), server(servers=servers, **words)
    for part in range(0, 12, 4):
        run(one, batches()[part : part + 4])
        run(many, batches()[part : part + 4])
        assert one.sweep() == many.sweep()
    assert equal(one, many)
    assert sum(len(shard.ids) > 0 for shard in many.shards) > 1


@pytest.mark.parametrize("rule", RULES)
def test_3_gradients_of_an_id_are_summed(rule: str) -> None:
    one, many = server(rule=rule), server(rule=rule)
    grads = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    one.push(0, np.array([7, 2, 7]), grads)
    many.push(0, np.array([2, 7]), torch.tensor([[4.0, 5, 6], [8, 10, 12]]))
    assert equal(one, many)
    if rule == "sgd":  # first values less 0.1 times (8, 10, 12)
        assert torch.allclose(one.pull(0, np.array([7])), server().pull(0, np.array([7])) - torch.tensor([0.8, 1, 1.2]))


@pytest.mark.parametrize("servers", [1, 3])
def test_4_two_workers_in_step_are_one_with_a_batch_of_double_size(servers: int) -> None:
    two, one = server(2, servers=servers, rule="sgd", std=0.5), server(rule="sgd", std=0.5)
    for ids, y in batches():
        for worker in (0, 1):  # eight rows each: the mean of their mean losses is the mean of all sixteen
            half = slice(worker * 8, worker * 8 + 8)
            learn(two, worker, ids[half], loss_of(y[half]))
        learn(one, 0, ids, loss_of(y))
    assert two.clock == one.clock == 12
    (ids_2, rows_2), (ids_1, rows_1) = two.rows(), one.rows()
    assert ids_2.tolist() == ids_1.tolist()
    assert torch.allclose(rows_2, rows_1, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_5_saved_and_loaded_it_goes_on_as_if_nothing_had_been(rule: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {"rule": rule, "servers": 3, "admit": 2, "expire": 3}
    unbroken, first = run(server(**words), batches()), run(server(**words), batches()[:5])
    first.save(tmp_path)
    later = server(**words)
    later.load(tmp_path)
    run(later, batches()[5:])
    assert equal(later, unbroken)
    assert later.sweep() == unbroken.sweep()
    assert equal(later, unbroken)


@pytest.mark.parametrize("rule", RULES)
def test_6_rows_that_were_not_pushed_stay_as_they_were(rule: str) -> None:
    made = run(server(rule=rule, servers=2), batches())
    ids, before = made.rows()
    state = {n: t.clone() for n, t in made.shards[0].state.items() if t.ndim}
    made.push(0, np.array([99]), torch.ones(1, DIM))
    assert torch.equal(made.pull(0, ids), before)
    mine = np.isin(made.shards[0].ids, ids)
    for name, tensor in state.items():  # moments do not decay either
        assert torch.equal(made.shards[0].state[name][torch.from_numpy(mine)], tensor)


@settings(deadline=None, max_examples=60)
@given(workers=st.integers(1, 5), bound=st.integers(0, 4), order=st.lists(st.integers(0, 4), max_size=80))
def test_7_no_worker_reads_what_is_staler_than_the_bound(workers: int, bound: int, order: list[int]) -> None:
    """Workers come in any order; one that waits comes again later. A pull of a worker that has done c steps knows the
    steps up to c - bound of every other."""
    made = server(workers, mode="bounded", bound=bound, rule="sgd", lr=1.0, std=0.0)
    done = [0] * workers
    for turn in order:
        worker = turn % workers
        if not made.ready(worker):
            with pytest.raises(ValueError, match="it waits"):
                made.pull(worker, np.array([0]))
            continue
        # each step of a worker takes 1 from a row of its own: what is read counts the steps it knows of
        known = (-made.pull(worker, np.arange(workers))[:, 0]).tolist()
        assert known == done  # all that was pushed
        assert all(done[worker] - count <= bound for count in known)
        made.push(worker, np.array([worker]), torch.ones(1, DIM))
        done[worker] += 1
    assert max(done) - min(done) <= bound + 1


# ---------------------------------------------------------------------------------------------- what its words do


def test_in_step_nobody_goes_on_before_all_have_pushed() -> None:
    made = server(2, rule="sgd", lr=1.0, std=0.0)
    made.push(0, np.array([5]), torch.full((1, DIM), 2.0))
    assert made.pull(1, np.array([5])).tolist() == [[0.0] * DIM]  # not yet applied
    assert not made.ready(0)
    with pytest.raises(ValueError, match=r"^worker 0 is 1 steps ahead of the slowest: it waits$"):
        made.push(0, np.array([5]), torch.ones(1, DIM))
    made.push(1, np.array([6]), torch.full((1, DIM), 4.0))
    # the mean over two workers: 2 / 2 and 4 / 2
    assert made.pull(0, np.array([5, 6]))[:, 0].tolist() == [-1.0, -2.0]


def test_without_step_each_push_counts_at_once() -> None:
    made = server(2, mode="async", rule="sgd", lr=1.0, std=0.0)
    for _ in range(3):
        made.push(0, np.array([5]), torch.ones(1, DIM))
    assert made.pull(1, np.array([5]))[0].tolist() == [-3.0] * DIM


def test_a_pull_makes_no_row_and_a_first_value_depends_on_the_id_alone() -> None:
    made, other = server(std=1.0), server(std=1.0, servers=4)
    rows = made.pull(0, np.arange(5000))
    assert len(made.rows()[0]) == 0
    assert torch.equal(other.pull(0, np.arange(5000)[::-1].copy()).flip(0), rows)
    # normal of mean 0 and deviation 1: the mean of 15,000 such has a deviation of 0.008
    assert abs(rows.mean()) < 0.04
    assert abs(rows.std() - 1) < 0.04
    assert not torch.equal(server(std=1.0, seed=1).pull(0, np.arange(5)), rows[:5])


def test_a_row_is_made_when_its_id_was_met_often_enough() -> None:
    made = server(admit=3, rule="sgd", lr=1.0, std=0.5)
    one, id_ = torch.ones(1, DIM), np.array([5])
    made.push(0, id_, one)
    made.push(0, np.array([5, 6]), torch.ones(2, DIM))
    assert len(made.rows()[0]) == 0
    assert not made.pull(0, id_).any()
    made.push(0, id_, one)  # the third time
    first = made.pull(0, id_)
    assert made.rows()[0].tolist() == [5]
    assert torch.equal(first, server(std=0.5).pull(0, id_))  # as it would have been without admission
    made.push(0, id_, one)
    assert torch.equal(made.pull(0, id_), first - 1)
    made.push(0, np.array([6]), one, np.array([2]))  # met twice in this batch: three times in all
    assert made.rows()[0].tolist() == [5, 6]


def test_rows_nobody_pushes_go_and_come_back_new() -> None:
    made = server(expire=2, rule="adagrad")
    for ids in ([1, 2], [1], [1]):
        made.push(0, np.array(ids), torch.ones(len(ids), DIM))
    assert made.sweep() == 0  # the last push of 2 is two steps ago
    made.push(0, np.array([1]), torch.ones(1, DIM))
    assert made.sweep() == 1
    assert made.rows()[0].tolist() == [1]
    assert torch.equal(made.pull(0, np.array([2])), server().pull(0, np.array([2])))
    made.push(0, np.array([2]), torch.ones(1, DIM))
    # its accumulator began anew: G = 1, and a step of lr
    assert torch.allclose(made.pull(0, np.array([2])), server().pull(0, np.array([2])) - 0.1)
    assert server().sweep() == 0


def test_ftrl_by_hand() -> None:
    """lr 0.5, beta 1, l1 0.5, l2 0: g = 2 gives n = 4, z = 2 and w = -(2 - 0.5) / ((1 + 2) / 0.5) = -0.25; then g = 1
    gives n = 5, z = 2 + 1 + 0.25 (sqrt 5 - 2) / 0.5 and w = -(z - 0.5) / ((1 + sqrt 5) / 0.5)."""
    made = ParameterServer(ParameterServer.Config(dim=1, rule="ftrl", lr=0.5, l1=0.5))
    made.push(0, np.array([3]), torch.tensor([[2.0]]))
    assert made.pull(0, np.array([3])).item() == pytest.approx(-0.25)
    made.push(0, np.array([3]), torch.tensor([[1.0]]))
    z = 3 + 0.25 * (5**0.5 - 2) / 0.5
    assert made.pull(0, np.array([3])).item() == pytest.approx(-(z - 0.5) / ((1 + 5**0.5) / 0.5))
    made.push(0, np.array([4]), torch.tensor([[0.4]]))
    assert made.pull(0, np.array([4])).item() == 0  # less than l1: it stays out


def test_what_cannot_be_saved_or_loaded(tmp_path: Path) -> None:
    made = server(2)
    made.push(0, np.array([1]), torch.ones(1, DIM))
    with pytest.raises(ValueError, match=r"^1 of 2 workers have pushed: save between two steps$"):
        made.save(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        made.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no servers were saved here (name the folder they were saved to)"
    server().save(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        server(rule="adam").load(tmp_path)
    assert caught.value.what == (
        "the checkpoint was made with another configuration: rule was 'adagrad', now 'adam'"
    )  # fmt: skip
