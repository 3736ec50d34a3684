"""The fused table: shared vocabularies, the padding row, groups."""

import torch

from shortlist.batch import Columns, Group, Layout, Side
from shortlist.models.blocks.embed import Embed

SIDE = Side(sparse={"item.id": "item.id", "item.c": "c"}, groups={"history": {"item": "item.id"}})
LAYOUT = Layout(SIDE, Side(), {"item.id": 5, "c": 4})


def columns(ids: list[list[int]]) -> Columns:
    return Columns(torch.tensor(ids), torch.zeros(len(ids), 0), ("item.id", "item.c"))


def test_vocabularies_have_rows_of_their_own_and_share_padding() -> None:
    embed = Embed(LAYOUT, 3)
    # 4 ids above padding of one, 3 of the other, and one row of padding for both
    assert embed.table.num_embeddings == 8
    out = embed(columns([[1, 1], [4, 3], [0, 0]]), SIDE)
    assert out.shape == (3, 2, 3)
    weight = embed.table.weight
    torch.testing.assert_close(out[0], weight[[1, 5]])
    torch.testing.assert_close(out[1], weight[[4, 7]])
    assert (out[2] == 0).all()


def test_a_history_shares_the_rows_of_the_target_and_its_padding_gets_no_gradient() -> None:
    embed = Embed(LAYOUT, 3)
    group = Group(torch.tensor([1, 0]), {"item": torch.tensor([[4, 3], [2, 2]])})  # values behind the length
    out = embed.group(group, SIDE, "history")
    assert out.shape == (2, 2, 1, 3)
    torch.testing.assert_close(out[0, 0, 0], embed.table.weight[4])
    assert (out[0, 1] == 0).all()
    assert (out[1] == 0).all()
    out.sum().backward()
    gradient = embed.table.weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() == 0
    assert sorted(gradient.abs().sum(1).nonzero().flatten().tolist()) == [4]


def test_the_mean_of_a_group_counts_real_steps_only() -> None:
    embed = Embed(LAYOUT, 2)
    group = Group(torch.tensor([2, 0]), {"item": torch.tensor([[2, 3, 4], [4, 4, 4]])})
    pooled = embed.pooled(group, SIDE, "history")
    torch.testing.assert_close(pooled[0], embed.table.weight[[2, 3]].mean(0))
    assert (pooled[1] == 0).all()


def test_large_tables_have_sparse_gradients() -> None:
    assert not Embed(LAYOUT, 2).table.sparse
    assert Embed(Layout(SIDE, Side(), {"item.id": 1_000_002, "c": 4}), 1).table.sparse
