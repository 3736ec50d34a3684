"""HTTP in front of an engine: JSON in, JSON out, every error typed, every answer bounded.

Without an API key the server speaks to this machine alone: it refuses other hosts' names and other sites' pages.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
import msgspec
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shortlist.config import nearest
from shortlist.errors import ConfigError, RequestError, ShortlistError
from shortlist.serving import openapi, wire
from shortlist.serving.engine import Engine
from shortlist.serving.refusals import (
    BadJsonError,
    ForbiddenError,
    LateError,
    OverloadedError,
    TooLargeError,
    UnauthorizedError,
)

__all__ = ["application", "check_host", "in_thread", "path_id"]

LOG = logging.getLogger("shortlist.serving")
T = TypeVar("T")
THREADS = 64
WAITING = 512  # calls that may wait for a thread; more are told to come back
BODY_S = 10.0
SLOW_S = 30.0  # explain, channels: not on a visitor's path
OPEN = ("/health/live", "/health/ready")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
ENCODER = msgspec.json.Encoder()


def application(
    engine: Engine,
    *,
    api_key: str | None = None,
    routes: Sequence[BaseRoute] = (),
    background: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Starlette:
    """The ASGI app. `routes` are further pages; `background` runs as long as the app does."""
    handlers = _Handlers(engine)
    own = [
        Route(call.path, partial(handlers.answer, call), methods=[call.method], name=call.name)
        for call in openapi.CALLS
    ]
    text = ENCODER.encode(openapi.document())
    page = openapi.page()
    own.append(Route("/openapi.json", lambda request: Response(text, media_type="application/json")))
    own.append(Route("/docs", lambda request: HTMLResponse(page)))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with background():
            yield

    app = Starlette(
        routes=[*own, *routes],
        lifespan=lifespan,
        exception_handlers={
            ShortlistError: _refuse,
            HTTPException: _refuse,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )
    app.state.engine = engine
    app.add_middleware(_Door, api_key=api_key)
    app.add_middleware(_Measured, engine=engine, app_routes=app.routes)
    return app


def check_host(host: str, api_key: str | None) -> None:
    """Raises ConfigError when a server without an API key would be reachable from other machines."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not api_key:
        what = f"{host!r} can be reached from other machines, and no API key is set"
        raise ConfigError(what, where="serve.host", hint="set SHORTLIST_API_KEY, or serve on 127.0.0.1")


# ---------------------------------------------------------------------------------------------- calls


class _Handlers:
    """Each call of the table: body or path in, struct out."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.limit = engine.config.max_body_bytes
        self.threads: anyio.CapacityLimiter | None = None
        self.deadline_s = engine.config.deadline_ms / 1000.0

    async def answer(self, call: openapi.Call, request: Request) -> Response:
        _no_query(call, request)
        answer = await getattr(self, f"_{call.name}")(request)
        if isinstance(answer, Response):
            return answer
        return _json(answer, call.status)

    async def _recommend(self, request: Request) -> wire.Answer:
        asked = wire.decode(await self._body(request), wire.Recommend)
        return await self._slate({f: getattr(asked, f) for f in asked.__struct_fields__})

    async def _recommend_user(self, request: Request) -> wire.Answer:
        table: dict[str, Any] = {}
        context: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if name.startswith("context."):
                context[name.removeprefix("context.")] = value
            elif name == "exclude":
                table.setdefault(name, []).append(value)
            else:
                table[name] = value
        asked = wire.convert(table, openapi.RecommendQuery, "query")
        fields = {f: getattr(asked, f) for f in asked.__struct_fields__}
        return await self._slate({**fields, "user": path_id(request, "user"), "context": context})

    async def _slate(self, fields: dict[str, Any]) -> wire.Answer:
        # The engine answers by its own deadline; the second bound is for the case that it cannot even do that.
        return await self._work(2 * self.deadline_s + 1.0, lambda: self.engine.recommend(**fields))

    async def _similar(self, request: Request) -> wire.SimilarAnswer:
        asked = wire.decode(await self._body(request), wire.Similar)
        return await self._work(SLOW_S, lambda: self.engine.similar(asked.items, asked.n, asked.channel))

    async def _events(self, request: Request) -> Response:
        batch = wire.decode_events(await self._body(request))
        receipt = await self._work(SLOW_S, lambda: self.engine.events(batch))
        if receipt.accepted + receipt.duplicates:
            return _json(receipt, 202)
        first = receipt.refused[0]
        fault = wire.Fault("request", "no event of the batch was accepted", f"events[{first.index}]", first.reason)
        return _json(wire.Failure(fault, receipt.refused), 422)

    async def _explain(self, request: Request) -> wire.Explanation:
        asked = wire.decode(await self._body(request), wire.Explain)
        work = partial(self.engine.explain, asked.user, asked.item, asked.scene, asked.n, asked.request_id)
        return await self._work(SLOW_S, work)

    async def _trace(self, request: Request) -> wire.Trace:
        request_id = path_id(request, "request_id")
        return await self._work(SLOW_S, lambda: self.engine.trace(request_id))

    async def _channels(self, request: Request) -> wire.Channels:
        return self.engine.channels()

    async def _channel(self, request: Request) -> wire.ChannelAnswer:
        asked = wire.decode(await self._body(request), wire.RunChannel)
        work = partial(self.engine.channel, path_id(request, "name"), asked.user, asked.n, asked.scene, asked.context)
        return await self._work(SLOW_S, work)

    async def _releases(self, request: Request) -> wire.ReleaseList:
        return await self._work(SLOW_S, self.engine.list_releases)

    async def _live(self, request: Request) -> wire.Health:
        return wire.Health("live")

    async def _ready(self, request: Request) -> Response:
        health = wire.Health(
            "ready" if self.engine.ready else "loading",
            self.engine.live.id if self.engine.ready else None,
            self.engine.refused,
            self.engine.trouble,
        )
        return _json(health, 200 if self.engine.ready else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.engine.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _body(self, request: Request) -> bytes:
        """The body, at most `limit` bytes, within BODY_S."""
        hint = f"send at most {self.limit} bytes"
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limit:
            raise TooLargeError(f"the body has {length[:20]} bytes", where="body", hint=hint)
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limit:
                        raise TooLargeError(f"the body has more than {self.limit} bytes", where="body", hint=hint)
                    parts.append(part)
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {BODY_S:g} s") from None
        return b"".join(parts)

    async def _work(self, seconds: float, work: Callable[[], T]) -> T:
        if self.threads is None:
            self.threads = anyio.CapacityLimiter(THREADS)
        return await in_thread(seconds, work, self.threads)


async def in_thread(seconds: float, work: Callable[[], T], threads: anyio.CapacityLimiter) -> T:
    """Blocking work off the event loop. Raises LateError after `seconds`, OverloadedError when too much waits."""
    if threads.statistics().tasks_waiting >= WAITING:
        raise OverloadedError(f"{WAITING} calls wait already", where="server", hint="come back in a second")
    try:
        with anyio.fail_after(seconds):
            return await run_sync(work, abandon_on_cancel=True, limiter=threads)
    except TimeoutError:
        raise LateError(f"not done within {seconds:g} s", where="server", hint="try again") from None


def path_id(request: Request, name: str) -> str:
    """A percent-encoded part of the path as text. Raises BadJsonError when it is not UTF-8."""
    try:
        text = unquote_to_bytes(request.path_params[name].encode("latin-1")).decode()
    except UnicodeError:
        raise BadJsonError("not UTF-8", where=f"path {name}", hint="percent-encode ids as UTF-8") from None
    return wire.identifier(text, f"path {name}")


def _no_query(call: openapi.Call, request: Request) -> None:
    if call.query is None and request.query_params:
        name = next(iter(request.query_params))
        raise RequestError(f"unknown parameter {name!r}", where="query", hint=nearest(name, ()))


# ---------------------------------------------------------------------------------------------- answers


def _json(value: Any, status: int = 200) -> Response:
    return Response(ENCODER.encode(value), status, HEADERS, "application/json")


def _failure(code: str, message: str, where: str, hint: str, status: int) -> Response:
    response = _json(wire.Failure(wire.Fault(code, message, where, hint)), status)
    if status == 503:
        response.headers["retry-after"] = "1"
    if status == 401:
        response.headers["www-authenticate"] = 'Basic realm="shortlist", charset="UTF-8"'
    return response


def _refuse(request: Request, error: Exception) -> Response:
    """A typed error, or one of routing."""
    if isinstance(error, ShortlistError):
        return _failure(error.code, error.what, error.where, error.hint, openapi.STATUS.get(error.code, 500))
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404:
        hint = nearest(path, [call.path for call in openapi.CALLS])
        return _failure("not_found", "no such page", path, f"{hint} See /docs", 404)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _failure("method", f"{request.method} is not possible here", path, f"use {allowed}; see /docs", 405)
    code = next((c for c, status in openapi.STATUS.items() if status == error.status_code), "request")
    return _failure(code, str(error.detail), path, "see /docs", error.status_code)


def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def _broken(request: Request, error: Exception) -> Response:
    """A mistake of ours. Starlette logs the traceback after this answer."""
    return _failure(
        "internal",
        "something is wrong here",
        request.scope["path"],
        "it is in the server's log",
        openapi.STATUS["internal"],
    )


# ---------------------------------------------------------------------------------------------- middleware


class _Door:
    """Who may come in: with an API key those who know it, without one this machine alone.

    Also lets routes see the path as it was sent, so that an encoded slash stays part of its id.
    """

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self.app = app
        self.key = api_key.encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal is not None:
            await _refuse(request, refusal)(scope, receive, send)
            return
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        await self.app({**scope, "path": raw.split(b"?", 1)[0].decode("latin-1")}, receive, send)

    def _refusal(self, request: Request) -> ShortlistError | None:
        if request.scope["path"] in OPEN:
            return None
        if self.key is not None:
            if any(hmac.compare_digest(given, self.key) for given in _keys(request)):
                return None
            hint = "send Authorization: Bearer KEY, or the key as a password"
            return UnauthorizedError("an API key is needed", where="authorization", hint=hint)
        host = _host(request.headers.get("host", ""))
        if host not in LOOPBACK_NAMES:
            hint = "set SHORTLIST_API_KEY to serve other names"
            return ForbiddenError(f"without an API key the host is localhost, not {host!r}", where="host", hint=hint)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return ForbiddenError(
                f"a page of {origin!r} may not call this server", where="origin", hint="set SHORTLIST_API_KEY"
            )
        return None


def _keys(request: Request) -> list[bytes]:
    """What the caller gives as a key: a bearer token, a header of its own, or the password of a browser's login."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    found = [request.headers.get("x-api-key", "").encode("latin-1")]
    if kind.lower() == "bearer":
        found.append(value.strip().encode("latin-1"))
    elif kind.lower() == "basic":
        try:
            found.append(base64.b64decode(value, validate=True).partition(b":")[2])
        except (binascii.Error, ValueError):
            LOG.debug("a login that is not base64")
    return found


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class _Measured:
    """Counts and times every call under its route's pattern; ids never become label values."""

    def __init__(self, app: ASGIApp, engine: Engine, app_routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.meters = engine.meters
        self.routes = app_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.meters.http(self._route(scope), status, time.perf_counter() - started)

    def _route(self, scope: Scope) -> str:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        asked = {**scope, "path": raw.split(b"?", 1)[0].decode("latin-1")}
        for route in self.routes:
            if route.matches(asked)[0] is not Match.NONE:
                return str(getattr(route, "path", "other"))
        return "other"
