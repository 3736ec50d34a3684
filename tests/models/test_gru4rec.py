"""GRU4Rec, against its definition."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from shortlist.batch import Columns, Layout, Side
from shortlist.models.recall.gru4rec import GRU4Rec

ITEMS = 12  # ids 2..13
LAYOUT = Layout(
    Side(groups={"history": {"item": "item", "action": "action"}}),
    Side(sparse={"item.id": "item", "item.category": "category"}),
    {"item": ITEMS + 2, "action": 4, "category": 5},
)
CATALOGUE = Columns.of(ITEMS, {"item.id": np.arange(2, ITEMS + 2), "item.category": np.full(ITEMS, 2)})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(seed: int = 0, **options: int | float | bool) -> GRU4Rec:
    torch.manual_seed(seed)
    return GRU4Rec(GRU4Rec.Config(**{"dim": 4, **options}), LAYOUT).eval()  # type: ignore[arg-type]


def request(histories: Sequence[Sequence[int]], width: int | None = None, behind: int = 0) -> Columns:
    """Histories right padded with `behind`."""
    width = max(map(len, histories)) if width is None else width
    item = np.full((len(histories), width), behind, dtype=np.int64)
    for n, history in enumerate(histories):
        item[n, : len(history)] = history
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    return Columns.of(len(histories), groups={"history": (lengths, {"item": item, "action": np.full_like(item, 2)})})


def by_hand(model: GRU4Rec, history: Sequence[int]) -> Tensor:
    """h_t = (1 - z) n + z h, r and z the gates, n = tanh(W_n x + b + r * (U_n h + c)) (Cho et al., 2014)."""
    weights = dict(model.gru.named_parameters())
    h = torch.zeros(model.gru.hidden_size)
    for item in history:
        wr, wz, wn = (weights["weight_ih_l0"] @ model.embed.table.weight[item] + weights["bias_ih_l0"]).chunk(3)
        ur, uz, un = (weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]).chunk(3)
        r, z = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz)
        h = (1 - z) * torch.tanh(wn + r * un) + z * h
    return h


@torch.no_grad()
def test_queries_are_the_recurrence_written_out() -> None:
    """Oracles 1, 3 and 4: one step starts from zero, and no step is zero."""
    model = made()
    histories = [[5, 3, 3, 13], [7], [], [2, 9]]
    for columns in (request(histories), request(histories, 9), request(histories, 9, behind=6)):
        query = model.query(columns)
        for n, history in enumerate(histories):
            torch.testing.assert_close(query[n], by_hand(model, history), atol=1e-6, rtol=0)
    assert not query[2].any()


@torch.no_grad()
def test_left_padded_input_gives_the_same_vectors() -> None:
    """Oracle 2: the same events, padded in front and shifted to their place, as the right padded ones."""
    model = made()
    histories = [[5, 3, 8], [7, 2], [4]]
    left = np.zeros((3, 5), dtype=np.int64)
    for n, history in enumerate(histories):
        left[n, 5 - len(history) :] = history
    shifted = [row[row > 0].tolist() for row in left]
    torch.testing.assert_close(model.query(request(shifted, 5)), model.query(request(histories)), atol=1e-6, rtol=0)
    alone = torch.cat([model.query(request([history])) for history in histories])
    torch.testing.assert_close(alone, model.query(request(histories, 5)), atol=1e-6, rtol=0)


def test_all_steps_loss_is_the_sum_of_prefix_losses() -> None:
    """Oracle 6: what is learned at a step does not know what comes after it."""
    model = made()
    history = [5, 3, 8, 2, 11]
    table = model.candidate(CATALOGUE)
    states = model.states(request([history[:-1]]))[0]
    wanted = torch.tensor(history[1:]) - 2
    together = cross_entropy(states @ table.T, wanted, reduction="sum")
    apart = sum(
        cross_entropy(model.query(request([history[:n]])) @ table.T, wanted[n - 1 : n]) for n in range(1, len(history))
    )
    torch.testing.assert_close(together, apart)
    changed = model.states(request([[5, 3, 13, 13]]))[0]
    assert torch.equal(changed[:2], states[:2])
    assert not torch.allclose(changed[2], states[2])


@pytest.mark.parametrize("shared", [True, False])
def test_padding_stays_zero_and_is_no_class(shared: bool) -> None:
    """Oracle 5: a checkerboard: even items follow odd ones by one step, and are found; rows 0 stay zero."""
    model = made(shared=shared, dim=8).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    columns, wanted = request([[n] for n in range(2, 13)], 3), torch.arange(1, 12)  # n is followed by n + 1
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model.query(columns) @ model.candidate(CATALOGUE).T, wanted).backward()
        optimizer.step()
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    assert len(tables) == (1 if shared else 2)
    assert not any(table.weight[0].any() for table in tables)
    model.eval()
    scores = model.query(columns) @ model.candidate(CATALOGUE).T
    assert scores.shape == (11, ITEMS)
    assert scores.argmax(dim=1).tolist() == wanted.tolist()


def test_layers_and_dropout() -> None:
    deep = made(layers=2, dropout=0.5)
    columns = request([[5, 3, 8]])
    assert torch.equal(deep.query(columns), deep.query(columns))
    deep.train()
    torch.manual_seed(1)
    assert not torch.equal(deep.query(columns), deep.query(columns))


def test_only_the_items_vocabulary_has_rows() -> None:
    # 14 rows (padding, unknown, 12 items), and the GRU's 3 * 4 * (4 + 4) weights and 2 * 3 * 4 biases
    assert sum(parameter.numel() for parameter in made().parameters()) == 14 * 4 + 96 + 24
