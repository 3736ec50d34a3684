"""Parts that a project file can name, found by looking into their folders."""

import ast
import importlib.util
from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option
from shortlist.config import catalogue

__all__ = ["command"]

KINDS = {
    "recall": "shortlist.models.recall",
    "coarse": "shortlist.models.coarse",
    "rank": "shortlist.models.rank",
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
def command(as_json: bool) -> None:
    """List what `use = "..."` can name, with the first line each file says about itself."""
    found = [
        {"kind": kind, "name": name, "what": says(package, name)}
        for kind, package in KINDS.items()
        for name in catalogue(package)
    ]
    if as_json:
        emit(found)
        return
    width = max(len(part["name"]) for part in found)
    for part in found:
        print(f"{part['kind']:<8}{part['name']:<{width + 2}}{part['what']}")


def says(package: str, name: str) -> str:
    """First sentence of a file's docstring, read without running the file."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        file = Path(place) / f"{name}.py"
        if file.exists():
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            return " ".join(text.partition("\n\n")[0].split())
    return ""
