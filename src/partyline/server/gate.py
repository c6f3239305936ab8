"""The perimeter for ASGI: every HTTP request is admitted or refused here before any work is done for it."""

from __future__ import annotations

from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from partyline import log
from partyline.errors import MethodNotAllowed, NotFound, PartylineError
from partyline.metrics import Counters
from partyline.server.answers import SAFETY_HEADERS, answer_error
from partyline.server.asgi import mounted_path
from partyline.trust.perimeter import Perimeter
from partyline.wire.http.head import path_text

_log = log.get("server")


class Gate:
    """Wraps an ASGI application: checks Host and Origin, and puts the peer into the scope as `partyline.peer`.

    `native` says that our own server adds the safety headers (server/shell.py); otherwise they are added here. `pages`
    are the paths that links on other sites may lead to.
    """

    def __init__(
        self,
        app: ASGIApp,
        perimeter: Perimeter,
        counters: Counters,
        *,
        native: bool,
        pages: Collection[str] = frozenset(),
    ) -> None:
        self._app = app
        self._perimeter = perimeter
        self._counters = counters
        self._pages = pages
        self._extra = [] if native else SAFETY_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._extra:
            send = self._with_extra(send)
        client = scope.get("client")
        page = scope["method"] in ("GET", "HEAD") and mounted_path(scope) in self._pages
        try:
            path_text(scope.get("raw_path") or b"")  # servers decode all invalid UTF-8 to the same path
            peer = self._perimeter.admit(
                client[0] if client else "", scope.get("scheme", "http"), scope["headers"], page=page
            )
        except PartylineError as error:
            self._counters.refused += 1
            await answer_error(error, send)
            return
        scope["partyline.peer"] = peer
        scope["app"] = self  # Starlette's router raises 404 and 405 if it finds an application here
        await self._app(scope, receive, send)

    def _with_extra(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._extra]}
            await send(message)

        return sending


class ErrorAnswers:
    """Wraps an ASGI application: every error becomes an answer in our JSON form.

    No stack trace reaches a peer: an unexpected exception is logged and answered with 500.
    """

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        error: PartylineError
        try:
            await self._app(scope, receive, sending)
            return
        except ClientDisconnect:
            return
        except PartylineError as raised:
            self._counters.refused += 1
            if raised.limit is not None:
                self._counters.hit(raised.limit)
            error = raised
        except HTTPException as raised:
            error = _from_starlette(raised)
        except Exception:
            self._counters.errors += 1
            _log.exception("a request failed", method=scope["method"])
            error = PartylineError("the server failed; its log says why, and the request may be tried again")
        if started:
            raise error  # too late for an answer: the server cuts the connection
        await answer_error(error, send)


def _from_starlette(error: HTTPException) -> PartylineError:
    """The refusals of Starlette's router, 404 and 405, as ours."""
    if error.status_code == 405:
        return MethodNotAllowed(
            "this address does not support that method", allow=(error.headers or {}).get("Allow", "GET")
        )
    if error.status_code == 404:
        return NotFound("there is nothing at this address")
    refused = PartylineError(error.detail, code="refused")
    refused.http_status = error.status_code
    return refused
