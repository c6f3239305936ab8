"""What an Engine.IO request asks for, how it is refused, and the packet that opens a session."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from partyline.errors import HandshakeRefused
from partyline.wire.engineio.packets import OPEN

UNKNOWN_TRANSPORT: Final = 0
UNKNOWN_SID: Final = 1
BAD_METHOD: Final = 2
BAD_REQUEST: Final = 3
FORBIDDEN: Final = 4
UNSUPPORTED_VERSION: Final = 5

MESSAGES: Final = {
    UNKNOWN_TRANSPORT: "Transport unknown",
    UNKNOWN_SID: "Session ID unknown",
    BAD_METHOD: "Bad handshake method",
    BAD_REQUEST: "Bad request",
    FORBIDDEN: "Forbidden",
    UNSUPPORTED_VERSION: "Unsupported protocol version",
}

POLLING: Final = "polling"
WEBSOCKET: Final = "websocket"

_write_json = msgspec.json.Encoder().encode
_FIELD: Final = re.compile("([^&=]+)=?([^&]*)")
# What clients of Engine.IO 4 ask for in nearly every request; `t` keeps caches from answering.
_COMMON: Final = re.compile(rb"EIO=4&transport=(polling|websocket)(?:&t=[\w.-]*)?(?:&sid=([\w.-]+))?\Z")


class Asked(msgspec.Struct, frozen=True):
    """A request's query, checked as far as it can be without knowing the session.

    `sid` is None in a handshake. `base64` (`b64=1`) marks a client of protocol 3 that cannot read octets; `script` is
    the number of a JSONP request.
    """

    protocol: int
    transport: str
    sid: str | None
    base64: bool = False
    script: int | None = None


def refusal(number: int, message: str | None = None) -> HandshakeRefused:
    """The error with one of the numbers above, in Engine.IO's words if no others are given."""
    return HandshakeRefused(number, MESSAGES[number] if message is None else message)


def refusal_body(error: HandshakeRefused) -> bytes:
    """Engine.IO's form of an error."""
    return msgspec.json.encode({"code": error.number, "message": error.message})


def read_request(query: bytes, method: str, *, upgrade: bool, version_3: bool = False, jsonp: bool = False) -> Asked:
    """Read the raw `query` of a request; `upgrade` says that it is a WebSocket's.

    Raises HandshakeRefused: 0, 2, 3 or 5. If a name appears twice, its last value counts.
    """
    common = _COMMON.match(query)
    if common is not None and (common[1] == b"websocket") is upgrade and (method == "GET" or method == "POST"):
        named = common[2]
        if named is not None or method == "GET":
            return Asked(4, WEBSOCKET if upgrade else POLLING, None if named is None else named.decode())
    fields = _fields(query)
    transport = fields.get("transport")
    if transport not in (POLLING, WEBSOCKET):
        raise refusal(UNKNOWN_TRANSPORT)
    sid = fields.get("sid") or None
    if sid is None and method != "GET":
        raise refusal(BAD_METHOD)
    if method not in ("GET", "POST") or upgrade is not (transport == WEBSOCKET):
        raise refusal(BAD_REQUEST)
    version = fields.get("EIO")
    if version != "4" and not (version == "3" and version_3):
        raise refusal(UNSUPPORTED_VERSION if sid is None else BAD_REQUEST)
    script = None
    if "j" in fields:
        number = fields["j"]
        if not jsonp or not number.isdecimal() or not number.isascii() or len(number) > 16 or upgrade:
            raise refusal(BAD_REQUEST)
        script = int(number)
    return Asked(int(version), transport, sid, fields.get("b64") in ("1", "true"), script)


def _fields(query: bytes) -> dict[str, str]:
    text = query.decode("latin-1")
    if text.count("&") >= 64:
        raise refusal(BAD_REQUEST, "Bad request: too many parameters")
    if "%" in text or "+" in text:
        return dict(parse_qsl(text, keep_blank_values=True))
    # Clients escape nothing, and this is five times faster.
    return dict(_FIELD.findall(text))


def open_packet(sid: str, *, upgrades: bool, ping_interval: float, ping_timeout: float, max_payload: int) -> str:
    """The first packet of a session. Times are given in seconds and sent in milliseconds; the payload is in bytes."""
    rest = _rest_of_open(upgrades, ping_interval, ping_timeout, max_payload)
    return f'{OPEN}{{"sid":{_write_json(sid).decode()},{rest}'


@lru_cache(maxsize=64)
def _rest_of_open(upgrades: bool, ping_interval: float, ping_timeout: float, max_payload: int) -> str:
    """The open packet after its sid: the same for all sessions of a server."""
    values = {
        "upgrades": [WEBSOCKET] if upgrades else [],
        "pingInterval": round(ping_interval * 1000),
        "pingTimeout": round(ping_timeout * 1000),
        "maxPayload": max_payload,
    }
    return _write_json(values).decode().removeprefix("{")
