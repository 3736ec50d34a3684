"""The API as one table: routes are built from it, and so is its OpenAPI description, so the two cannot differ."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shortlist import __version__
from shortlist.serving import wire

__all__ = ["Call", "CALLS", "STATUS", "document", "page"]

PREFIX = "#/components/schemas/{name}"
STATUS = {
    "bad_json": 400, "unauthorized": 401, "forbidden": 403, "not_found": 404, "method": 405, "timeout": 408,
    "too_large": 413, "request": 422, "config": 422, "error": 500, "internal": 500, "process": 500,
    "data": 503, "artifact": 503, "capacity": 503, "not_ready": 503, "deadline": 503, "overloaded": 503,
}  # of an error's code  # fmt: skip
WORDS = {
    400: "cannot be read",
    401: "an API key is needed",
    403: "not from this host or page without an API key",
    404: "does not exist",
    405: "not possible here",
    408: "the body did not arrive in time",
    413: "the body is too large",
    422: "does not fit",
    500: "something is wrong in the server",
    503: "not ready, late or overloaded",
}


@dataclass(frozen=True)
class Call:
    """One call: `name` finds its handler; `body` and `answer` are structs, an answer of None is text."""

    name: str
    method: str
    path: str
    summary: str
    answer: Any
    body: Any = None
    query: Any = None
    status: int = 200


class RecommendQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`exclude` may be repeated; context goes as `context.NAME=value`."""

    n: int | None = None
    scene: str | None = None
    exclude: list[str] = msgspec.field(default_factory=list)
    filter: str | None = None
    debug: bool = False


CALLS: tuple[Call, ...] = (
    Call("recommend", "POST", "/v1/recommend", "A slate for a user", wire.Answer, wire.Recommend),
    Call("recommend_user", "GET", "/v1/recommend/{user}", "A slate for a user", wire.Answer, query=RecommendQuery),
    Call("similar", "POST", "/v1/similar", "Items like these", wire.SimilarAnswer, wire.Similar),
    Call(
        "events",
        "POST",
        "/v1/events",
        "Tell what happened; answered once it is on disk",
        wire.Receipt,
        wire.Events,
        None,
        202,
    ),
    Call("explain", "POST", "/v1/explain", "Why an item is, or is not, on a page", wire.Explanation, wire.Explain),
    Call("trace", "GET", "/v1/trace/{request_id}", "The whole funnel of a request", wire.Trace),
    Call("channels", "GET", "/v1/channels", "Recall channels of the release", wire.Channels),
    Call("channel", "POST", "/v1/channels/{name}", "Run one channel alone", wire.ChannelAnswer, wire.RunChannel),
    Call("releases", "GET", "/v1/releases", "Releases on disk, newest first", wire.ReleaseList),
    Call("live", "GET", "/health/live", "The process answers", wire.Health),
    Call("ready", "GET", "/health/ready", "A release is loaded and warm (else 503)", wire.Health),
    Call("metrics", "GET", "/metrics", "Prometheus metrics", None),
)


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = [kind for call in CALLS for kind in (call.body, call.answer) if kind is not None]
    queries = [call.query for call in CALLS if call.query is not None]
    _, schemas = msgspec.json.schema_components([*kinds, *queries, wire.Failure], ref_template=PREFIX)
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, schemas)
    for kind in queries:
        schemas.pop(kind.__name__)
    return {
        "openapi": "3.1.0",
        "info": {"title": "shortlist", "version": __version__, "description": "Slates, and the reasons for them."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    failure = _json(wire.Failure)
    answer = (
        {"content": _json(call.answer)} if call.answer else {"content": {"text/plain": {"schema": {"type": "string"}}}}
    )
    answers: dict[str, Any] = {str(call.status): {"description": call.summary, **answer}}
    answers |= {
        str(status): {"description": WORDS[status], "content": failure} for status in sorted({*STATUS.values()})
    }
    if call.name == "ready":
        answers["503"] = {"description": "not ready", "content": _json(wire.Health)}
    out: dict[str, Any] = {"operationId": call.name, "summary": call.summary, "responses": answers}
    if call.body is not None:
        out["requestBody"] = {"required": True, "content": _json(call.body)}
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in call.path.split("/")
        if part.startswith("{")
    ]
    if call.query is not None:
        fields = schemas[call.query.__name__]["properties"]
        parameters += [{"name": name, "in": "query", "required": False, "schema": s} for name, s in fields.items()]
    return out | ({"parameters": parameters} if parameters else {})


def _json(kind: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": PREFIX.format(name=kind.__name__)}}}


# ---------------------------------------------------------------------------------------------- the page

STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--soft:#5b6573;--line:#e3e6ea;--back:#fbfbfa;--card:#fff;--accent:#1f6f5c}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa5b1;--line:#2d343c;--back:#14181c;--card:#1b2025;--accent:#6cc5ac}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:56rem;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.6rem}h2{font-size:1.05rem;margin:0}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.2rem;margin:0 0 1rem}
code{font:.9em ui-monospace,monospace}.verb{color:var(--accent);font-weight:600}p{margin:.35rem 0}
.soft{color:var(--soft)}table{border-collapse:collapse;width:100%;margin:.5rem 0}
td,th{text-align:left;padding:.3rem .6rem .3rem 0;vertical-align:top}
tr+tr{border-top:1px solid var(--line)}.wide{overflow-x:auto}a{color:var(--accent)}
"""


def page() -> str:
    """The API for reading: no script, nothing fetched."""
    found = document()
    schemas = found["components"]["schemas"]
    calls = "".join(
        _section(path, verb, call) for path, verbs in found["paths"].items() for verb, call in verbs.items()
    )
    kinds = "".join(_kind(name, schema) for name, schema in sorted(schemas.items()))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>shortlist API</title><style>{STYLE}</style></head><body><main><h1>shortlist API</h1>"
        "<p>JSON in, JSON out. Ids are any text of 1 to 256 bytes, percent-encoded in paths. Errors are "
        "<code>{error: {code, message, where, hint}}</code>. "
        "The same as a document: <a href=/openapi.json>openapi.json</a>. <a href=/>Dashboard</a></p>"
        f"{calls}<h1>Types</h1>{kinds}</main></body></html>"
    )


def _section(path: str, verb: str, call: dict[str, Any]) -> str:
    status = next(iter(call["responses"]))
    lines = []
    if "requestBody" in call:
        lines.append(f"<p>takes {_link(call['requestBody']['content'])}</p>")
    for parameter in call.get("parameters", ()):
        text = f"{parameter['name']} ({parameter['in']}): {_type(parameter['schema'])}"
        lines.append(f"<p class=soft><code>{text}</code></p>")
    lines.append(f"<p>answers {status} {_link(call['responses'][status]['content'])}</p>")
    head = f"<h2><span class=verb>{verb.upper()}</span> <code>{html.escape(path)}</code></h2>"
    return f"<section>{head}<p>{html.escape(call['summary'])}</p>{''.join(lines)}</section>"


def _link(content: dict[str, Any]) -> str:
    if "application/json" not in content:
        return "text"
    return _type(content["application/json"]["schema"])


def _kind(name: str, schema: dict[str, Any]) -> str:
    rows = []
    for field, kind in schema.get("properties", {}).items():
        optional = "" if field in schema.get("required", ()) else " <span class=soft>optional</span>"
        rows.append(f"<tr><td><code>{html.escape(field)}</code>{optional}</td><td><code>{_type(kind)}</code></td></tr>")
    about = html.escape(" ".join(schema.get("description", "").split()))
    table = f"<div class=wide><table>{''.join(rows)}</table></div>"
    return f"<section id={name}><h2>{name}</h2><p class=soft>{about}</p>{table}</section>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"<a href=#{name}>{name}</a>"
    parts: Sequence[dict[str, Any]] = schema.get("anyOf", ())
    if parts:
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"table of {_type(inner)}" if isinstance(inner, dict) else "table"
    return html.escape(str(schema.get("type", "anything")))
