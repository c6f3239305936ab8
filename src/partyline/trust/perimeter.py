"""Host, Origin and forwarded headers: what is looked at on every request and upgrade before any work is done for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from partyline.errors import Forbidden, MalformedRequest, MisdirectedRequest

Headers = Iterable[tuple[bytes, bytes]]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\\]+)(?::([0-9]{1,5}))?\Z")
_ORIGIN = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\\]+)(?::([0-9]{1,5}))?\Z")
_DEFAULT_PORT = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_FORWARDED = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip")
)
# A link, an address typed or a bookmark, in a window of its own (Fetch Metadata 2.1, 2.2); a frame is no document.
_NAVIGATION = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, and by which name: the client's address, `http` or `https`, and the checked Host with its port.

    `local` says that a program on this machine asks for itself: from loopback, and nothing was forwarded.
    """

    address: str
    scheme: str
    host: str
    local: bool = False


@dataclass(frozen=True, slots=True)
class Perimeter:
    """The rules of one server.

    `allowed_hosts` are names without ports; IP literals always pass, since DNS rebinding needs a name. `own_origins`
    are further canonical origins that count as ours (that of `public_url`). `open_mode` is set where no keys are
    configured: pages on loopback count as own, and whatever a proxy forwarded is refused unless `insecure`.
    `local_only` refuses other machines, where who listens is not ours and may listen to all: open mode under ASGI.
    """

    allowed_hosts: frozenset[str] = frozenset(("localhost",))
    cors_origins: frozenset[str] = frozenset()
    own_origins: frozenset[str] = frozenset()
    trusted_proxies: tuple[Network, ...] = ()
    open_mode: bool = True
    insecure: bool = False
    local_only: bool = False

    def admit(self, address: str, scheme: str, headers: Headers, *, page: bool = False) -> Peer:
        """The peer behind a request, if it may come in.

        `address` and `scheme` are those of the connection, `headers` have lower-case names. `page` says that it reads
        a page that links of other sites may lead to: a browser that follows one may come in, a page of theirs that
        fetches, frames or embeds it may not. Raises MalformedRequest (400: not exactly one Host), MisdirectedRequest
        (421: a foreign Host) or Forbidden (403: a foreign Origin, a cross-site request, forwarded headers in open
        mode, another machine where `local_only` is set).
        """
        if self.local_only and not is_loopback(address) and (_is_address(address) or not address):
            # A name that is no address is a test client's; no name at all is a Unix socket, behind which is a proxy.
            raise Forbidden(
                "this server is open to programs on its own machine only: configure an API key before you publish it",
                code="open_mode_is_local",
            )
        hosts: list[bytes] = []
        origin: bytes | None = None
        cross_site = False
        fetched: list[tuple[bytes, bytes]] = []
        forwarded: dict[bytes, bytes] = {}
        for name, value in headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                # RFC 6454 7.3: one origin. A second header makes the whole foreign.
                origin = value if origin is None else b"null"
            elif name == b"sec-fetch-site":
                cross_site = cross_site or value.strip() == b"cross-site"
            elif page and name in _NAVIGATION:
                fetched.append((name, value.strip()))
            elif name in _FORWARDED:
                forwarded[name] = forwarded[name] + b"," + value if name in forwarded else value
        if len(hosts) != 1:
            raise MalformedRequest(f"a request has exactly one Host header (RFC 9112 3.2), this one has {len(hosts)}")
        host = hosts[0].decode("latin-1").strip()
        local = not forwarded and is_loopback(address)
        if forwarded:
            if self.open_mode and not self.insecure:
                raise Forbidden(
                    "a proxy forwarded this request, and this server is open to everybody who reaches it: "
                    "configure an API key before you publish it",
                    code="forwarded_in_open_mode",
                )
            address, scheme, host = self._behind(address, scheme, host, forwarded)
        self._check_host(host)
        if origin is not None:
            self._check_origin(origin.decode("latin-1"), scheme, host)
        elif cross_site and not (len(fetched) == 2 and dict(fetched) == _NAVIGATION):
            raise Forbidden(
                "a page of another site asked for this (Sec-Fetch-Site: cross-site); cors_origins names those that may",
                code="foreign_origin",
            )
        return Peer(address, scheme, host, local)

    def _behind(self, address: str, scheme: str, host: str, forwarded: dict[bytes, bytes]) -> tuple[str, str, str]:
        """What trusted proxies say of the client; an untrusted peer's words count for nothing."""
        if not self._trusts(address):
            return address, scheme, host
        # The rightmost address that is not a trusted proxy is the client: what stands left of it anybody may write.
        for hop in reversed(forwarded.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            if not _is_address(hop.strip()):
                break
            address = hop.strip()
            if not self._trusts(address):
                break
        proto = forwarded.get(b"x-forwarded-proto", b"").decode("latin-1").rpartition(",")[2].strip().lower()
        if proto in ("http", "https"):
            scheme = proto
        named = forwarded.get(b"x-forwarded-host", b"").decode("latin-1").rpartition(",")[2].strip()
        return address, scheme, named or host

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.trusted_proxies)

    def _check_host(self, host: str) -> None:
        match = _HOST.match(host)
        if match is not None:
            name = match[1].lower()
            if name in self.allowed_hosts or _is_address(name.strip("[]")):
                return
        raise MisdirectedRequest(
            f"{host[:100]!r} is not a name of this server; name it with allowed_hosts or public_url if it is",
            field="host",
        )

    def _check_origin(self, origin: str, scheme: str, host: str) -> None:
        canonical = canonical_origin(origin)
        if canonical is not None:
            if canonical in self.own_origins or canonical in self.cors_origins or "*" in self.cors_origins:
                return
            if canonical == canonical_origin(f"{scheme}://{host}"):
                return
            if self.open_mode and is_loopback(canonical.partition("://")[2].rpartition(":")[0]):
                return
        raise Forbidden(
            f"the origin {origin[:100]!r} is not this server's own; allow it with cors_origins if it may ask",
            code="foreign_origin",
            field="origin",
        )


def canonical_origin(origin: str) -> str | None:
    """`scheme://host:port` in lower case with the port spelt out; None where it is no http(s) origin (or `null`)."""
    match = _ORIGIN.match(origin)
    if match is None:
        return None
    scheme = match[1]
    return f"{scheme}://{match[2].lower()}:{int(match[3]) if match[3] else _DEFAULT_PORT[scheme]}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address, as one binds or writes it, is this machine's loopback."""
    if host.lower() == "localhost":
        return True
    address = _address(host.strip("[]"))
    return address is not None and address.is_loopback


def _is_address(text: str) -> bool:
    return _address(text) is not None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    # No address is as long, so that what strangers write cannot fill the cache with more than it is worth.
    return _parsed(text) if len(text) <= 64 else None


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Every request asks for two: its peer's, and often its Host's."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
