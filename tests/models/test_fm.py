"""FM: the identities of its card on the model itself; those of the pair sum alone are in test_deepfm.py."""

from dataclasses import replace

import numpy as np
import torch
from tests.models.examples import BARE, FULL, batch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.models.blocks.fm import bi_interaction, pairs
from shortlist.models.rank.fm import FM

ONE = replace(FULL, tasks=("click",))


def made(layout: Layout = ONE, config: FM.Config | None = None) -> FM:
    """With parameters large enough for differences to show."""
    torch.manual_seed(0)
    model = FM(config or FM.Config(dim=4), layout)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        table(model)[0] = 0
    return model.eval()


def table(model: FM) -> Tensor:
    return model.get_parameter("embed.table.weight")


def by_pairs(x_BMD: Tensor) -> Tensor:
    m = x_BMD.shape[1]
    each = [(x_BMD[:, i] * x_BMD[:, j]).sum(dim=1) for i in range(m) for j in range(i + 1, m)]
    return torch.stack(each).sum(dim=0)


def bias(model: FM) -> Tensor:
    return model.get_parameter("heads.bias")


def test_the_pairs_before_their_sum_by_hand() -> None:
    # (1,2) ∘ (3,4) + (1,2) ∘ (5,6) + (3,4) ∘ (5,6) = (3 + 5 + 15, 8 + 12 + 24) = (23, 44), in all 67
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert bi_interaction(x).tolist() == [[23.0, 44.0]]
    assert pairs(x).tolist() == [67.0]


def test_one_task_is_the_fm_and_nothing_else() -> None:
    model, rows = made(), batch(ONE, 7, 30)
    x_BMD, w_BM = model.fields(rows)
    expected = bias(model) + w_BM.sum(dim=1) + by_pairs(x_BMD)
    torch.testing.assert_close(model(rows)["click"], expected, atol=1e-4, rtol=1e-5)
    assert [place for place, _ in model.named_parameters() if place.startswith("heads")] == ["heads.bias"]


def test_any_symmetric_interactions_of_5_features_can_be_had_at_width_5() -> None:
    """Of a sparse column of 5 values and another of 5: every pair has the logit of a matrix that was drawn."""
    layout = Layout(
        Side(sparse={"user.id": "user.id"}), Side(sparse={"item.id": "item.id"}), {"user.id": 7, "item.id": 7}, ("t",)
    )
    rng = np.random.default_rng(3)
    wanted = rng.normal(size=(5, 5))
    model = made(layout, FM.Config(dim=5)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for n in range(5):  # value n is id n + 2; the user's vectors are unit ones, the item's are columns
            user, item = (int(model.embed.ids(words, torch.tensor(n + 2))) for words in ("user.id", "item.id"))
            table(model)[user, n] = 1.0
            table(model)[item, :5] = torch.from_numpy(wanted[:, n])
    u, i = np.divmod(np.arange(25), 5)
    rows = Batch.of(Columns.of(25, {"user.id": u + 2}), Columns.of(25, {"item.id": i + 2}), np.arange(25))
    torch.testing.assert_close(model(rows)["t"], torch.from_numpy(wanted.ravel()))


def test_looking_up_is_the_linear_layer_on_one_hot() -> None:
    model, rows = made(BARE), batch(BARE, 7, 30)
    one_hot = torch.zeros(30, len(table(model)))
    for words, ids in (
        ("user.id", rows.request["user.id"][rows.request_of]),
        ("item.id", rows.row["item.id"]),
    ):
        one_hot[torch.arange(30), model.embed.ids(words, ids)] = 1.0
    w, v = table(model)[:, -1], table(model)[:, :-1]
    second = 0.5 * ((one_hot @ v).square().sum(dim=1) - (one_hot.square() @ v.square()).sum(dim=1))
    torch.testing.assert_close(model(rows)["click"], bias(model) + one_hot @ w + second)


def test_fields_in_another_order_are_the_same_model() -> None:
    """The same vectors under a layout whose columns are turned round."""
    turned = replace(
        ONE,
        request=replace(ONE.request, sparse=dict(reversed(list(ONE.request.sparse.items())))),
        row=replace(ONE.row, sparse=dict(reversed(list(ONE.row.sparse.items())))),
    )
    model, rows = made(), batch(ONE, 7, 30)
    other = FM(FM.Config(dim=4), turned)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(rows)["click"], model(rows)["click"], atol=1e-5, rtol=1e-5)


def test_a_dense_value_enters_as_itself_times_its_vector_in_both_orders() -> None:
    layout = replace(BARE, row=Side(sparse={"item.id": "item.id"}, dense=("price",)))
    model = made(layout)

    def at(price: float) -> float:
        row = Columns.of(1, {"item.id": np.array([7])}, {"price": np.array([price])})
        return float(model(Batch.of(Columns.of(1, {"user.id": np.array([3])}), row, np.array([0])))["click"].detach())

    assert model.row.dense is not None
    vector = model.row.dense[0].detach()
    ids = torch.stack([model.embed.ids("user.id", torch.tensor(3)), model.embed.ids("item.id", torch.tensor(7))])
    slope = float(vector[-1] + (table(model)[ids, :-1].detach() @ vector[:-1]).sum())
    assert abs(at(1.0) - at(0.0) - slope) < 1e-5
    assert abs(at(3.0) - at(0.0) - 3 * slope) < 1e-4  # no pair of a column with itself


def test_several_tasks_share_it_and_have_a_head_each_on_the_pairs() -> None:
    model, rows = made(FULL), batch(FULL, 7, 30)
    x_BMD, w_BM = model.fields(rows)
    shared = w_BM.sum(dim=1) + pairs(x_BMD)
    head = model.heads.get_submodule("linear")(bi_interaction(x_BMD))
    found = model(rows)
    torch.testing.assert_close(found["click"], shared + head[:, 0], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found["like"], shared + head[:, 1], atol=1e-4, rtol=1e-5)


def test_a_head_eats_the_pairs_of_one_task_too() -> None:
    model, rows = (
        made(ONE, FM.Config(dim=4, heads={"use": "shared_bottom", "bottom": [3], "towers": []})),
        batch(ONE, 7, 9),
    )
    x_BMD, w_BM = model.fields(rows)
    own = model.heads(bi_interaction(x_BMD))["click"]
    torch.testing.assert_close(model(rows)["click"], w_BM.sum(dim=1) + pairs(x_BMD) + own, atol=1e-4, rtol=1e-5)
