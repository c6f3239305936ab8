"""What trusted proxies say about the client: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239).

Each proxy appends on the right. So both forms are read from the right: an element that a trusted proxy wrote counts,
and if its address is a trusted proxy's, too, so does the element to its left. Anybody may have written the rest, which
is ignored.

If both forms are present, X-Forwarded-* counts. Nearly every proxy writes these, and passes on a client's Forwarded
header unchanged; a proxy that writes Forwarded has to remove the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from partyline.trust import addresses

NAMES: Final = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip")
)
"""A request with one of these headers came through a proxy."""

_READ: Final = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
_HOPS: Final = 32  # the longest chain of proxies that is looked at
_LONGEST: Final = 4_096  # characters of a Forwarded header
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
# RFC 7239 4, with the whitespace that RFC 9110 5.6.1 allows around the commas, and the semicolons.
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR: Final = re.compile(rf'[ \t]*+(?:({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*+([;,]|\Z)')


class Client(NamedTuple):
    """An address, a scheme and a host."""

    address: str
    scheme: str
    host: str


def client(peer: Client, headers: dict[bytes, list[bytes]], trusts: Callable[[str], bool]) -> Client:
    """The client that `peer`, a trusted proxy, forwards for, by the forwarded `headers`.

    A malformed value counts as missing.
    """
    if any(name in headers for name in _READ):
        return _x_forwarded(peer, headers, trusts)
    return _forwarded(peer, headers.get(b"forwarded", []), trusts)


def _x_forwarded(peer: Client, headers: dict[bytes, list[bytes]], trusts: Callable[[str], bool]) -> Client:
    address, scheme, host = peer
    for hop in reversed(_text(headers.get(b"x-forwarded-for")).rsplit(",", _HOPS)[-_HOPS:]):
        found = addresses.node(hop)
        if found is None:
            break
        address = found
        if not trusts(address):
            break
    scheme = _SCHEMES.get(_last(headers.get(b"x-forwarded-proto")).lower(), scheme)
    return Client(address, scheme, _last(headers.get(b"x-forwarded-host")) or host)


def _forwarded(peer: Client, values: list[bytes], trusts: Callable[[str], bool]) -> Client:
    address, scheme, host = peer
    for element in _elements(values):
        scheme = _SCHEMES.get(element.get("proto", "").lower(), scheme)
        host = element.get("host", "").strip() or host
        found = addresses.node(element.get("for", ""))
        if found is None:
            break
        address = found
        if not trusts(address):
            break
    return Client(address, scheme, host)


def _elements(values: list[bytes]) -> Iterator[dict[str, str]]:
    """The elements of all Forwarded headers, the last one first, up to a header that is malformed."""
    for value in reversed(values):
        elements = _parsed(value.decode("latin-1"))
        if elements is None:
            return
        yield from reversed(elements)


def _parsed(value: str) -> list[dict[str, str]] | None:
    """The elements of one header; None if it is too long, or if any of it is malformed, since then no part is
    certain."""
    if len(value) > _LONGEST:
        return None
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(value):
        match = _PAIR.match(value, at)
        if match is None:
            return None
        name, token, quoted, then = match.groups()
        if name is not None:
            if name.lower() in elements[-1]:  # RFC 7239 4: each parameter once
                return None
            elements[-1][name.lower()] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if then == ",":
            elements.append({})
        at = match.end()
    return [element for element in elements if element]  # RFC 9110 5.6.1.2: a list may have empty elements


def _text(values: list[bytes] | None) -> str:
    return b",".join(values or ()).decode("latin-1")


def _last(values: list[bytes] | None) -> str:
    return _text(values).rpartition(",")[2].strip().strip('"')
