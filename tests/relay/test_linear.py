"""The cost of strangers' headers is linear: eight times the length takes eight times the time (hostile 46)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest

from partyline import log
from partyline.metrics import Counters
from partyline.relay.access import Access, query_token
from partyline.relay.revocations import Revoker
from partyline.trust.keys import KeyRing, Principal, key_hash
from partyline.trust.perimeter import Perimeter
from partyline.trust.tokens import Signer, Tokens, secret_key
from tests.linear import is_linear
from tests.relay.test_access import Nothing
from tests.tokens import SECRET

PERIMETER = Perimeter(
    allowed_hosts=frozenset(("example.org",)),
    cors_origins=frozenset(("https://app.example.org:443",)),
    trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),),
    open_mode=False,
)
ACCESS = Access(
    KeyRing([(key_hash("k"), Principal())]),
    Counters(),
    0,
    Tokens([Signer("HS256", (secret_key(SECRET.encode()),))], 3600.0),
    Revoker(Nothing(), 60.0),
)
PIECES = [
    *'a ,;:.="\\[]/%&\t\u00e9\x00',
    *("1.", "1:", "a.", "a,", "a;", "a=", "[:", "::", "10.0.0.1,", "10.0.0.1, ", "[::1]:80,", "for=10.0.0.1,"),
    *("for=10.0.0.1;", 'for="', 'for="\\"', 'for="[::1]:80",', "for=;", "proto=http,", "http://", "x://", "Bearer "),
    *("bearer.", "token=", "token&", "a=1&", "/ws/", "/register/", "?sid=", "e30.", "e30"),
]


def header(name: str, begin: str = "", end: str = "") -> Callable[[str], object]:
    """The perimeter reads a header with this value, from a trusted proxy."""

    def read(value: str) -> object:
        headers = [(b"host", b"example.org")] if name != "host" else []
        return PERIMETER.admit("10.0.0.1", "http", [*headers, (name.encode(), (begin + value + end).encode("latin-1"))])

    return read


def headers(value: str) -> object:
    """The same with each piece of 50 in a header of its own."""
    said = [(b"x-forwarded-for", value[at : at + 50].encode("latin-1")) for at in range(0, len(value), 50)]
    return PERIMETER.admit("10.0.0.1", "http", [(b"host", b"example.org"), *said])


READERS: dict[str, Callable[[str], object]] = {
    "host": header("host"),
    "origin": header("origin"),
    "forwarded": header("forwarded"),
    "x-forwarded-for": header("x-forwarded-for"),
    "x-forwarded-for lines": headers,
    "x-forwarded-proto": header("x-forwarded-proto"),
    "x-forwarded-host": header("x-forwarded-host"),
    "authorization": lambda value: ACCESS.authenticate(value, "192.0.2.1"),
    "authorization bearer": lambda value: ACCESS.authenticate("Bearer " + value, "192.0.2.1"),
    "token in a query": lambda value: ACCESS.authenticate(None, "192.0.2.1", b"token=" + value.encode("latin-1")),
    "query": lambda value: query_token(value.encode("latin-1")),
    "log": log.redact_text,
}


@pytest.mark.parametrize("end", ["", "@"])
@pytest.mark.parametrize("begin", ["", "a=b;"])
def test_hostile_46_values_that_are_just_short_enough(begin: str, end: str) -> None:
    """The same below the bound beyond which a value is not looked at, with what no form of it allows at its end
    (hostile 46)."""
    for name in ("forwarded", "host", "origin"):
        most = 4_096 if name == "forwarded" else 300
        for piece in PIECES:
            assert is_linear(header(name, begin, end), piece, *[most - 10] * 3), (name, piece)


@pytest.mark.parametrize(
    "reader", [name if name == "x-forwarded-for" else pytest.param(name, marks=pytest.mark.alone) for name in READERS]
)
def test_hostile_46_headers_cost_what_they_weigh(reader: str) -> None:
    """A value eight times as long costs at most a little more than eight times as much, whatever it is made of (hostile
    46)."""
    for piece in PIECES:
        assert is_linear(READERS[reader], piece, 128_000, 256_000, 512_000), piece
