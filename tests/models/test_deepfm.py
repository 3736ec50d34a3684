"""DeepFM and the identities of its factorization machine."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.examples import BARE, FULL, batch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.models.blocks.fm import pairs
from shortlist.models.rank.deepfm import DeepFM

SMALL = DeepFM.Config(dim=4, hidden=(8,))
VALUES = st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=1, max_size=6)


def made(layout: Layout = FULL, config: DeepFM.Config = SMALL, std: float = 0.5) -> DeepFM:
    """With parameters large enough for differences to show."""
    torch.manual_seed(0)
    model = DeepFM(config, layout)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=std)
        table(model)[0] = 0
    return model.eval()


def without_mlp(model: DeepFM) -> DeepFM:
    nn.init.zeros_(model.get_parameter("heads.linear.weight"))
    nn.init.zeros_(model.get_parameter("heads.linear.bias"))
    return model


def table(model: DeepFM) -> nn.Parameter:
    return model.get_parameter("embed.table.weight")


def by_pairs(x_BMD: Tensor) -> Tensor:
    m = x_BMD.shape[1]
    total = torch.zeros(len(x_BMD), dtype=x_BMD.dtype)
    for i in range(m):
        for j in range(i + 1, m):
            total = total + (x_BMD[:, i] * x_BMD[:, j]).sum(dim=1)
    return total


def test_pairs_by_hand() -> None:
    # <(1,2),(3,4)> + <(1,2),(5,6)> + <(3,4),(5,6)> = 11 + 17 + 39 = 67
    assert pairs(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).tolist() == [67.0]


@given(VALUES)
def test_the_fast_form_is_the_sum_over_pairs(vectors: list[list[int]]) -> None:
    x_BMD = torch.tensor([vectors], dtype=torch.float64)
    assert torch.equal(pairs(x_BMD), by_pairs(x_BMD))


@given(VALUES)
def test_the_order_of_features_is_nothing(vectors: list[list[int]]) -> None:
    turned = torch.tensor([vectors[::-1]], dtype=torch.float64)
    assert torch.equal(pairs(torch.tensor([vectors], dtype=torch.float64)), pairs(turned))


def test_any_symmetric_interactions_of_5_features_can_be_had_at_width_5() -> None:
    """A symmetric matrix plus a large enough diagonal is V Vᵀ, and an FM never reads the diagonal."""
    rng = np.random.default_rng(3)
    wanted = rng.normal(size=(5, 5))
    wanted = wanted + wanted.T
    values, vectors = np.linalg.eigh(wanted)
    v = torch.from_numpy(vectors * np.sqrt(values - values.min()))  # shifted by the least eigenvalue: rank 4 at most
    for i in range(5):
        for j in range(i):
            x = torch.zeros(5, dtype=torch.float64)
            x[[i, j]] = 1.0
            torch.testing.assert_close(pairs((x[:, None] * v)[None]), torch.tensor([wanted[i, j]]))


def test_looking_up_is_the_linear_layer_on_one_hot() -> None:
    model = without_mlp(made(BARE))
    rows = batch(BARE, 7, 30)
    one_hot = torch.zeros(30, len(table(model)))
    for name, words, ids in (
        ("user.id", "user.id", rows.request["user.id"][rows.request_of]),
        ("item.id", "item.id", rows.row["item.id"]),
    ):
        assert name in {**BARE.request.sparse, **BARE.row.sparse}
        one_hot[torch.arange(30), model.embed.ids(words, ids)] = 1.0
    w, v = table(model)[:, -1], table(model)[:, :-1]
    linear = one_hot @ w
    second = 0.5 * ((one_hot @ v).square().sum(dim=1) - (one_hot.square() @ v.square()).sum(dim=1))
    torch.testing.assert_close(model(rows)["click"], linear + second)


def fields(model: DeepFM, rows: Batch) -> tuple[Tensor, Tensor]:
    """Vectors [B, M, D] and first order terms [B, M] of all fields, side by side."""
    asked, row = model.request(model.embed, rows.request), model.row(model.embed, rows.row)
    every = torch.cat([asked[rows.request_of], row], dim=1)
    return every[..., :-1], every[..., -1]


def test_without_the_mlp_it_is_the_fm() -> None:
    model, rows = without_mlp(made()), batch(FULL, 7, 30)
    x_BMD, w_BM = fields(model, rows)
    logits = model(rows)
    torch.testing.assert_close(logits["click"], w_BM.sum(dim=1) + by_pairs(x_BMD), atol=1e-4, rtol=1e-5)
    assert torch.equal(logits["click"], logits["like"])


def slope(model: DeepFM) -> Tensor:
    grad = table(model).grad
    assert grad is not None
    return grad.clone()


def test_an_fm_and_an_mlp_read_one_table_and_its_gradient_is_their_sum() -> None:
    model, rows = made(), batch(FULL, 7, 30)

    def gradient(fm: float, deep: float) -> Tensor:
        model.zero_grad()
        x_BMD, w_BM = fields(model, rows)
        first = (w_BM.sum(dim=1) + pairs(x_BMD)).sum()
        second = model.heads(model.deep(x_BMD.flatten(1)))["click"].sum()
        (fm * first + deep * second).backward()
        return slope(model)

    torch.testing.assert_close(gradient(1, 1), gradient(1, 0) + gradient(0, 1))
    whole = gradient(1, 1)
    model.zero_grad()
    model(rows)["click"].sum().backward()
    torch.testing.assert_close(slope(model), whole)
    assert sum(isinstance(part, nn.Embedding) for part in model.modules()) == 1


def test_a_dense_value_multiplies_its_vector_in_both_orders() -> None:
    """y(x) = w x + <v x, e> + ...: with one dense column the logit is a line in x, for x² has no pair."""
    layout = replace(BARE, row=Side(sparse={"item.id": "item.id"}, dense=("price",)))
    model = without_mlp(made(layout))

    def at(price: float) -> Batch:
        row = Columns.of(1, {"item.id": np.array([7])}, {"price": np.array([price])})
        return Batch.of(Columns.of(1, {"user.id": np.array([3])}), row, np.array([0]))

    zero, one, three = (model(at(price))["click"].item() for price in (0.0, 1.0, 3.0))
    assert abs((three - zero) - 3 * (one - zero)) < 1e-5
    assert model.row.dense is not None
    vector = model.row.dense[0].detach()
    ids = torch.stack([model.embed.ids("user.id", torch.tensor(3)), model.embed.ids("item.id", torch.tensor(7))])
    others = table(model)[ids].detach()
    slope = vector[-1] + (others[:, :-1] @ vector[:-1]).sum()
    assert abs((one - zero) - float(slope)) < 1e-5


def test_a_history_enters_as_the_mean_of_its_steps() -> None:
    model = made()
    rows = batch(FULL, 7, 30)
    fields = model.request(model.embed, rows.request)
    group = rows.request.groups["history"]
    place = 2  # behind user.id and user.city
    for r in range(7):
        n = int(group.length[r])
        ids = model.embed.ids("item.id", group.channels["item"][r, :n])
        expected = model.embed.table(ids).mean(dim=0) if n else torch.zeros(5)
        torch.testing.assert_close(fields[r, place], expected)
