"""GMF, MLP and NeuMF: the identities between them, what they read, and the protocol they are compared by."""

from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch
from bench.ncf import Positives, judged
from tests.models.examples import BARE, FULL, TASKS, batch
from torch import nn

from shortlist.batch import Batch, Columns, Layout, Side, Tables
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.models.blocks.heads import Heads
from shortlist.models.rank.gmf import GMF
from shortlist.models.rank.mlp import MLP
from shortlist.models.rank.neumf import NeuMF

LAYERS = (8, 8, 4, 3)


def random(model: nn.Module, seed: int = 0) -> None:
    """Parameters large enough for differences to show."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.7, generator=noise)
        table(model)[0] = 0


def parts(layout: Layout = BARE) -> tuple[GMF, MLP]:
    gmf, mlp = GMF(GMF.Config(factors=5), layout), MLP(MLP.Config(layers=LAYERS), layout)
    random(gmf, 1)
    random(mlp, 2)
    return gmf, mlp


def neumf(layout: Layout = BARE) -> NeuMF:
    model = NeuMF(NeuMF.Config(mf=5, layers=LAYERS), layout)
    random(model, 3)
    return model


def linear(model: GMF | MLP | NeuMF) -> nn.Linear:
    assert isinstance(model.heads, Heads)
    return model.heads.linear


def one(user: int, item: int) -> Batch:
    request, row = Columns.of(1, {"user.id": np.array([user])}), Columns.of(1, {"item.id": np.array([item])})
    return Batch.of(request, row, np.array([0]))


def table(model: nn.Module) -> nn.Parameter:
    return model.get_parameter("embed.table.weight")


def vector(model: GMF | MLP | NeuMF, words: str, value: int) -> torch.Tensor:
    row: torch.Tensor = table(model)[model.embed.ids(words, torch.tensor(value))]
    return row


def test_gmf_by_hand_and_as_matrix_factorization() -> None:
    model = GMF(GMF.Config(factors=2), BARE)
    with torch.no_grad():
        vector(model, "user.id", 3).copy_(torch.tensor([1.0, 2.0]))
        vector(model, "item.id", 7).copy_(torch.tensor([3.0, 4.0]))
        linear(model).weight.fill_(1.0)
        linear(model).bias.zero_()
        assert model(one(3, 7))["click"].item() == 11.0  # <(1, 2), (3, 4)> = 3 + 8
        linear(model).weight.copy_(torch.tensor([[2.0, 0.5]]))
        linear(model).bias.fill_(-1.0)
        assert model(one(3, 7))["click"].item() == 9.0  # 2 * 3 + 0.5 * 8 - 1


def test_gmf_of_equal_weights_is_the_inner_product() -> None:
    model, rows = parts()[0], batch(BARE, 7, 30)
    with torch.no_grad():
        linear(model).weight.fill_(1.0)
        linear(model).bias.zero_()
        users, items = rows.request["user.id"][rows.request_of], rows.row["item.id"]
        for at in range(30):
            p, q = vector(model, "user.id", int(users[at])), vector(model, "item.id", int(items[at]))
            torch.testing.assert_close(model(rows)["click"][at], p @ q)


def test_mlp_by_hand() -> None:
    """One hidden layer of one unit: relu(1 * 1 - 2 * 2 + 3 * 3 + 4 * 4 + 1) = 23, and -1 * 23 + 5."""
    model = MLP(MLP.Config(layers=(4, 1)), BARE)
    with torch.no_grad():
        vector(model, "user.id", 3).copy_(torch.tensor([1.0, 2.0]))
        vector(model, "item.id", 7).copy_(torch.tensor([3.0, 4.0]))
        layer = model.deep[0]
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 4.0]]))
        layer.bias.fill_(1.0)
        linear(model).weight.fill_(-1.0)
        linear(model).bias.fill_(5.0)
        assert model(one(3, 7))["click"].item() == -18.0
        layer.bias.fill_(-30.0)
        assert model(one(3, 7))["click"].item() == 5.0  # the unit is off


def test_layers_halve_from_four_times_the_factors() -> None:
    def widths(config: MLP.Config) -> list[tuple[int, int]]:
        layers = MLP(config, BARE).deep
        return [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]

    assert widths(MLP.Config(factors=8)) == [(32, 16), (16, 8)]
    assert widths(MLP.Config(factors=8, layers=(32, 32, 16, 8))) == [(32, 32), (32, 16), (16, 8)]
    assert table(MLP(MLP.Config(factors=8), BARE)).shape[1] == 16, "half of the input is the user's, half the item's"


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("layout", [BARE, FULL], ids=["bare", "full"])
def test_started_from_its_parts_it_is_their_mean(alpha: float, layout: Layout) -> None:
    (gmf, mlp), model, rows = parts(layout), neumf(layout), batch(layout, 7, 30)
    model.start(gmf, mlp, alpha)
    with torch.no_grad():
        whole, first, second = model(rows), gmf(rows), mlp(rows)
    for task in layout.tasks:
        torch.testing.assert_close(whole[task], alpha * first[task] + (1 - alpha) * second[task])


def test_without_weights_on_its_mlp_it_is_gmf() -> None:
    gmf, model, rows = parts()[0], neumf(), batch(BARE, 7, 30)
    with torch.no_grad():
        table(model)[:, :5] = table(gmf)
        linear(model).weight[:, :5] = linear(gmf).weight
        linear(model).weight[:, 5:] = 0
        linear(model).bias.copy_(linear(gmf).bias)
        torch.testing.assert_close(model(rows)["click"], gmf(rows)["click"])


def test_its_parts_share_no_number() -> None:
    """The gradient of what GMF adds is zero in all that the MLP reads, and the other way round."""
    model, rows = neumf(), batch(BARE, 7, 30)
    for weights, still in ((slice(5, None), slice(5, None)), (slice(0, 5), slice(0, 5))):
        model.zero_grad()
        with torch.no_grad():
            kept = linear(model).weight.clone()
            linear(model).weight[:, weights] = 0
        model(rows)["click"].sum().backward()
        gradient = table(model).grad
        assert gradient is not None
        assert not gradient[:, still].any()
        assert gradient.any()
        with torch.no_grad():
            linear(model).weight.copy_(kept)


@pytest.mark.parametrize("kind", [GMF, MLP, NeuMF])
def test_the_ids_alone_are_read(kind: type[GMF] | type[MLP] | type[NeuMF]) -> None:
    model: nn.Module = kind(kind.Config(), FULL)  # type: ignore[arg-type]
    random(model)
    rows = batch(FULL, 7, 30)
    other = batch(FULL, 7, 30, seed=5)
    bare = Batch(
        replace(other.request, sparse=rows.request.sparse[:, :1], sparse_names=("user.id",)),
        replace(other.row, sparse=rows.row.sparse[:, :1], sparse_names=("item.id",)),
        rows.request_of,
    )
    for task in TASKS:
        assert torch.equal(model(rows)[task], model(bare)[task])
    assert len(table(model)) == 1 + 19 + 39, "ids of users and items, the unknown ones and padding"


@pytest.mark.parametrize(("kind", "name"), [(GMF, "gmf"), (MLP, "mlp"), (NeuMF, "neumf")])
def test_a_missing_id_is_named(kind: type[GMF] | type[MLP] | type[NeuMF], name: str) -> None:
    hint = "keep that column, or choose a ranker that does without it, as dnn or deepfm"
    for column, where, layout in (
        ("user.id", "requests", replace(BARE, request=Side())),
        ("item.id", "rows", replace(BARE, row=Side())),
    ):
        with pytest.raises(ConfigError) as error:
            kind(kind.Config(), layout)  # type: ignore[arg-type]
        assert str(error.value) == f"rank.use: {name} needs {column} among the columns of {where} ({hint})"


@pytest.mark.parametrize(("kind", "name"), [(MLP, "mlp"), (NeuMF, "neumf")])
def test_an_odd_input_is_refused(kind: type[MLP] | type[NeuMF], name: str) -> None:
    with pytest.raises(ConfigError) as error:
        kind(kind.Config(layers=(7, 3)), BARE)  # type: ignore[arg-type]
    what = "the first is the width of [p'; q'] and should be even, got 7"
    assert str(error.value) == f"{name}.layers: {what} (write 8)"


def test_parts_that_do_not_fit_are_refused_and_change_nothing() -> None:
    (gmf, mlp), model = parts(), neumf()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    narrow = GMF(GMF.Config(factors=4), BARE)
    short = MLP(MLP.Config(layers=LAYERS[:-1]), BARE)
    larger = MLP(MLP.Config(layers=LAYERS), replace(BARE, vocabularies={"user.id": 21, "item.id": 40}))
    widths, ids = "give the parts neumf's widths and layers", "train them on the same ids and tasks"
    for one_part, other, message in (
        (narrow, mlp, f"embed.table.weight is [59, 9], of the parts [59, 8] ({widths})"),
        (gmf, short, f"deep.4.weight is [3, 4], of the parts absent ({widths})"),
        (gmf, larger, f"mlp has another layout ({ids})"),
    ):
        with pytest.raises(ConfigError) as error:
            model.start(one_part, other)
        assert str(error.value) == f"neumf.start: {message}"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_parts_with_other_heads_are_refused() -> None:
    mlp = parts()[1]
    several = GMF(GMF.Config(factors=5, heads={"use": "shared_bottom"}), BARE)
    with pytest.raises(ConfigError) as error:
        neumf().start(several, mlp)
    assert str(error.value) == "neumf.start: gmf has other heads (leave heads out: h is the one linear layer)"


def test_parts_of_rows_shared_by_hash_start_it_too() -> None:
    """A hash goes by the vocabulary's name, so GMF, MLP and NeuMF share the same rows."""
    layout = replace(BARE, tables=Tables(hash_above=3, hashes=2))
    (gmf, mlp), model, rows = parts(layout), neumf(layout), batch(layout, 7, 30)
    model.start(gmf, mlp, 0.3)
    with torch.no_grad():
        expected = 0.3 * gmf(rows)["click"] + 0.7 * mlp(rows)["click"]
        torch.testing.assert_close(model(rows)["click"], expected)


@pytest.mark.parametrize("tables", [Tables(widths="mixed"), Tables(admit=2)], ids=["widths", "admit"])
def test_rows_that_are_not_side_by_side_start_nothing(tables: Tables) -> None:
    layout = replace(BARE, tables=tables)
    with pytest.raises(ConfigError) as error:
        neumf(layout).start(*parts(layout))
    assert str(error.value) == (
        "neumf.start: a row is not that of GMF and that of MLP side by side "
        "(take widths and admit out of tables: rows shared by hash do)"
    )


# -------------------------------------------------------------------------------------------- the protocol

# user 0 has 0..3 of 6 items, user 1 all but item 5, user 2 item 4 alone
LOG = Interactions.of(np.array([0] * 4 + [1] * 5 + [2]), np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 4]))


def test_negatives_are_what_the_user_lacks_in_train() -> None:
    rows = Positives(LOG, 6, seed=0)
    assert len(rows) == 50  # 10 pairs and 4 negatives of each
    met = set(zip(LOG.users.tolist(), LOG.items.tolist(), strict=True))
    drawn = set()
    for epoch in range(50):
        some = rows.at_epoch(epoch).batch(np.arange(50))
        assert some.labels is not None
        users = (some.request["user.id"][some.request_of] - 2).tolist()
        items, labels = (some.row["item.id"] - 2).tolist(), some.labels[:, 0].tolist()
        pairs = list(zip(users, items, strict=True))
        assert set(pairs[:10]) == met
        assert labels == [1.0] * 10 + [0.0] * 40
        assert users[10:] == users[:10] * 4, "each pair has four"
        assert not met & set(pairs[10:])
        drawn |= set(pairs[10:])
    # nothing else is spared: 6 - 4 items of user 0, 1 of user 1, 5 of user 2
    assert len(drawn) == 8


def test_negatives_are_drawn_anew_each_epoch_by_the_seed() -> None:
    rows, again, other = Positives(LOG, 6, 0), Positives(LOG, 6, 0), Positives(LOG, 6, 1)
    first = rows.at_epoch(0).drawn.tolist()
    assert again.at_epoch(0).drawn.tolist() == first
    assert rows.at_epoch(1).drawn.tolist() != first
    assert other.at_epoch(0).drawn.tolist() != first
    assert rows.at_epoch(0).drawn.tolist() == first


def test_a_constant_scorer_has_a_tenth() -> None:
    """Of 100 tied candidates the held-out one is at each rank with 1/100: 10 of them count."""
    layout = Layout(
        Side({"user.id": "user.id"}), Side({"item.id": "item.id"}), {"user.id": 5, "item.id": 202}, ("taken",)
    )
    model = GMF(GMF.Config(), layout)
    nn.init.zeros_(linear(model).weight)
    candidates = np.random.default_rng(0).permuted(np.tile(np.arange(200), (3, 1)), axis=1)[:, :100]
    found = judged(model, np.arange(3), candidates)
    gain = sum(1 / log2(1 + rank) for rank in range(1, 11)) / 100
    assert found["hit_rate@10"] == pytest.approx(0.1)
    assert found["ndcg@10"] == pytest.approx(gain)
