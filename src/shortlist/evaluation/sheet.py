"""A page of pictures and tables in one HTML file, read without network and without JavaScript: plain text in, a page
out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shortlist.evaluation.report import environment, replaced

__all__ = ["Figure", "Sheet", "Table", "render", "write_sheet"]


@dataclass(frozen=True)
class Figure:
    """A picture as SVG text, and what it shows."""

    title: str
    words: str
    svg: str


@dataclass(frozen=True)
class Table:
    """Cells as text, the first row the head, the first column names."""

    title: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sheet:
    """`recipe` says how to get the same again, `code` what to write down (TOML)."""

    title: str
    words: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    code: str = ""
    recipe: Mapping[str, str] = field(default_factory=dict)


def write_sheet(sheet: Sheet, path: Path) -> None:
    """Write the page to `path` in one step. Raises ConfigError when the packages that draw are not installed."""
    replaced(render(sheet), path)


def render(sheet: Sheet) -> str:
    """The page as text."""
    templates = environment()
    from markupsafe import Markup

    from shortlist.evaluation.pictures import PALETTE

    figures = [(figure, Markup(figure.svg)) for figure in sheet.figures]
    return str(templates.get_template("sheet.html.jinja").render(sheet=sheet, figures=figures, palette=PALETTE))
