"""Heads that a connection has seen before.

A client's next request mostly has the same head, but for the query and the length of its body. `Known` is what is
remembered of such a head, so that nothing else of it is looked at again.
"""

from __future__ import annotations

import re
from typing import Final, Self

from msgspec import Struct

from partyline.errors import PartylineError
from partyline.server.exchange import Direct, Exchange
from partyline.trust.perimeter import Peer
from partyline.wire.http.head import Headers

# A query of what RFC 3986 allows in one; the parser judges anything else.
_REQUEST: Final = re.compile(
    rb"((?:GET|POST) /[^\s?#]*)(?:\?([A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*))? HTTP/1\.1\r\n",
)
_LENGTH: Final = re.compile(rb"(?i)(?:\A|\r\n)content-length:[ \t]*([0-9]{1,9})(?=\r\n)")
_END_OF_HEAD: Final = b"\r\n\r\n"


class Request(Struct, frozen=True):
    """A whole request in one read, cut but not looked at."""

    target: bytes  # method and path
    query: bytes
    head: bytes  # what follows the request line
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """None for what does not look like one."""
        line = _REQUEST.match(data)
        end = data.find(_END_OF_HEAD)
        if line is None or end < 0:
            return None
        target, query = line.groups()
        return cls(target, query or b"", data[line.end() : end + 2], data[end + 4 :])


class Known(Struct, frozen=True):
    """A head that was read and admitted: all of it that does not change with the body's length."""

    direct: Direct
    method: str
    parameter: str
    before: bytes
    after: bytes  # with `before`, what stands around the length; empty where there is no body
    headers: Headers
    length_at: int  # the place of Content-Length among the headers; -1: there is none
    peer: Peer
    cors: bytes

    @classmethod
    def of(cls, request: Request, exchange: Exchange) -> Self | None:
        """What is to be remembered of a request that was read the usual way; None where that does not tell its body, or
        where it was refused for what stands in its head."""
        try:
            exchange.check_head()
        except PartylineError:
            return None
        names = [name for name, _ in exchange.headers]
        lengths = _LENGTH.findall(request.head)
        if b"transfer-encoding" in names or not exchange.keep_alive or names.count(b"content-length") != len(lengths):
            return None
        before, after, at = request.head, b"", -1
        if lengths:
            found = _LENGTH.search(request.head)
            if len(lengths) > 1 or found is None or int(lengths[0]) != len(request.body):
                return None
            before, after = request.head[: found.start(1)], request.head[found.end(1) :]
            at = names.index(b"content-length")
        elif request.body:
            return None
        return cls(
            exchange.direct,
            exchange.method,
            exchange.parameter,
            before,
            after,
            exchange.headers,
            at,
            exchange.peer,
            exchange.cors,
        )

    def headers_of(self, request: Request) -> Headers | None:
        """The headers of another request to the same target; None where anything else in them has changed."""
        head, before, after = request.head, self.before, self.after
        if self.length_at < 0:
            return self.headers if head == before and not request.body else None
        length = head[len(before) : len(head) - len(after)]
        if not (head.startswith(before) and head.endswith(after) and length.isdigit() and len(length) < 10):
            return None
        if int(length) != len(request.body):
            return None
        headers = self.headers.copy()
        headers[self.length_at] = (b"content-length", length)
        return headers
