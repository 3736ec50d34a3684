"""Pages over a running engine: what it does, and why a user sees what is shown. Plain HTML, nothing from outside.

Everything shown is escaped by the templates; the content security policy allows no script at all.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from shortlist.dashboard import views
from shortlist.dashboard.views import when
from shortlist.errors import ShortlistError
from shortlist.serving.engine import Engine
from shortlist.serving.http import in_thread

__all__ = ["pages"]

FOLDER = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data: https: http:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-store"}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
SECONDS = 30.0
THREADS = 4

NOTES = {
    "unknown_user": "Nobody by this id has been seen: this is the page for strangers.",
    "backfill": "The channels brought too little; the hot list filled the page.",
    "late:state": "What is known of this user came too late; the page was made without it.",
    "failed:state": "What is known of this user could not be read; the page was made without it.",
    "failed:store": "The store could not be read; the history is from the log, and counts are unknown.",
    "late:funnel": "The funnel was too late; this is the hot list.",
    "failed:funnel": "The funnel failed; this is the hot list.",
    "failed:selector": "The selector failed; the page is in the order of scores.",
    "failed:backfill": "The hot list failed; the page is short.",
}
PREFIXES = {
    "late:": "A channel was too late and was left out: ",
    "failed:": "A part failed and was left out: ",
    "unsound:": "A channel returned rows that no sound one returns; they were mended: ",
    "nan:": "Some scores were not finite and went to the end: ",
    "relaxed:": "A rule could not be kept: ",
}


def pages(engine: Engine, home: Path) -> list[Route]:
    """The dashboard's routes; `home` is the project's folder: `report.html` and `map.html` may lie in its `reports`."""
    shown = _Pages(engine, home)
    return [
        Route("/", partial(shown.answer, "overview.html", shown.overview)),
        Route("/request", partial(shown.answer, "request.html", shown.request)),
        Route("/releases", partial(shown.answer, "releases.html", shown.releases)),
        Route("/report", shown.report),
        Route("/report.html", shown.report),
        Route("/map", shown.map),
        Route("/map.html", shown.map),
        Route("/dashboard.css", shown.style),
    ]


class _Pages:
    def __init__(self, engine: Engine, home: Path) -> None:
        self.engine = engine
        self.file = home / "reports" / "report.html"
        self.map_file = home / "reports" / "map.html"
        self.css = (FOLDER / "dashboard.css").read_text(encoding="utf-8")
        self.threads: anyio.CapacityLimiter | None = None
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= {
            "when": when, "clock": partial(when, form="%H:%M:%S"), "ms": ms, "count": lambda n: f"{n:,}", "of": of,
            "share": lambda x: f"{x:.4f}", "score": lambda x: "–" if x is None else f"{x:.4g}",
            "words": words, "note": note,
        }  # fmt: skip

    async def answer(
        self, template: str, view: Callable[[Mapping[str, str]], dict[str, Any]], request: Request
    ) -> Response:
        """A page, made in a thread. A request that is wrong is a page too, with its status."""
        if self.threads is None:
            self.threads = anyio.CapacityLimiter(THREADS)
        query = dict(request.query_params)
        text, status = await in_thread(SECONDS, lambda: self.render(template, view(query)), self.threads)
        return HTMLResponse(text, status, HEADERS)

    def render(self, template: str, values: dict[str, Any]) -> tuple[str, int]:
        here = {"overview.html": "/", "request.html": "/request", "releases.html": "/releases"}[template]
        nav = [("/", "Overview"), ("/request", "Request"), ("/releases", "Releases"), ("/docs", "API")]
        if self.file.is_file():
            nav.append(("/report", "Report"))
        if self.map_file.is_file():
            nav.append(("/map", "Map"))
        release = self.engine.live.id if self.engine.ready else None
        status = values.pop("status", 200)
        page = self.templates.get_template(template)
        return page.render(nav=nav, here=here, release=release, report=self.file.is_file(), **values), status

    def overview(self, query: Mapping[str, str]) -> dict[str, Any]:
        if not self.engine.ready:
            return {"ready": False, "refused": self.engine.refused}
        return views.overview(self.engine)

    def request(self, query: Mapping[str, str]) -> dict[str, Any]:
        values = views.form(self.engine, query)
        try:
            return values | views.request(self.engine, query)
        except ShortlistError as error:
            return values | {"problem": error, "status": 422 if error.code == "request" else 404}

    def releases(self, query: Mapping[str, str]) -> dict[str, Any]:
        return views.releases(self.engine)

    async def report(self, request: Request) -> Response:
        """The evaluation's report as it lies."""
        return await self.lying(self.file, "no report")

    async def map(self, request: Request) -> Response:
        """The map of the items as it lies."""
        return await self.lying(self.map_file, "no map")

    async def lying(self, file: Path, missing: str) -> Response:
        try:
            text = await anyio.Path(file).read_text(encoding="utf-8")
        except OSError:
            raise HTTPException(404, missing) from None
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})

    async def style(self, request: Request) -> Response:
        return Response(self.css, media_type="text/css", headers={"cache-control": "max-age=300"})


def of(n: int, what: str) -> str:
    """A number of things: 1 item, 2 items."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def words(name: str) -> str:
    """A name of the program as words: `over_budget`, `late:similar`."""
    return name.replace("_", " ").replace(":", ": ")


def note(name: str) -> str:
    """What a degradation means to a reader."""
    for prefix, text in PREFIXES.items():
        if name not in NOTES and name.startswith(prefix):
            return f"{text}{name.removeprefix(prefix)}."
    return NOTES.get(name, words(name))
