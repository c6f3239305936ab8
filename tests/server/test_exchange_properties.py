"""Known heads: whatever is taken for another request with the same head is what the parser would have read."""

from __future__ import annotations

from typing import Any, cast

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.server.exchange import REQUEST_LINE, Direct, Exchange, Known
from partyline.trust.perimeter import Peer

PEER = Peer("127.0.0.1", "http", "localhost")

names = st.sampled_from(["Host", "X-One", "Content-Type", "Cookie", "accept", "X-Content-Length"])
values = st.text(st.sampled_from("abc 0189;,:=\t"), max_size=12).map(str.strip)
bodies = st.binary(max_size=12)

LINES = [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"]
TAMPERED = [*LINES, b"\r\n", *(bytes((byte,)) for byte in b"\r\n \0019#?x+-\xff"), b""]


class Read:
    """What httptools makes of one request."""

    def __init__(self, data: bytes) -> None:
        self.url, self.headers, self.body, self.complete = b"", list[tuple[bytes, bytes]](), b"", 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method().decode()
        self.keep_alive = parser.get_http_version() == "1.1" and parser.should_keep_alive()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1

    @property
    def query(self) -> bytes:
        return cast("bytes", httptools.parse_url(self.url).query or b"")


def written(
    method: str, query: bytes, headers: list[tuple[str, str]], body: bytes, length: object = None, place: int = 0
) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if method == "POST":
        lines.insert(place, f"Content-Length: {len(body) if length is None else length}\r\n")
    return method.encode() + b" /path/?" + query + b" HTTP/1.1\r\n" + "".join(lines).encode() + b"\r\n" + body


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request, and another one that is like it or has been tampered with in one way."""
    method = draw(st.sampled_from(["GET", "POST"]))
    headers = draw(st.lists(st.tuples(names, values), max_size=4))
    body, other = (draw(bodies), draw(bodies)) if method == "POST" else (b"", b"")
    place, way = draw(st.integers(0, len(headers))), draw(st.sampled_from(["query", "length", "header", "bytes"]))
    first = written(method, b"a=1", headers, body, place=place)
    query = draw(st.sampled_from([b"a=1", b"b=2&t=x", b"", b"q=%20+", b"a b", b"a#b", b"\xff"]))
    length, others = None, list(headers)
    if way == "length":
        length = draw(st.sampled_from([len(other) + 1, max(0, len(other) - 1), f"0{len(other)}", f"+{len(other)}", ""]))
    elif way == "header" and others:
        others[draw(st.integers(0, len(others) - 1))] = draw(st.tuples(names, values))
    second = written(method, query, others, other, length, place)
    if way == "bytes":
        at, cut = draw(st.integers(0, len(second))), draw(st.integers(0, 2))
        second = second[:at] + draw(st.sampled_from(TAMPERED)) + second[at + cut :]
    return first, second


class Anything:
    """A `Direct` that takes every body."""

    max_body = 1 << 30


def known_of(data: bytes) -> Known | None:
    line, read = REQUEST_LINE.match(data), Read(data)
    if line is None or read.complete != 1:
        return None
    # As server/http.py does it, from what it looks at.
    exchange = Exchange(
        cast("Any", None),
        cast("Direct", Anything),
        read.method,
        "",
        read.query,
        read.headers,
        PEER,
        keep_alive=read.keep_alive,
    )
    return Known.of(data, line.end(), exchange)


@settings(max_examples=max(300, settings.default.max_examples if settings.default else 0))
@given(pairs())
def test_what_is_known_is_what_the_parser_reads(pair: tuple[bytes, bytes]) -> None:
    """If a request is taken by a known head, the parser reads exactly one request in it: the same method, query,
    headers and body."""
    first, second = pair
    known, line = known_of(first), REQUEST_LINE.match(second)
    if known is None or line is None or not first.startswith(line[1]):
        return
    found = known.read(second, line.end())
    if found is None:
        return
    read = Read(second)
    assert read.complete == 1
    assert (read.method, read.query, read.headers, read.body) == (known.method, line[2] or b"", *found)
    assert read.keep_alive


@given(st.sampled_from(["GET", "POST"]), st.lists(st.tuples(names, values), max_size=4), bodies, bodies)
def test_the_same_head_is_known(method: str, headers: list[tuple[str, str]], one: bytes, other: bytes) -> None:
    """A second request that differs only in query and body is taken."""
    if method == "GET":
        one = other = b""
    second = written(method, b"b", headers, other)
    known, line = known_of(written(method, b"a", headers, one)), REQUEST_LINE.match(second)
    assert known is not None
    assert line is not None
    assert known.read(second, line.end()) is not None
