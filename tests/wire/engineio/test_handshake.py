"""What a query asks for, which error number a wrong request gets, and the packet that opens a session."""

from __future__ import annotations

import json

import pytest

from partyline.errors import HandshakeRefused
from partyline.wire.engineio.handshake import MESSAGES, Asked, open_packet, read_request, refusal, refusal_body


@pytest.mark.parametrize(
    ("query", "method", "upgrade", "asked"),
    [
        (b"EIO=4&transport=polling", "GET", False, Asked(4, "polling", None)),
        (b"transport=polling&EIO=4&t=abc", "GET", False, Asked(4, "polling", None)),
        (b"EIO=4&transport=websocket", "GET", True, Asked(4, "websocket", None)),
        (b"EIO=4&transport=polling&sid=x%2Dy", "POST", False, Asked(4, "polling", "x-y")),
        (b"EIO=4&transport=polling&sid=", "GET", False, Asked(4, "polling", None)),
        (b"EIO=3&transport=polling&b64=1", "GET", False, Asked(3, "polling", None, base64=True)),
        (b"EIO=3&transport=polling&sid=x&j=7", "POST", False, Asked(3, "polling", "x", script=7)),
        (b"EIO=3&EIO=4&transport=websocket&sid=x", "GET", True, Asked(4, "websocket", "x")),
    ],
)
def test_requests(query: bytes, method: str, upgrade: bool, asked: Asked) -> None:
    """A correct request says what it asks for."""
    assert read_request(query, method, upgrade=upgrade, version_3=True, jsonp=True) == asked


@pytest.mark.parametrize(
    ("number", "query", "method", "upgrade"),
    [
        (0, b"", "GET", False),
        (0, b"EIO=4", "GET", False),
        (0, b"EIO=4&transport=abc", "GET", False),
        (0, b"EIO=4&transport=webtransport", "GET", False),
        (0, b"EIO=4&transport=abc", "PUT", False),
        (2, b"EIO=4&transport=polling", "POST", False),
        (2, b"EIO=4&transport=polling", "PUT", False),
        (3, b"EIO=4&transport=polling&sid=x", "PUT", False),
        (3, b"EIO=4&transport=websocket", "GET", False),
        (3, b"EIO=4&transport=websocket&sid=x", "GET", False),
        (3, b"EIO=4&transport=polling", "GET", True),
        (3, b"EIO=4&transport=polling&j=0", "GET", False),
        (3, b"EIO=5&transport=polling&sid=x", "GET", False),
        (3, b"&".join([b"a=1"] * 100) + b"&EIO=4&transport=polling", "GET", False),
        (5, b"transport=polling", "GET", False),
        (5, b"EIO=abc&transport=polling", "GET", False),
        (5, b"EIO=3&transport=polling", "GET", False),
        (5, b"EIO=%FF&transport=websocket", "GET", True),
    ],
)
def test_refusals(number: int, query: bytes, method: str, upgrade: bool) -> None:
    """A wrong request is refused with Engine.IO's number and message."""
    with pytest.raises(HandshakeRefused) as caught:
        read_request(query, method, upgrade=upgrade)
    assert caught.value.number == number
    assert caught.value.http_status == 400
    assert caught.value.message.startswith(MESSAGES[number])


@pytest.mark.parametrize("number", [b"", b"x", b"-1", "٣".encode(), b"1" * 17, b"1);alert(1"])
def test_a_script_has_a_number(number: bytes) -> None:
    """`j` becomes part of a script, so only its digits are used."""
    with pytest.raises(HandshakeRefused):
        read_request(b"EIO=3&transport=polling&j=" + number, "GET", upgrade=False, version_3=True, jsonp=True)


def test_protocol_3_is_asked_for() -> None:
    """Protocol 3 is unsupported until it is switched on."""
    query = b"EIO=3&transport=polling"
    assert read_request(query, "GET", upgrade=False, version_3=True).protocol == 3
    with pytest.raises(HandshakeRefused):
        read_request(query, "GET", upgrade=False)


def test_refusal_body() -> None:
    """A refusal has Engine.IO's form; 4 is a 403 with the application's message."""
    assert json.loads(refusal_body(refusal(1))) == {"code": 1, "message": "Session ID unknown"}
    assert refusal(4, "not today").http_status == 403
    assert json.loads(refusal_body(refusal(4, "not today"))) == {"code": 4, "message": "not today"}


@pytest.mark.parametrize("upgrades", [True, False])
def test_open_packet(upgrades: bool) -> None:
    """The packet that opens a session has exactly five fields; times are in milliseconds."""
    text = open_packet("abc", upgrades=upgrades, ping_interval=0.3, ping_timeout=0.2, max_payload=1_000_000)
    assert text[0] == "0"
    assert " " not in text
    assert json.loads(text[1:]) == {
        "sid": "abc",
        "upgrades": ["websocket"] if upgrades else [],
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": 1_000_000,
    }
