"""The fused table: shared vocabularies, the padding row, groups, and what the layout's tables make of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from shortlist.batch import Columns, Group, Layout, Side, Tables
from shortlist.models.blocks.embed import Embed, Packed, packed, width_of

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


def kept(layout: Layout = LAYOUT, dim: int = 3, **tables: Any) -> Embed:
    torch.manual_seed(0)
    return Embed(replace(layout, tables=Tables(**tables)), dim)


def test_what_a_table_has_above_some_numbers_is_said_by_the_layout() -> None:
    assert kept(dim=2, sparse_above=15).table.sparse  # 8 rows of 2
    assert not kept(dim=2, sparse_above=16).table.sparse
    assert list(kept().state_dict()) == ["table.weight"]


# ------------------------------------------------------------------------------------------ sparse gradients


def test_a_sparse_gradient_is_the_dense_one_with_repeats_and_padding() -> None:
    dense, sparse = kept(), kept(sparse_above=0)
    ids = columns([[4, 3], [4, 0], [0, 3], [2, 1]])
    group = Group(torch.tensor([2, 0]), {"item": torch.tensor([[4, 2, 3], [3, 3, 3]])})
    for embed in (dense, sparse):
        (embed(ids, SIDE).square().sum() + embed.group(group, SIDE, "history").square().sum()).backward()
    assert sparse.table.weight.grad is not None
    assert sparse.table.weight.grad.is_sparse
    rows = sparse.table.weight.grad.coalesce()
    # items 4 (thrice: two targets, one step) and 2 are rows 4 and 2, 1 and 3 of c are rows 5 and 7; none of padding
    assert rows.indices().tolist() == [[2, 4, 5, 7]]
    torch.testing.assert_close(rows.to_dense(), dense.table.weight.grad)


# ------------------------------------------------------------------------------------------ hashing

LARGE = Layout(SIDE, Side(), {"item.id": 12, "c": 4})  # 10 values and 2
# 2 + ((a x + b) mod (2^31 - 1)) mod 5, (a, b) = (575386946, 317920773) of sha256("item.id/0") for the first hash and
# (2040787162, 741378370) of sha256("item.id/1") for the second: the same in every process
FIRST_OF, SECOND_OF = {2: 2, 11: 5}, {2: 2, 11: 4}


def test_a_large_vocabulary_has_rows_up_to_the_bound_and_ids_are_sums_of_them() -> None:
    embed = kept(LARGE, hash_above=5)
    # the shared row of padding; unknown and 5 buckets of items; unknown and 2 values of c
    assert embed.table.num_embeddings == 1 + 6 + 3
    weight = embed.table.weight
    out = embed(columns([[0, 0], [1, 1], [2, 3], [11, 2]]), SIDE)
    assert (out[0] == 0).all()
    torch.testing.assert_close(out[1], weight[[1, 7]])  # unknown has a row of its own
    torch.testing.assert_close(out[2, 0], weight[FIRST_OF[2]] + weight[SECOND_OF[2]])
    torch.testing.assert_close(out[3, 0], weight[FIRST_OF[11]] + weight[SECOND_OF[11]])
    torch.testing.assert_close(out[2:, 1], weight[[9, 8]])


def test_hashed_rows_of_the_history_are_those_of_the_target() -> None:
    embed = kept(LARGE, hash_above=5)
    group = Group(torch.tensor([2]), {"item": torch.tensor([[11, 2, 7]])})
    steps = embed.group(group, SIDE, "history")
    targets = embed(columns([[11, 0], [2, 0]]), SIDE)
    torch.testing.assert_close(steps[0, :2, 0], targets[:, 0])
    assert (steps[0, 2] == 0).all()


def test_few_pairs_of_many_ids_share_both_rows() -> None:
    embed = kept(Layout(SIDE, Side(), {"item.id": 10_002, "c": 4}), hash_above=1000)
    ids = torch.arange(2, 10_002)
    once = embed.vectors(ids.unsqueeze(1), ["item.id"]).squeeze(1)
    # 10^4 ids draw a sum of two of 1000 rows: 10^8 / 2 pairs of ids, each alike in 1 of 5 * 10^5 (a sum has no order):
    # at most about 100 ids are one too many; with one hash it would be 9000
    assert 0 < 10_000 - len(torch.unique(once.detach(), dim=0)) < 200
    # a sum of rows begins as long as a row: std 0.01
    assert float(once.detach().std()) == pytest.approx(0.01, rel=0.1)


# ------------------------------------------------------------------------------------------ widths


@pytest.mark.parametrize(
    ("rule", "values", "width"),
    [
        ("equal", 10, 16),
        ("root", 10, 8),  # 6 * 10^(1/4) = 10.67, nearest 8 (2^3.4)
        ("root", 1, 8),  # 6 * 1 = 6, 2^2.58, nearest 8
        ("root", 1000, 16),  # 6 * 5.6 = 34: at most dim
        ("mixed", 10, 16),  # the smallest has all of dim
        ("mixed", 100, 8),  # 16 * 0.1^0.3 = 8.02
        ("mixed", 10_000, 4),  # 16 * 0.001^0.3 = 2.01: at least 4
    ],
)
def test_widths_by_size(rule: Any, values: int, width: int) -> None:
    assert width_of(Tables(widths=rule), 16, values, 10) == width


def test_a_power_of_ones_own() -> None:
    # 16 * (10 / 10^4)^0.15 = 5.68, 2^2.5: the nearest is 2^3 in halves to even: round(2.505) = 3
    assert width_of(Tables(widths="mixed", power=0.15), 16, 10_000, 10) == 8


def test_vocabularies_of_one_width_are_one_table_mapped_to_the_model() -> None:
    side = Side(sparse={"a": "a", "b": "b", "c": "c"}, groups={"g": {"b": "b", "a": "a"}})
    embed = kept(Layout(side, Side(), {"a": 12, "b": 10_002, "c": 20_002}), 16, widths="mixed")
    # a: 16; b and c: 4, one table of padding, 10001 and 20001 rows, and one map
    assert {name: tuple(value.shape) for name, value in embed.state_dict().items()} == {
        "table.weight": (12, 16),
        "narrow.4.weight": (30_003, 4),
        "maps.4.weight": (16, 4),
    }
    given = Columns(torch.tensor([[2, 3, 4], [0, 0, 0]]), torch.zeros(2, 0), ("c", "a", "b"))
    out = embed(given, side)
    state = embed.state_dict()
    narrow, matrix = state["narrow.4.weight"], state["maps.4.weight"]
    torch.testing.assert_close(out[0, 0], matrix @ narrow[10_001 + 2])
    torch.testing.assert_close(out[0, 1], state["table.weight"][3])
    torch.testing.assert_close(out[0, 2], matrix @ narrow[4])
    assert (out[1] == 0).all()
    steps = embed.group(Group(torch.tensor([1]), {"a": torch.tensor([[3]]), "b": torch.tensor([[4]])}), side, "g")
    torch.testing.assert_close(steps[0, 0], out[0, [2, 1]][[1, 0]])
    # vectors of all widths begin alike
    many = embed.vectors(torch.arange(2, 10_002).unsqueeze(1), ["b"])
    assert float(many.detach().std()) == pytest.approx(0.01, rel=0.35)  # of one matrix of 16 x 4 numbers


# ------------------------------------------------------------------------------------------ admission


def counted(embed: Embed) -> list[int]:
    assert embed.counts is not None
    return embed.counts.tolist()


def test_an_id_has_its_own_row_from_the_batch_on_that_fills_its_count() -> None:
    embed = kept(admit=3)
    weight = embed.table.weight
    out = embed(columns([[4, 3], [4, 0]]), SIDE)
    # item 4 was met twice (place 4), c 3 once (place 4 + 3): both still read the unknown of theirs
    assert counted(embed) == [0, 0, 0, 0, 2, 0, 0, 1]
    torch.testing.assert_close(out[:, 0], weight[[1, 1]])
    torch.testing.assert_close(out[0, 1], weight[5])
    assert (out[1, 1] == 0).all()
    out.sum().backward()
    gradient = embed.table.weight.grad
    assert gradient is not None
    assert sorted(gradient.abs().sum(1).nonzero().flatten().tolist()) == [1, 5]
    group = Group(torch.tensor([1]), {"item": torch.tensor([[4, 4]])})
    # the third time is a step of a history: one count for both, what is behind the length is none
    torch.testing.assert_close(embed.group(group, SIDE, "history")[0, 0, 0], weight[4])
    embed(columns([[4, 3]]), SIDE)
    assert counted(embed) == [0, 0, 0, 0, 3, 0, 0, 2]


def test_nothing_to_look_up_is_nothing() -> None:
    for embed in (kept(), kept(admit=3), kept(widths="mixed", least=1, power=2)):
        out = embed(Columns(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0)), SIDE, ())
        assert out.shape == (2, 0, 3)
        assert not out.requires_grad


def test_who_looks_without_learning_is_not_counted_and_reads_the_same() -> None:
    embed = kept(admit=2)
    rare, common = columns([[2, 0]]), columns([[4, 0], [4, 0]])
    embed(common, SIDE)
    embed(rare, SIDE)
    before = counted(embed)
    served = Embed(replace(LAYOUT, tables=Tables(admit=2)), 3).eval()
    served.load_state_dict(embed.state_dict())
    with torch.no_grad():
        embed(rare, SIDE)
    embed.eval()
    embed(rare, SIDE)
    assert counted(embed) == before
    for model in (embed, served):
        torch.testing.assert_close(model(rare, SIDE)[0, 0], embed.table.weight[1])
        torch.testing.assert_close(model(common, SIDE)[0, 0], embed.table.weight[4])


# ------------------------------------------------------------------------------------------ bytes


def test_a_row_as_bytes_is_at_most_half_a_step_away() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.27, -0.634], [0.1, 0.3]])
    rows, scale = packed(weight)
    # 1.27 / 127 = 0.01: 127 and -63; 0.3 / 127: 127 and 0.1 / 0.3 * 127 = 42.33
    assert rows.tolist() == [[0, 0], [127, -63], [42, 127]]
    assert scale.tolist() == pytest.approx([0, 0.01, 0.3 / 127])
    weight = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    rows, scale = packed(weight)
    gap = (rows * scale.unsqueeze(1) - weight).abs()
    assert (gap <= scale.unsqueeze(1) / 2 + 1e-7).all()
    assert gap.max() > 0


def test_a_packed_layout_has_bytes_alone() -> None:
    layout = replace(LARGE, tables=Tables(hash_above=5, admit=2, serve="int8"))
    full, served = Embed(layout, 3), Embed(replace(layout, packed=True), 3)
    assert next(type(part) for part in served.children()) is Packed
    assert not list(served.parameters())
    assert {name: value.dtype for name, value in served.state_dict().items()} == {
        "counts": torch.int32, "table.bytes": torch.int8, "table.scale": torch.float32,
    }  # fmt: skip
    for n in range(2, 12):
        full(columns([[n, 2], [n, 3]]), SIDE)
    rows, scale = packed(full.table.weight.detach())
    served.load_state_dict({"counts": full.state_dict()["counts"], "table.bytes": rows, "table.scale": scale})
    ids = columns([[n, n % 4] for n in range(12)])
    torch.testing.assert_close(served.eval()(ids, SIDE), full.eval()(ids, SIDE).detach(), atol=4e-4, rtol=0)
