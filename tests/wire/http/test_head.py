"""Request heads: one reading, however the bytes are cut, and nothing that can be read in two ways."""

from __future__ import annotations

import gc
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import HeadTooLarge, MalformedRequest
from partyline.wire.http.head import CHUNKED, Head, HeadReader, complete_lines, path_text

HOST = b"127.0.0.1:8000"


def read(*pieces: bytes, most: int = 32_768, headers: int = 100) -> tuple[Head | None, bytes]:
    """The head in these bytes, and what follows it."""
    reader, data = HeadReader(most, headers), bytearray()
    for number, piece in enumerate(pieces):
        data += piece
        if size := reader.feed(data):
            return reader.head(lambda: HOST), bytes(data[size:]) + b"".join(pieces[number + 1 :])
    return None, bytes(data)


def head(lines: bytes) -> Head:
    found, rest = read(lines.replace(b"\n", b"\r\n") + b"\r\n")
    assert rest == b""
    assert found is not None
    return found


TARGETS = {
    b"/": (b"/", b"", None),
    b"/a%20b?c=d?e": (b"/a%20b", b"c=d?e", None),
    b"//evil.example/x": (b"//evil.example/x", b"", None),
    b"/a#b": (b"/a", b"", None),
    b"*": (b"*", b"", None),
    b"http://one.example": (b"/", b"", b"one.example"),
    b"HTTP://one.example:80/a?b": (b"/a", b"b", b"one.example:80"),
    b"https://[::1]:8000/a": (b"/a", b"", b"[::1]:8000"),
}


@pytest.mark.parametrize("target", TARGETS)
def test_targets(target: bytes) -> None:
    """Path and query of each form of a target; the authority of an absolute one replaces Host (RFC 9112 3.2)."""
    path, query, authority = TARGETS[target]
    found = head(b"OPTIONS " + target + b" HTTP/1.1\nHost: two.example\n")
    assert (found.path, found.query) == (path, query)
    assert found.headers == [(b"host", authority or b"two.example")]


@pytest.mark.parametrize(
    "target",
    [
        *(b"ftp://one.example/", b"http://u@one.example/", b"http://one.example:65536/", b"one.example", b"http:///a"),
        *(b"http://one.example:" + digit * 5_000 + b"/" for digit in (b"0", b"9")),  # more than Python reads
    ],
)
def test_targets_that_are_refused(target: bytes) -> None:
    """A target that is not a URL of a server, names a user or has an impossible port is malformed."""
    with pytest.raises(MalformedRequest):
        head(b"GET " + target + b" HTTP/1.1\nHost: two.example\n")


def test_a_request_of_http_1_0_without_host() -> None:
    """A request of HTTP/1.0 without Host gets the address at which it arrived; one with Host keeps it; one of HTTP/1.1
    gets none."""
    found = head(b"GET / HTTP/1.0\n")
    assert (found.hostless, found.headers, found.keep_alive) == (True, [(b"host", HOST)], False)
    found = head(b"GET / HTTP/1.0\nHost: x\n")
    assert (found.hostless, found.headers) == (False, [(b"host", b"x")])
    assert head(b"GET / HTTP/1.1\nX: 1\n").headers == [(b"x", b"1")]
    two = head(b"GET http://one.example/ HTTP/1.1\nHost: x\nHost: y\n")
    assert [value for _, value in two.headers] == [b"x", b"y"], "two Hosts stay two, and are refused"


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (b"", 0),
        (b"Content-Length: 0\n", 0),
        (b"Content-Length: 007\n", 7),
        (b"Transfer-Encoding: Chunked\n", CHUNKED),
    ],
)
def test_lengths(lines: bytes, length: int) -> None:
    """The length of a body is what the head says, and 0 if it says nothing."""
    assert head(b"POST / HTTP/1.1\nHost: x\n" + lines).length == length


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 1\nContent-Length: 1\n",
        b"Content-Length: 1, 1\n",
        b"Content-Length: -1\n",
        b"Content-Length: " + b"0" * 5_000 + b"1\n",
        b"Content-Length: 1\nTransfer-Encoding: chunked\n",
        b"Transfer-Encoding: chunked\nContent-Length: 1\n",
        b"Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n",
        b"Transfer-Encoding: chunked, chunked\n",
        b"Transfer-Encoding: gzip, chunked\n",
        b"Transfer-Encoding: identity\n",
        b"Transfer-Encoding: xchunked\n",
        b"Transfer-Encoding:\n",
    ],
)
def test_lengths_that_could_be_read_in_two_ways(lines: bytes) -> None:
    """Ambiguous lengths are malformed, also in the head of an upgrade, which the parser checks less strictly."""
    for more in (b"", b"Connection: upgrade\nUpgrade: h2c\n", b"Upgrade: websocket\nConnection: upgrade\n"):
        with pytest.raises(MalformedRequest):
            head(b"POST / HTTP/1.1\nHost: x\n" + lines + more)
    with pytest.raises(MalformedRequest):
        head(b"POST / HTTP/1.0\nHost: x\n" + lines)


def test_what_else_a_head_says() -> None:
    """Keep-alive, upgrades and expectations are found in any of several headers of one name."""
    get = b"GET / HTTP/1.1\nHost: x\n"
    assert head(get).keep_alive
    assert not head(get + b"Connection: x\nConnection: Close, y\n").keep_alive
    assert not head(get.replace(b"1.1", b"1.0") + b"Connection: keep-alive\n").keep_alive
    wanted = get + b"Upgrade: h2c\nUpgrade: WebSocket\nConnection: keep-alive\nConnection: Upgrade\n"
    assert head(wanted).websocket
    assert not head(wanted.replace(b"Connection: Upgrade\n", b"")).websocket
    assert not head(wanted.replace(b"Upgrade: WebSocket\n", b"")).websocket
    expecting = b"POST / HTTP/1.1\nHost: x\nExpect: 100-Continue\n"
    assert head(expecting + b"Content-Length: 1\n").expects
    assert not head(expecting).expects, "there is no body to wait for"


@given(
    st.lists(
        st.tuples(
            st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,9}", fullmatch=True),
            st.from_regex(rb"[!-~]([ -~]{0,8}[!-~])?", fullmatch=True),
        ),
        max_size=5,
    ),
    st.binary(max_size=20),
    st.lists(st.integers(0, 300), max_size=6),
)
def test_any_cut_gives_the_same_head(headers: list[tuple[bytes, bytes]], behind: bytes, cuts: list[int]) -> None:
    """A head reads the same whole, byte by byte and cut anywhere, and what follows it is untouched."""
    kept = [(b"X-" + name, value) for name, value in headers]
    data = b"GET /path HTTP/1.1\r\nHost: x\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in kept) + b"\r\n" + behind
    whole = read(data)
    assert whole[0] is not None
    assert whole[0].headers == [(b"host", b"x"), *((name.lower(), value) for name, value in kept)]
    assert whole[1] == behind
    assert read(*(data[at : at + 1] for at in range(len(data)))) == whole
    places = [0, *sorted(cuts), len(data)]
    assert read(*(data[a:b] for a, b in itertools.pairwise(places))) == whole


def test_limits() -> None:
    """A head just within its limits of bytes and headers is read; one more is refused as soon as it arrives."""
    data = b"GET / HTTP/1.1\r\nHost: x\r\nX: 1\r\n\r\n"
    assert read(data, most=len(data), headers=2)[0] is not None
    with pytest.raises(HeadTooLarge):
        read(data, most=len(data) - 1)
    with pytest.raises(HeadTooLarge):
        read(data[:-10], most=len(data) - 11)
    with pytest.raises(HeadTooLarge):
        read(data[:-4], b"\r\n\r\n", headers=1)


def cost(data: bytes, *, piecewise: bool) -> float:
    pieces = [data[at : at + 64] for at in range(0, len(data), 64)] if piecewise else [data]
    best = 1.0
    gc.disable()  # its runs depend on what else is alive
    try:
        for _ in range(7):
            began = time.thread_time()
            read(*pieces, most=1 << 24, headers=1 << 20)
            best = min(best, time.thread_time() - began)
    finally:
        gc.enable()
    return best


@pytest.mark.alone
@pytest.mark.parametrize("piecewise", [False, True])
@pytest.mark.parametrize(
    "unit", [b"X: a\r\n", b"Connection: a, b\r\n", b"Upgrade: ,,,,\r\n", b"X: " + b"," * 500 + b"\r\n"]
)
def test_a_head_costs_what_it_weighs(unit: bytes, piecewise: bool) -> None:
    """Four times the head costs about four times the CPU, not sixteen, in one piece and in many (hostile 46)."""
    small, large = (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + unit * (size // len(unit)) + b"\r\n" for size in (60_000, 240_000)
    )
    assert cost(large, piecewise=piecewise) < 10 * cost(small, piecewise=piecewise)


def test_path_text() -> None:
    """Paths are UTF-8; two that are not never become the same (%E8 and %E9 are Latin-1)."""
    assert path_text(b"/caf%C3%A9") == "/caf\u00e9"
    for raw in (b"/%E8", b"/%E9", b"/%C3", b"/a%ED%A0%80"):
        with pytest.raises(MalformedRequest):
            path_text(raw)


@given(st.binary(max_size=100))
def test_complete_lines(data: bytes) -> None:
    """Any bytes give headers, with the last line only once it is complete."""
    complete_lines(data)
    found = complete_lines(b"GET / HTTP/1.1\r\nA: 1\r\nOrigin: x\r\nHos")
    assert found == [(b"a", b"1"), (b"origin", b"x")]
