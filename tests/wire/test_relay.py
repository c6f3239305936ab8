"""The relay's messages: what a list of topics may be, and how a classic client gets a message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import InvalidValue
from partyline.models import Draft, Message
from partyline.relay.classic.session import classic_text
from partyline.wire.json import compact
from partyline.wire.relay import check_list


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_topics_as_allowed(count: int) -> None:
    """As many topics as the limit are allowed; one more gets `too_many_rooms`, which names the setting."""
    names = ["cats"] * count
    check_list(names, count)
    with pytest.raises(InvalidValue) as caught:
        check_list([*names, "dogs"], count)
    error = caught.value
    assert (error.code, error.field) == ("too_many_rooms", "topics")
    assert f"{count + 1} are more than the {count}" in error.message
    assert "topics_per_connection" in error.message


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'"hello"', b"hello"),
        (b'""', b""),
        (b'"pong"', b"pong"),
        (b'"{\\"topics\\": []}"', b'{"topics": []}'),
        (b'"a\\nb\\u0041\\\\"', b"a\nbA\\"),
        ('"é😀"'.encode(), "é😀".encode()),
        (b'"\\ud83d\\ude00"', "😀".encode()),
        (b'"\\u0000"', b"\0"),
        (b"null", b"null"),
        (b"1.10", b"1.10"),
        (b"true", b"true"),
        (b'{"a":1}', b'{"a":1}'),
        (b'["a"]', b'["a"]'),
        (b"1e400", b"1e400"),
        (b"9" * 4_400, b"9" * 4_400),
        (b'"\\ud83d"', "\N{REPLACEMENT CHARACTER}".encode()),  # as a log may have kept it
    ],
)
def test_a_classic_client_gets_text(data: bytes, text: bytes) -> None:
    """A string is delivered as its plain text, without quotes and escapes; any other JSON as its compact text."""
    assert classic_text(Message(Draft("cats", data, "id"), 1, 0.0)) == text


@given(st.text())
@settings(deadline=None)
def test_any_text_is_delivered_as_it_is(text: str) -> None:
    """Whatever text is published, that text arrives."""
    data = compact(json.dumps(text).encode())
    assert classic_text(Message(Draft("cats", data, "id"), 1, 0.0)) == text.encode()
