"""Parts that a project file can name, found by looking into their folders."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import click

from shortlist.cli._talk import emit, json_option
from shortlist.config import catalogue

__all__ = ["command"]

KINDS = {
    "recall": "shortlist.models.recall",
    "coarse": "shortlist.models.coarse",
    "rank": "shortlist.models.rank",
    "head": "shortlist.models.multitask",
    "index": "shortlist.index.kinds",
    "source": "shortlist.funnel.sources",
    "merge": "shortlist.funnel.mergers",
    "filter": "shortlist.funnel.filters",
    "boost": "shortlist.traffic",
    "rerank": "shortlist.funnel.selectors",
    "split": "shortlist.dataset.splits",
    "feature": "shortlist.features.kinds",
    "text": "shortlist.features.text",
}


@click.command()
@json_option
@click.option("--options", "with_options", is_flag=True, help="Print the options of each, with their defaults, too.")
def command(as_json: bool, with_options: bool) -> None:
    """List what `use = "..."` can name, with the first line each file says about itself.

    A head is named inside a ranker's table: heads = { use = "mmoe" }.
    """
    found: list[dict[str, Any]] = []
    for kind, package in KINDS.items():
        for name in catalogue(package):
            tree = source(package, name)
            found.append({"kind": kind, "name": name, "what": says(tree), "options": options(tree)})
    if as_json:
        emit(found)
        return
    width = max(len(part["name"]) for part in found)
    for part in found:
        print(f"{part['kind']:<8}{part['name']:<{width + 2}}{part['what']}")
        if with_options:
            for name, default in part["options"].items():
                print(f"{'':<{width + 10}}{name} = {default}" if default else f"{'':<{width + 10}}{name}")


def source(package: str, name: str) -> ast.Module:
    """A file's syntax: it is read, not run."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        file = Path(place) / f"{name}.py"
        if file.exists():
            return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])


def says(tree: ast.Module) -> str:
    """The first paragraph of a file's docstring."""
    text = ast.get_docstring(tree) or ""
    return " ".join(text.partition("\n\n")[0].split())


def options(tree: ast.Module) -> dict[str, str]:
    """Keys of the nested `Config` with their defaults as they are written; empty where one must be given."""
    configs = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Config")
    lines = [line for config in configs for line in config.body if isinstance(line, ast.AnnAssign)]
    written = {ast.unparse(line.target): ast.unparse(line.value) if line.value else "" for line in lines}
    return {name: "{}" if "default_factory=dict" in default else default for name, default in written.items()}
