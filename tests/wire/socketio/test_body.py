"""A body: an event's name and arguments, written once for all packets of the event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import InvalidPacket, InvalidValue
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Parser

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
PARSERS = pytest.mark.parametrize("parser", [JSON, MSGPACK], ids=["json", "msgpack"])


@pytest.mark.check
@PARSERS
@given(
    st.lists(VALUES, max_size=20),
    st.sampled_from(["/", "/side"]),
    st.none() | st.integers(0, 2**40),
    st.sampled_from([None, "0123456789abcdef-7"]),
)
@settings(deadline=None)
def test_packets_of_a_body(
    parser: Parser, arguments: list[Any], namespace: str, number: int | None, offset: str | None
) -> None:
    """The packet of a body is that of its event, with and without an id and a position, and the body has its values."""
    body = parser.body("x", arguments)
    assert isinstance(body.data, str) is parser.text
    assert parser.packet(namespace, body, number, offset) == parser.event(namespace, "x", arguments, number, offset)
    assert parser.values(body) == ["x", *arguments]


@pytest.mark.parametrize("count", [0, 13, 14, 15, 16, 17, 65_533, 65_534, 65_535])
def test_a_position_after_any_number_of_arguments(count: int) -> None:
    """MessagePack writes the length of an array in one, three or five bytes; a position can be added at every
    border."""
    arguments = list(range(count))
    assert MSGPACK.packet("/", MSGPACK.body("x", arguments), None, "p") == MSGPACK.event("/", "x", arguments, None, "p")


@PARSERS
def test_a_name_that_peers_refuse(parser: Parser) -> None:
    """There is no body for an event with a reserved name."""
    with pytest.raises(InvalidValue, match="disconnect"):
        parser.body("disconnect", ())


@pytest.mark.parametrize(
    "body",
    [
        Body('["x",{"_placeholder":true,"num":1}]', (b"x",)),
        Body('["x"]', (b"x",)),
        Body('["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]', (b"x",)),
        Body("[", ()),
    ],
)
def test_a_damaged_body(body: Body) -> None:
    """A body whose placeholders and attachments do not fit is a documented error."""
    with pytest.raises(InvalidPacket):
        JSON.values(body)


@pytest.mark.parametrize("lookalike", [{"_placeholder": True}, {"_placeholder": True, "num": 0}])
@pytest.mark.parametrize("around", [lambda value: value, lambda value: [value], lambda value: {"a": [{"b": value}]}])
def test_a_lookalike_beside_binary_values(lookalike: dict[str, Any], around: Any) -> None:
    """In JSON a value that looks like a placeholder is refused beside binary values, at any depth, before and after
    them, in events and in acknowledgements; alone it is data, and so is one that says it is not a placeholder."""
    for arguments in ([b"x", around(lookalike)], [around(lookalike), {"c": b"x"}]):
        with pytest.raises(InvalidValue, match="_placeholder"):
            JSON.body("x", arguments)
        with pytest.raises(InvalidValue, match="_placeholder"):
            JSON.ack("/", 1, arguments)
        assert MSGPACK.values(MSGPACK.body("x", arguments)) == ["x", *arguments]
    assert JSON.values(JSON.body("x", [around(lookalike)])) == ["x", around(lookalike)]
    harmless = {**lookalike, "_placeholder": False}
    assert JSON.values(JSON.body("x", [around(harmless), b"x"])) == ["x", around(harmless), b"x"]
