"""IP addresses as sockets, proxies and settings write them. One address has one spelling here."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST: Final = 64  # characters; no address needs more
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
# RFC 7239 6: a node and perhaps its port, which a proxy may obfuscate. Proxies write X-Forwarded-For in the same ways.
_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?\Z")


def parse(text: str) -> Address | None:
    """The address that `text` is, or None.

    An IPv4-mapped IPv6 address, which is how a socket bound to `::` names an IPv4 peer, is the IPv4 address. An address
    with a zone (`fe80::1%eth0`) is not accepted, since it means something on one machine only.
    """
    return _parsed(text) if len(text) <= _LONGEST and "%" not in text else None


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Address | None:
    """Parsed once for each text: every request needs one or two, its peer's and perhaps its Host's."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def plain(text: str) -> str:
    """A peer's address in its one spelling, without a zone; a text that is not an address (a test client's) stays."""
    if ":" not in text:
        return text
    found = parse(text.partition("%")[0])
    return text if found is None else str(found)


def source(text: str) -> str:
    """What limits per address count: the address, or the /64 of an IPv6 address, which belongs to one peer."""
    return _source(text) if ":" in text else text


@lru_cache(maxsize=1024)
def _source(text: str) -> str:
    found = parse(text.partition("%")[0])
    return (
        str(ipaddress.ip_network((found, 64), strict=False))
        if isinstance(found, ipaddress.IPv6Address)
        else plain(text)
    )


def node(text: str) -> str | None:
    """The address in an element of X-Forwarded-For or in `for=` of Forwarded; None where it names no address.

    Proxies write `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:5678`, some in quotes.
    """
    if len(text) > 2 * _LONGEST:
        return None
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    match = _NODE.match(text)
    if match is not None:
        text = match[1] or match[2]
    found = parse(text)
    return None if found is None else str(found)


def network(text: str) -> Network:
    """A network or a single address, as a setting names it. Raises ValueError."""
    found = ipaddress.ip_network(text.strip(), strict=False)
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        address = found.network_address.ipv4_mapped
        return ipaddress.ip_network(f"{address}/{found.prefixlen - 96}")
    return found


def is_loopback(host: str) -> bool:
    """Whether a host name or address, as one binds or writes it, is this machine's loopback."""
    return len(host) <= _LONGEST and _is_loopback(host)


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    address = parse(host.strip("[]"))
    return address is not None and address.is_loopback
