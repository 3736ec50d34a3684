"""docs/learning.md is true: each block of TOML is a part of a project that is accepted, each formula can be fused."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from shortlist.config import parse
from shortlist.funnel.effective import effective
from shortlist.schema import Schema
from shortlist.training.objectives.bce import Bce

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "learning.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
LOG, _, TASKS = (tomllib.loads(block) for block in BLOCKS[:3])
FORMULAS = re.findall(r"^\| [^|]+ \| `([^`|]+)` \|$", TEXT.partition("## Fusion")[2], flags=re.MULTILINE)


def project(table: dict[str, Any]) -> dict[str, Any]:
    """The page's log and, where a block declares none, its tasks."""
    schema = {**LOG["schema"], **TASKS["schema"], **table.get("schema", {})}
    return {**LOG, "scene": {"home": {}}, **table, "schema": schema}


def accepted(table: dict[str, Any]) -> dict[str, Any]:
    whole = project(table)
    return effective(parse(whole), Schema.parse(whole["schema"]))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:40])
def test_a_block_is_part_of_a_project(block: str) -> None:
    assert accepted(tomllib.loads(block))["scene"]


def test_every_formula_can_be_fused() -> None:
    assert FORMULAS[0] == "fuse"  # the head of the table
    assert len(FORMULAS) == 8
    for formula in FORMULAS[1:]:
        assert accepted({"rank": {"use": "dnn", "fuse": formula}})["rank"]["fuse"] == formula


def test_every_word_of_the_loss_is_told() -> None:
    told = TEXT.partition("## Objective and loss")[2].partition("## Heads")[0]
    for option in fields(Bce.Config):
        assert f"`{option.name}`" in told, option.name
