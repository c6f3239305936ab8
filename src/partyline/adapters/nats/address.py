"""Where NATS is, how one signs in there, and how names of ours become subjects."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from partyline.errors import ConfigError, InvalidValue

_PORT: Final = 4222
LOG_OPTIONS: Final = ("replicas", "monitor")
"""What the query of a log's address may say besides; a bus on the same address does not look at it."""
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_TLS: Final = ("tls", "natss")
_UNSAFE: Final = re.compile(r"[\x00-\x20.*>%\x7f]")
_ESCAPED: Final = re.compile("%([0-9A-F]{2})")
_LONGEST: Final = 2_000  # bytes of a name in a subject; the server's line has room for 4,096
_SEED: Final = re.compile(r"\bS[A-Z2-7]{57,}\b")
_JWT: Final = re.compile(r"\b[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}\b")


@dataclass(frozen=True, slots=True)
class Address:
    """Servers of one NATS, and how to sign in."""

    hosts: tuple[tuple[str, int], ...]
    prefix: str = "partyline"
    tls: bool = False
    login: Mapping[str, str] = field(default_factory=dict)  # fields of CONNECT
    credentials: str = ""  # a file with a JWT and the seed that signs for it
    ca: str = ""  # a file with the certificates that are trusted instead of the system's
    options: Mapping[str, str] = field(default_factory=dict)  # the rest of the query

    @property
    def shown(self) -> str:
        """The servers, without what is secret."""
        return ",".join(f"{host}:{port}" for host, port in self.hosts)

    def context(self) -> ssl.SSLContext:
        """How the servers' certificates are checked. Raises OSError."""
        return ssl.create_default_context(cafile=self.ca or None)

    def signed(self, nonce: str) -> dict[str, str]:
        """The fields of CONNECT that say who we are. Raises OSError and ConfigError."""
        if not self.credentials:
            return dict(self.login)
        text = Path(self.credentials).read_text("utf-8")
        seed, jwt = _SEED.search(text), _JWT.search(text)
        if seed is None:
            raise ConfigError(f"credentials: {self.credentials} has no seed (a line that begins with S)")
        return {**({"jwt": jwt[0]} if jwt else {}), **_sign(seed[0], nonce)}


def parse(url: str, setting: str, options: tuple[str, ...] = ()) -> Address:
    """The address in a URL: `nats://user:password@one:4222,two:4222?prefix=chat`. Raises ConfigError.

    `setting` is where it comes from, `options` what else may be in its query.
    """
    scheme = url.partition("://")[0]
    shown = f"{scheme}://...".replace("\n", "")  # the rest may have a password in it
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        who, _, hosts = parts.netloc.rpartition("@")
        places = tuple(_host(host) for host in hosts.split(","))
    except ValueError as error:
        raise ConfigError(
            f"{setting}: {shown} is not an address of NATS: nats://user:password@host:4222, with special characters as "
            f"%xx ({error})",
            field=setting,
        ) from None
    prefix = query.pop("prefix", "partyline")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"{setting}: prefix {prefix[:60]!r} has other characters than letters, digits, _ and -, or more than 40",
            field=setting,
        )
    known = ("credentials", "ca", *options)
    if unknown := query.keys() - set(known):
        raise ConfigError(
            f"{setting}: {min(unknown)[:40]!r} is not an option of this address; these are: "
            + ", ".join(("prefix", *known)),
            field=setting,
        )
    user, colon, password = who.partition(":")
    login = (
        {"user": unquote(user), "pass": unquote(password)} if colon else {"auth_token": unquote(user)} if who else {}
    )
    credentials, ca = query.pop("credentials", ""), query.pop("ca", "")
    return Address(places, prefix, scheme in _TLS, login, credentials, ca, query)


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or _PORT


def number(address: Address, option: str, default: int) -> int:
    """A number among the options of the setting `log`. Raises ConfigError."""
    text = address.options.get(option, str(default))
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise ConfigError(f"log: {option} = {text[:40]!r} is not a number", field="log")
    return int(text)


def token(text: str) -> bytes:
    """Any text as one token of a subject. Raises InvalidValue where it is too long."""
    return _encoded(_UNSAFE.sub(_escape, text) or "%")


def tokens(text: str) -> bytes:
    """A topic, or any text, as tokens of a subject: dots separate them. Raises InvalidValue."""
    return _encoded(".".join(_UNSAFE.sub(_escape, part) or "%" for part in text.split(".")))


def plain(subject: str) -> str:
    """The text that `tokens` made this of."""
    return ".".join("" if part == "%" else _ESCAPED.sub(_unescape, part) for part in subject.split("."))


def filtered(pattern: str) -> bytes:
    """A pattern of topics as a filter for subjects."""
    return ".".join(part if part in ("*", ">") else _UNSAFE.sub(_escape, part) for part in pattern.split(".")).encode()


def short(text: str) -> bytes:
    """As `token`; a text that is too long, or that UTF-8 cannot write, by its hash."""
    try:
        return token(text)
    except InvalidValue:
        return b"%" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()


def _encoded(text: str) -> bytes:
    try:
        subject = text.encode()
    except UnicodeEncodeError:
        raise InvalidValue("a topic holds half a character (a lone surrogate)") from None
    if len(subject) > _LONGEST:
        raise InvalidValue(f"topic {text[:60]!r} is too long for NATS: {_LONGEST} bytes at most")
    return subject


def _escape(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _sign(seed: str, nonce: str) -> dict[str, str]:
    """The signature of a server's nonce, and the public key. A seed is its kind, 32 bytes and a checksum in base 32."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise ConfigError(
            "credentials: signing needs a package that is not installed: pip install 'partyline-server[nats]'"
        ) from None
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    kind = (raw[0] & 0b111) << 5 | raw[1] >> 3
    key: Any = Ed25519PrivateKey.from_private_bytes(raw[2:34])
    public = bytes([kind]) + key.public_key().public_bytes_raw()
    checked = public + _checksum(public).to_bytes(2, "little")
    signature = base64.urlsafe_b64encode(key.sign(nonce.encode())).rstrip(b"=").decode()
    return {"nkey": base64.b32encode(checked).rstrip(b"=").decode(), "sig": signature}


def _checksum(data: bytes) -> int:
    """CRC-16/XMODEM."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc
