"""Bodies: sized and in chunks, whole, byte by byte, and with the next request after them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import HeadTooLarge, MalformedRequest
from partyline.wire.http.body import body_of
from partyline.wire.http.head import CHUNKED


def take(length: int, data: bytes, step: int, most: int = 1_000) -> tuple[bytes, bytes, bool]:
    """The content of `data` when it arrives `step` bytes at a time, what follows the body, and whether it is
    complete."""
    body, content, at = body_of(length, most), b"", 0
    while at < len(data) and not body.done:
        piece = data[at : at + min(step, body.wants)]
        content += body.take(piece)
        at += len(piece) - len(body.rest)
    return content, data[at:], body.done


@st.composite
def bodies(draw: st.DrawFn) -> tuple[int, bytes, bytes]:
    """A length, the bytes, and their content."""
    if draw(st.booleans()):
        content = draw(st.binary(min_size=1, max_size=60))
        return len(content), content, content
    pieces = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b"']))
    lines = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces]
    trailer = draw(st.sampled_from([b"", b"X: 1\r\n", b"Host: evil.example\r\nX:\r\n"]))
    return CHUNKED, b"".join(lines) + b"0\r\n" + trailer + b"\r\n", b"".join(pieces)


@given(bodies(), st.integers(1, 80), st.binary(max_size=20))
def test_any_cut_gives_the_same_body(body: tuple[int, bytes, bytes], step: int, behind: bytes) -> None:
    """The content is the same however the body is cut; it excludes a trailer, and what follows is left alone."""
    length, data, content = body
    assert take(length, data + behind, step) == (content, behind, True)
    assert take(length, data[:-1], step)[2] is False


@pytest.mark.parametrize(
    "data",
    [
        b"xyz\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1 \r\n",
        b"1\n",
        b"123456789\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1;\x00\r\n",
        b"0\r\nno colon\r\n",
        b"0\r\n: no name\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\nX: a\x00\r\n",
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_malformed_chunks(data: bytes, step: int) -> None:
    """Anything but chunks, their end and a trailer is malformed, whole and byte by byte."""
    with pytest.raises(MalformedRequest):
        take(CHUNKED, data, step)


@pytest.mark.parametrize(
    "data",
    [
        b"1" + b";a" * 300,
        b"0\r\nX: " + b"a" * 600,
        b"0\r\n" + b"X: 1\r\n" * 200,
        b"1;" + b"a" * 300 + b"\r\na\r\n1;" + b"a" * 300 + b"\r\n",
    ],
)
@pytest.mark.parametrize("step", [1, 1_000])
def test_extensions_and_trailers_are_bounded(data: bytes, step: int) -> None:
    """All trailers together may be as large as a head (hostile 30)."""
    with pytest.raises(HeadTooLarge):
        take(CHUNKED, data, step, most=500)
