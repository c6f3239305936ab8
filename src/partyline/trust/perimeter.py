"""Host, Origin and forwarded headers: the checks on every request and upgrade before any work is done for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from partyline.errors import ConfigError, Forbidden, MalformedRequest, MisdirectedRequest
from partyline.trust import addresses, forwarded
from partyline.trust.addresses import Network, is_loopback

Headers = Iterable[tuple[bytes, bytes]]

_NAME: Final = r"\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\\]+"
_HOST: Final = re.compile(rf"({_NAME})(?::([0-9]{{1,5}}))?\Z")
_SITE: Final = re.compile(rf"(https?)://({_NAME})(?::([0-9]{{1,5}}))?\Z")
# Pages of apps and extensions: capacitor://localhost, chrome-extension://<id>, file://
_APP: Final = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://(?:{_NAME})?(?::[0-9]{{1,5}})?\Z")
_LONGEST: Final = 300  # characters of a Host or an Origin: a name has 253 at most (RFC 1035 2.3.4)
_DEFAULT_PORT: Final = {"http": 80, "https": 443}
# A link, an address typed or a bookmark, in a window of its own (Fetch Metadata 2.1, 2.2); a frame is not a document.
_NAVIGATION: Final = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}


@dataclass(frozen=True, slots=True)
class Peer:
    """The client of a request: its address, the scheme (`http` or `https`), and the Host that it named, with its port.

    `local` says that it is a program on this machine: it came from loopback, and nothing was forwarded.
    """

    address: str
    scheme: str
    host: str
    local: bool = False


@dataclass(frozen=True, slots=True)
class Perimeter:
    """The rules of one server.

    `allowed_hosts` are names without ports; IP literals always pass, since DNS rebinding needs a name. `cors_origins`
    and `own_origins` (further ones that count as ours, such as that of `public_url`) are in the spelling of
    `allowed_origin`. `open_mode` is set if no keys are configured: pages on loopback count as our own, and forwarded
    requests are refused unless `insecure`. `local_only` refuses other machines, for open mode under ASGI, where the
    listener is not ours and may be public.
    """

    allowed_hosts: frozenset[str] = frozenset(("localhost",))
    cors_origins: frozenset[str] = frozenset()
    own_origins: frozenset[str] = frozenset()
    trusted_proxies: tuple[Network, ...] = ()
    open_mode: bool = True
    insecure: bool = False
    local_only: bool = False

    def admit(self, address: str, scheme: str, headers: Headers, *, page: bool = False) -> Peer:
        """The peer that makes a request, if it may come in.

        `address` and `scheme` are those of the connection. `headers` have lower-case names and no trailer fields among
        them; the host of a target in absolute form stands in place of Host (RFC 9112 3.2.2). `page` says that the
        request reads a page that links on other sites may lead to: a browser that follows one is admitted, a page that
        fetches, frames or embeds it is not.

        Raises MalformedRequest (400: not exactly one Host), MisdirectedRequest (421: a foreign Host) or Forbidden (403:
        a foreign Origin, a cross-site request, forwarded headers in open mode, another machine where `local_only` is
        set).
        """
        address = addresses.plain(address)
        if self.local_only and not is_loopback(address) and (not address or addresses.parse(address) is not None):
            # A peer name that is not an address is a test client's. Without a name it is a Unix socket, usually a
            # proxy's.
            raise Forbidden(
                "this server is open to programs on its own machine only: configure an API key before you publish it",
                code="open_mode_is_local",
            )
        hosts: list[bytes] = []
        origin: bytes | None = None
        cross_site = False
        fetched: list[tuple[bytes, bytes]] = []
        said: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                # RFC 6454 7.3: one origin. A second header makes the whole foreign.
                origin = value if origin is None else b""
            elif name == b"sec-fetch-site":
                cross_site = cross_site or value.strip() == b"cross-site"
            elif page and name in _NAVIGATION:
                fetched.append((name, value.strip()))
            elif name in forwarded.NAMES:
                said.setdefault(name, []).append(value)
        if len(hosts) != 1:
            raise MalformedRequest(f"a request has exactly one Host header (RFC 9112 3.2), this one has {len(hosts)}")
        host = hosts[0].decode("latin-1")
        local = not said and is_loopback(address)
        if said:
            if self.open_mode and not self.insecure:
                raise Forbidden(
                    "a proxy forwarded this request, and this server is open to everybody who reaches it: "
                    "configure an API key before you publish it",
                    code="forwarded_in_open_mode",
                )
            if self._trusts(address):
                address, scheme, host = forwarded.client(forwarded.Client(address, scheme, host), said, self._trusts)
        host = self._checked_host(host)
        if origin is not None:
            self._check_origin(origin.decode("latin-1"), scheme, host)
        elif cross_site and not (len(fetched) == 2 and dict(fetched) == _NAVIGATION):
            raise Forbidden(
                "a page of another site asked for this (Sec-Fetch-Site: cross-site); cors_origins names those that may",
                code="foreign_origin",
            )
        return Peer(address, scheme, host, local)

    def _trusts(self, address: str) -> bool:
        parsed = addresses.parse(address)
        return parsed is not None and any(parsed in network for network in self.trusted_proxies)

    def _checked_host(self, host: str) -> str:
        """The Host as a URL has it. Raises MisdirectedRequest for one that is not ours."""
        found = _split_host(host) if len(host) <= _LONGEST else None
        if found is not None:
            name, written = found
            if name in self.allowed_hosts or addresses.parse(name.strip("[]")) is not None:
                return written
        raise MisdirectedRequest(
            f"{host[:100]!r} is not a name of this server; name it with allowed_hosts or public_url if it is",
            field="host",
        )

    def _check_origin(self, origin: str, scheme: str, host: str) -> None:
        spelt = _spelt_origin(origin) if len(origin) <= _LONGEST else None
        if spelt is not None:
            if spelt in self.own_origins or spelt in self.cors_origins or "*" in self.cors_origins:
                return
            if spelt == canonical_origin(f"{scheme}://{host}"):
                return
            if self.open_mode and _is_loopback_page(spelt):
                return
        raise Forbidden(
            f"the origin {origin[:100]!r} is not this server's own; allow it with cors_origins if it may ask",
            code="foreign_origin",
            field="origin",
        )


# The same few come with nearly every request. Their length is checked first, so that strangers cannot fill a cache.


@lru_cache(maxsize=256)
def _split_host(text: str) -> tuple[str, str] | None:
    """The name in a Host, in lower case, and the Host as a URL has it; None where it is not a Host."""
    text = text.strip()
    match = _HOST.match(text)
    if match is not None:
        return match[1].lower(), text
    # Node's clients leave out the brackets of an IPv6 address: `Host: ::1:8000`.
    name, _, port = text.rpartition(":")
    if ":" in name and port.isascii() and port.isdigit() and len(port) <= 5 and addresses.parse(name) is not None:
        return name, f"[{name}]:{port}"
    return (text, f"[{text}]") if ":" in text and addresses.parse(text) is not None else None


@lru_cache(maxsize=256)
def canonical_origin(origin: str) -> str | None:
    """`scheme://host:port` in lower case, with the port; None if it is not an http or https origin."""
    match = _SITE.match(origin)
    if match is None:
        return None
    scheme = match[1]
    port = int(match[3]) if match[3] else _DEFAULT_PORT[scheme]
    return f"{scheme}://{match[2].lower()}:{port}" if port <= 65535 else None


@lru_cache(maxsize=256)
def _spelt_origin(origin: str) -> str | None:
    """The one spelling of an origin of any kind, such as `null` or that of an app; None if it is not an origin."""
    if origin == "null":
        return origin
    if origin.startswith(("http:", "https:")):
        return canonical_origin(origin)
    return origin.lower() if _APP.match(origin) else None


def _is_loopback_page(origin: str) -> bool:
    match = _SITE.match(origin)
    return match is not None and is_loopback(match[2])


# Settings


def allowed_origin(text: str) -> str:
    """An entry of `cors_origins` in its one spelling; `*` stays. Raises ConfigError for what no browser would send."""
    if text == "*":
        return text
    _check_name(text, "cors_origins", "https://app.example.org")
    scheme, colon, rest = text.partition(":")
    spelt = _spelt_origin(scheme.lower() + colon + rest)
    if spelt is None:
        raise _unusable("cors_origins", text, "is not an origin: https://app.example.org, without a path")
    if spelt.startswith(("ws:", "wss:")):
        raise _unusable("cors_origins", text, "is not the origin of a page: these begin with https:// or http://")
    return spelt


def allowed_host(text: str) -> str:
    """An entry of `allowed_hosts` in lower case. Raises ConfigError for what no Host could be."""
    _check_name(text, "allowed_hosts", "chat.example.org")
    if not re.fullmatch(r"[^\s:/?#@\[\]\\]+", text):
        raise _unusable("allowed_hosts", text, "is not a host name (without a port or a scheme)")
    return text.lower()


def trusted_network(text: str) -> Network:
    """An entry of `trusted_proxies`. Raises ConfigError."""
    try:
        return addresses.network(text)
    except ValueError:
        raise _unusable(
            "trusted_proxies", text, "is neither an address nor a network: 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32"
        ) from None


def _check_name(text: str, setting: str, example: str) -> None:
    """Raises ConfigError for what no name can equal: a pattern, or letters that clients encode."""
    if "*" in text:
        raise _unusable(setting, text, f"is a pattern, and these are compared whole: name each, such as {example}")
    if not text.isascii():
        host = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://|:[0-9]+\Z", "", text)
        try:
            sent = host.encode("idna").decode()
        except UnicodeError:
            sent = "xn--..."
        raise _unusable(setting, text, f"is sent in ASCII by every client: write {sent} for {host}")


def _unusable(setting: str, value: str, why: str) -> ConfigError:
    return ConfigError(f"{setting}: {value!r} {why}", field=setting)
