"""One HTTP request that is answered without ASGI: no task, no queue, one write.

For paths with many small requests (polling, publishing). A `Direct` answers them; it is registered with
`site.direct.add(path, direct, "POST")`. `OverAsgi(direct)` goes into the routes: through it the same object serves
under another ASGI server, and answers unusual requests on our own.

A request is answered now or later (after a commit, say), in any of these ways, from the loop's thread:

    exchange.json(payload)                      200 with a JSON body that is encoded already
    exchange.answer(headers, body, status)      anything else
    exchange.refuse(error)                      a PartylineError, in the form that all errors have; counted
    exchange.fail()                             in an `except` block: logged with its trace, answered 500

Only the first answer counts. `Direct.begin` and `Direct.respond` may raise instead; a callback that answers later must
call `refuse` or `fail`. The answers of one turn of the loop leave together at its end: clients that wake up one by one
cost the system more than twice as much.

A client's next request mostly has the same head, except for the query and the length of its body. `Known` remembers
such a head, so that nothing else in it is parsed again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol, Self, TypeAlias

from msgspec import Struct
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from partyline import log
from partyline.errors import PartylineError, PayloadTooLarge, UnsupportedMediaType
from partyline.metrics import Counters
from partyline.server.answers import error_body, error_headers
from partyline.trust.perimeter import Peer
from partyline.wire.http.head import Headers, content_length, path_text

_log = log.get("server")

_LINES: Final = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_JSON: Final = [(b"content-type", b"application/json")]


class Direct(Protocol):
    """Answers the exchanges of one path."""

    max_body: int  # bytes
    body_setting: str  # the setting that `max_body` comes from, which a refusal names and counts

    def begin(self, exchange: Exchange) -> None:
        """The head has come and passed the perimeter; the body may still be on its way.

        The place to authenticate and to check headers: a PartylineError raised here refuses the request before its body
        is read. Must not answer.
        """

    def respond(self, exchange: Exchange) -> None:
        """The whole request has come. Answer it now or later; raise a PartylineError to refuse it."""


class _Path(Struct, frozen=True):
    before: bytes
    after: bytes
    direct: Direct
    methods: frozenset[bytes]


class Paths:
    """Which `Direct` answers at which path. Requests with other than the registered methods go to the router."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self) -> None:
        self._exact: dict[bytes, _Path] = {}
        self._patterns: list[_Path] = []

    def __contains__(self, path: str) -> bool:
        return path.encode("ascii") in self._exact

    def add(self, path: str, direct: Direct, *methods: str) -> None:
        """Let `direct` answer requests to `path` with one of `methods`; without methods, with any.

        One segment may be a parameter: `/v1/topics/{topic}/messages`. It comes as `exchange.parameter`, decoded.
        """
        before, brace, rest = path.encode("ascii").partition(b"{")
        added = _Path(before, rest.partition(b"}")[2], direct, frozenset(method.encode("ascii") for method in methods))
        if brace:
            self._patterns.append(added)
        else:
            self._exact[before] = added

    def find(self, method: bytes, path: bytes) -> tuple[Direct, str] | None:
        """The `Direct` for a raw `path`, and the parameter in it. Raises MalformedRequest if it is not UTF-8."""
        found = self._exact.get(path)
        if found is not None:
            return (found.direct, "") if not found.methods or method in found.methods else None
        for one in self._patterns:
            before, after = one.before, one.after
            if path.startswith(before) and path.endswith(after) and len(path) > len(before) + len(after):
                parameter = path_text(path[len(before) : len(path) - len(after)])
                if "/" not in parameter and (not one.methods or method in one.methods):
                    return one.direct, parameter
        return None


class Answering(Protocol):
    """What an exchange needs of the connection that it came by."""

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None: ...

    def count_refusal(self, error: PartylineError) -> None: ...

    def count_failure(self) -> None: ...


class Exchange:
    """A request and its answer. `parameter` comes from the path, `query` is raw, header names are in lower case.

    `gone`, if set, is called once if the client goes away before it is answered. A client that has ended its side then
    counts as gone, unless the answer is `due`: that will come, whatever others do.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_size",
        "answered",
        "context",
        "cors",
        "direct",
        "disconnected",
        "due",
        "failed",
        "gone",
        "headers",
        "keep_alive",
        "method",
        "mounted",
        "parameter",
        "peer",
        "query",
        "whole",
    )

    def __init__(
        self,
        connection: Answering,
        direct: Direct,
        method: str,
        parameter: str,
        query: bytes,
        headers: Headers,
        peer: Peer,
        cors: bytes = b"",
        *,
        keep_alive: bool = True,
    ) -> None:
        self._connection = connection
        self._body: list[bytes] = []
        self._size = 0
        self.direct = direct
        self.method = method
        self.parameter = parameter
        self.query = query
        self.headers = headers
        self.peer = peer
        self.cors = cors  # lines of the answer's head
        self.keep_alive = keep_alive
        self.context: Any = None  # from `Direct.begin` for `respond`
        self.mounted = ""  # the path that we are mounted at, under another ASGI server
        self.answered = False
        self.failed = False
        self.disconnected = False
        self.due = False
        self.gone: Callable[[], None] | None = None
        self.whole = b""  # the answer as its connection writes it

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name, which is in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def text(self, name: bytes) -> str | None:
        """The same as text, decoded as Latin-1."""
        value = self.header(name)
        return None if value is None else value.decode("latin-1")

    @property
    def body(self) -> bytes:
        return b"".join(self._body)

    def check_head(self) -> None:
        """Raises PayloadTooLarge or UnsupportedMediaType if the head announces such a body."""
        for name, value in self.headers:
            if name == b"content-length" and content_length(value) > self.direct.max_body:
                raise too_large(self.direct)
            if name == b"content-encoding":
                check_coding(value)

    def take(self, piece: bytes) -> None:
        """A piece of the body has come. Raises PayloadTooLarge."""
        if self.answered:
            return
        self._size += len(piece)
        if self._size > self.direct.max_body:
            raise too_large(self.direct)
        self._body.append(piece)

    @property
    def backlog(self) -> int:
        """Nothing waits here: `max_body` bounds what is held."""
        return 0

    @property
    def watched(self) -> bool:
        """Whether it waits for something that may never come, and a callback is set for the client's going away."""
        return self.gone is not None and not self.due

    # Answers

    def json(self, payload: bytes, status: int = 200) -> None:
        """Answer with a JSON text."""
        self.answer(_JSON, payload, status)

    def answer(self, headers: Headers, body: bytes, status: int = 200) -> None:
        """Answer, at the end of this turn of the loop. Does nothing if the client has gone or has been answered."""
        if not self.disconnected and not self.answered:
            self.answered = True
            self.failed = status >= 400
            self.gone = None
            self._connection.send_answer(self, status, headers, body)

    def refuse(self, error: PartylineError) -> None:
        """Answer with an error in its form, and count it."""
        if not self.disconnected and not self.answered:
            self._connection.count_refusal(error)
            self._refuse(error)

    def fail(self) -> None:
        """Answer that the server failed, and log the exception that is being handled."""
        self._connection.count_failure()
        _log.exception("a request failed", method=self.method)
        self._refuse(PartylineError("the server failed; its log says why, and the request may be tried again"))

    def _refuse(self, error: PartylineError) -> None:
        body = error_body(error)
        headers = [pair for pair in error_headers(error, body) if pair[0] not in (b"content-length", b"connection")]
        if dict(error.headers()).get("connection") == "close":
            self.keep_alive = False
        self.answer(headers, body, error.http_status)

    def respond(self) -> None:
        """The whole body has come: have the request answered."""
        if self.answered:
            return  # refused before
        try:
            self.direct.respond(self)
        except PartylineError as error:
            self.refuse(error)
        except Exception:
            self.fail()

    def lost(self) -> None:
        """The client has gone."""
        self.disconnected = True
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()


def head_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as bytes of an answer."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def check_json(content_type: str) -> None:
    """Raises UnsupportedMediaType for a body that is not declared as JSON."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        said = f"is {content_type[:60]!r}" if content_type else "does not say what it is"
        raise UnsupportedMediaType(
            f"the body must be application/json, but this one {said}: send Content-Type: application/json"
        )


def check_coding(value: bytes) -> None:
    """Raises UnsupportedMediaType for a Content-Encoding: the inflated size could not be bounded here."""
    if value.strip().lower() not in (b"", b"identity"):
        raise UnsupportedMediaType("bodies are not decoded here: send this one without a Content-Encoding")


def too_large(direct: Direct) -> PayloadTooLarge:
    limit, setting = direct.max_body, direct.body_setting
    return PayloadTooLarge(f"the body is larger than {limit} bytes ({setting})", limit=setting)


class OverAsgi:
    """A `Direct` as an ASGI application that the gate guards, for `Route(path, OverAsgi(direct, counters))`."""

    def __init__(self, direct: Direct, counters: Counters) -> None:
        self._direct = direct
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        there = _OverAsgi(self._counters)
        parameter = next(iter(scope.get("path_params", {}).values()), "")
        exchange = Exchange(
            there,
            self._direct,
            scope["method"],
            parameter,
            scope["query_string"],
            scope["headers"],
            scope["partyline.peer"],
        )
        exchange.mounted = scope.get("root_path", "")
        self._direct.begin(exchange)
        exchange.check_head()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            exchange.take(message.get("body", b""))
            more = message.get("more_body", False)
        self._direct.respond(exchange)
        if not there.answer.done():
            await _until_answered(exchange, there.answer, receive)
        if exchange.disconnected:
            return
        status, headers, body = there.answer.result()
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if exchange.method == "HEAD" else body})


async def _until_answered(exchange: Exchange, answer: asyncio.Future[_Answer], receive: Receive) -> None:
    """Return when the exchange is answered, or its client has gone."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.wait((answer, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        if not answer.done():
            exchange.lost()


class _OverAsgi:
    """The connection of an exchange that came by ASGI."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        self.answer.set_result((status, headers, body))

    def count_refusal(self, error: PartylineError) -> None:
        self._counters.refuse(error)

    def count_failure(self) -> None:
        self._counters.errors += 1


_Answer: TypeAlias = tuple[int, Headers, bytes]


# Heads that a connection has seen before

# The target (method and path), and a query of the characters that RFC 3986 allows; the parser judges anything else.
REQUEST_LINE: Final = re.compile(
    rb"((?:GET|POST) /[!-\"$->@-~]*)(?:\?([A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*))? HTTP/1\.1\r\n",
)
_LENGTH: Final = re.compile(rb"(?i)(?:\A|\r\n)content-length:[ \t]*([0-9]{1,9})(?=\r\n)")
_END_OF_HEAD: Final = b"\r\n\r\n"


class Known(Struct, frozen=True):
    """A head that was parsed and admitted: the parts that do not depend on the body's length."""

    direct: Direct
    method: str
    parameter: str
    before: bytes  # the head from the end of the request line to its own end, or to the body's length
    after: bytes  # the rest of it; empty if there is no body
    headers: Headers
    length_at: int  # the place of Content-Length among the headers; -1: there is none
    peer: Peer
    cors: bytes

    @classmethod
    def of(cls, data: bytes, begin: int, exchange: Exchange) -> Self | None:
        """What to remember of `data`, a whole request whose request line ends at `begin`, which became `exchange`.

        None if its head does not give the body's length, or was refused.
        """
        end = data.find(_END_OF_HEAD, begin - 2) + 4
        if end < 4 or exchange.failed or not exchange.keep_alive:
            return None
        length_at = -1
        for place, (name, _) in enumerate(exchange.headers):
            if name == b"transfer-encoding" or (name == b"content-length" and length_at >= 0):
                return None
            if name == b"content-length":
                length_at = place
        before, after = data[begin:end], b""
        if length_at >= 0:
            found = _LENGTH.search(before)
            if found is None or int(found[1]) != len(data) - end:
                return None
            before, after = before[: found.start(1)], before[found.end(1) :]
        elif end != len(data):
            return None
        return cls(
            exchange.direct,
            exchange.method,
            exchange.parameter,
            before,
            after,
            exchange.headers,
            length_at,
            exchange.peer,
            exchange.cors,
        )

    def read(self, data: bytes, begin: int) -> tuple[Headers, bytes] | None:
        """Headers and body of a request to the same target whose request line ends at `begin`; None if anything but the
        body's length has changed in its head."""
        if self.length_at < 0:
            return (self.headers, b"") if data[begin:] == self.before else None
        if not data.startswith(self.before, begin):
            return None
        begin += len(self.before)
        end = data.find(b"\r", begin, begin + 10)
        length = data[begin:end]
        if end < 0 or not length.isdigit() or not data.startswith(self.after, end):
            return None
        body = data[end + len(self.after) :]
        if int(length) != len(body):
            return None
        headers = self.headers.copy()
        headers[self.length_at] = (b"content-length", length)
        return headers, body
