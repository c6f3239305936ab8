"""The opening handshake (RFC 6455 4) as functions from a request's values to an answer's values."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from partyline.errors import MalformedRequest, MethodNotAllowed, RequestError, UpgradeRequired
from partyline.wire.websocket.deflate import Deflate

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_NAMES: Final = (
    b"host",
    b"connection",
    b"upgrade",
    b"sec-websocket-version",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-extensions",
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110 5.6.2
MOST_OFFERED: Final = 100  # subprotocols, a credential among them, or extensions; nobody needs ten

Headers = Iterable[tuple[bytes, bytes]]
Parameters = list[tuple[str, str | None]]
Offer = tuple[str, Parameters]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A handshake that may go ahead. `head` is the whole 101 answer."""

    head: bytes
    subprotocol: str | None
    deflate: Deflate | None


def accept_value(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    return binascii.b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def accept(
    method: str,
    version: str,
    headers: Headers,
    *,
    subprotocols: Sequence[str] = (),
    deflate: bool = False,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> Accepted:
    """Check a client's handshake and compose the answer (RFC 6455 4.2).

    `headers` are name and value pairs with lower-case names, in order. `subprotocols` are ours, the most wanted
    first; the first of them that the client offers is chosen, and it is no error if it offers none. `deflate` says
    whether we would compress. `extra` headers go into the 101.

    Raises MethodNotAllowed (405), UpgradeRequired (426: no upgrade asked for, or a version other than 13) and
    MalformedRequest (400).
    """
    if method != "GET":
        raise MethodNotAllowed(f"a WebSocket handshake is a GET, not a {method}", allow="GET")
    if version != "1.1":
        raise MalformedRequest(f"a WebSocket handshake needs HTTP/1.1, not HTTP/{version}")
    values = _collect(headers)
    if not _has_token(values[b"upgrade"], b"websocket") or not _has_token(values[b"connection"], b"upgrade"):
        raise UpgradeRequired("this is a WebSocket endpoint: send Upgrade: websocket and Connection: Upgrade")
    _exactly_one(values, b"host")
    if _exactly_one(values, b"sec-websocket-version") != b"13":
        raise UpgradeRequired("only WebSocket version 13 is spoken here (Sec-WebSocket-Version: 13)")
    key = _exactly_one(values, b"sec-websocket-key")
    _check_key(key)
    subprotocol = agreed = None
    if offered := values[b"sec-websocket-protocol"]:
        subprotocol = _choose(subprotocols, offered_subprotocols(offered))
    if extensions := values[b"sec-websocket-extensions"]:
        agreed = negotiate(extensions)  # a malformed one is refused even if we would not compress
        if not deflate:
            agreed = None
    head = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        accept_value(key),
    ]
    if subprotocol is not None:
        head += (b"\r\nSec-WebSocket-Protocol: ", subprotocol.encode("ascii"))
    if agreed is not None:
        head += (b"\r\nSec-WebSocket-Extensions: ", agreed.response.encode("ascii"))
    for name, value in extra:
        head += (b"\r\n", name, b": ", value)
    head.append(b"\r\n\r\n")
    return Accepted(b"".join(head), subprotocol, agreed)


def offered_subprotocols(values: Iterable[bytes]) -> list[str]:
    """The subprotocols of Sec-WebSocket-Protocol headers, in order (RFC 6455 11.3.4).

    Raises MalformedRequest if one is not a token or is offered twice (RFC 6455 4.1, point 10), or if there are
    more than 100.
    """
    names = _list(values)
    if len(names) > MOST_OFFERED:
        raise MalformedRequest(f"Sec-WebSocket-Protocol: {len(names)} are more than the {MOST_OFFERED} that may come")
    offered: dict[str, None] = {}
    for name in names:
        if not _TOKEN.match(name):
            raise MalformedRequest(f"Sec-WebSocket-Protocol: {name[:60]!r} is not a token")
        if name in offered:
            raise MalformedRequest(f"Sec-WebSocket-Protocol: {name[:60]!r} is offered twice")
        offered[name] = None
    return list(offered)


def negotiate(values: Iterable[bytes]) -> Deflate | None:
    """The first permessage-deflate offer that can be met, or None (RFC 7692 5 and 7.1).

    An offer is declined, not an error, when it holds an unknown, doubled or badly valued parameter, or
    server_max_window_bits=8, which zlib cannot honour. Raises MalformedRequest if one of the headers is malformed,
    even after an offer that could be met.
    """
    for name, parameters in [offer for value in values for offer in parse_extensions(value)]:
        if name == "permessage-deflate" and (agreed := _agree(parameters)) is not None:
            return agreed
    return None


def _agree(parameters: Parameters) -> Deflate | None:
    window_bits = 15
    seen: set[str] = set()
    for name, value in parameters:
        if name in seen:
            return None
        seen.add(name)
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            if value is None or not re.fullmatch(r"9|1[0-5]", value):
                return None
            window_bits = int(value)
        elif name == "client_max_window_bits":
            # Our inflater takes any window, so the hint needs no answer; its value must still be valid.
            if value is not None and not re.fullmatch(r"[89]|1[0-5]", value):
                return None
        else:
            return None
    return Deflate(window_bits)


def parse_extensions(value: bytes) -> list[Offer]:
    """Sec-WebSocket-Extensions as (name, [(parameter, value or None)]) (RFC 6455 9.1).

    Raises MalformedRequest if a name, a parameter or a value is not a token.
    """
    if value.count(b",") + value.count(b";") > MOST_OFFERED:
        raise MalformedRequest(f"Sec-WebSocket-Extensions: more than the {MOST_OFFERED} names that may come")
    parsed: list[Offer] = []
    for item in (part.strip(" \t") for part in value.decode("latin-1").split(",")):
        if not item:
            continue  # RFC 9110 5.6.1: empty list elements are ignored
        name, *rest = (part.strip(" \t") for part in item.split(";"))
        if not _TOKEN.match(name):
            raise MalformedRequest(f"Sec-WebSocket-Extensions: {name[:60]!r} is not a token")
        parameters: Parameters = []
        for parameter in rest:
            key, equals, text = parameter.partition("=")
            key, text = key.strip(" \t"), text.strip(" \t")
            if len(text) >= 2 and text[0] == text[-1] == '"':
                text = re.sub(r"\\(.)", r"\1", text[1:-1])
            if not _TOKEN.match(key) or (equals and not _TOKEN.match(text)):
                raise MalformedRequest(f"Sec-WebSocket-Extensions: {parameter[:60]!r} is not a parameter")
            parameters.append((key, text if equals else None))
        parsed.append((name, parameters))
    return parsed


def _collect(headers: Headers) -> dict[bytes, list[bytes]]:
    values: dict[bytes, list[bytes]] = {name: [] for name in _NAMES}
    for name, value in headers:
        if name in values:
            values[name].append(value)
    return values


def _list(values: Iterable[bytes]) -> list[str]:
    return [item for value in values for part in value.decode("latin-1").split(",") if (item := part.strip(" \t"))]


def _has_token(values: Iterable[bytes], token: bytes) -> bool:
    for value in values:
        items = value.lower()
        if items == token or token in [item.strip(b" \t") for item in items.split(b",")]:
            return True
    return False


def _exactly_one(values: dict[bytes, list[bytes]], name: bytes) -> bytes:
    found = values[name]
    if len(found) != 1:
        error: type[RequestError] = MalformedRequest
        if name == b"sec-websocket-version" and not found:
            error = UpgradeRequired
        title = name.decode().title().replace("Websocket", "WebSocket")
        raise error(f"a WebSocket handshake has exactly one {title} header, this one has {len(found)}")
    return found[0].strip(b" \t")


def _check_key(key: bytes) -> None:
    try:
        nonce = binascii.a2b_base64(key, strict_mode=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16 or len(key) != 24:
        raise MalformedRequest("Sec-WebSocket-Key must be the base64 form of 16 bytes")


def _choose(ours: Sequence[str], offered: Sequence[str]) -> str | None:
    return next((name for name in ours if name in offered), None)
