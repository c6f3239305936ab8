"""The principal for which a credential stands, however it is written."""

from __future__ import annotations

import pytest

from partyline.errors import Unauthenticated
from partyline.metrics import Counters
from partyline.relay.access import Access
from partyline.relay.revocations import Revoker
from partyline.trust.keys import EVERYBODY, KeyRing, Principal, key_hash

READER = Principal((), ("cats", "news.>"))
WRITER = Principal(("orders.*",), ())
KEYS = KeyRing([(key_hash("pl_reader"), READER), (key_hash("pl_writer"), WRITER)])


class Nothing:
    """An empty table of revocations."""

    def load(self) -> tuple[tuple[str, str, float], ...]:
        return ()

    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
        pass


def access(keys: KeyRing) -> Access:
    return Access(keys, Counters(), 0, None, Revoker(Nothing(), 60.0))


ACCESS = access(KEYS)


@pytest.mark.parametrize(
    ("header", "who"),
    [
        ("Bearer pl_reader", READER),
        ("Bearer pl_writer", WRITER),
        ("bearer pl_reader", READER),
        ("BEARER   pl_reader  ", READER),
    ],
)
def test_a_known_key_is_its_principal(header: str, who: Principal) -> None:
    """A key in an Authorization header, with the scheme in any case, stands for its principal, wherever it is
    listed."""
    assert ACCESS.authenticate(header, "192.0.2.1") is who


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "pl_reader",
        "Basic pl_reader",
        "Bearer pl_other",
        "Bearer PL_READER",
        "Bearer pl_reader,pl_writer",
        "Bearer pl_reader pl_writer",
        "Bearer pl_reade",
        "Bearer pl_readerx",
        "Bearer " + key_hash("pl_reader"),
        "Bearer " + key_hash("pl_reader").removeprefix("sha256:"),
        "Bearer \xff\xfe",
    ],
)
def test_everything_else_is_unauthenticated(header: str | None) -> None:
    """A missing key, another scheme, an unknown key and the stored hash itself get 401, and the message repeats none of
    them."""
    with pytest.raises(Unauthenticated) as caught:
        ACCESS.authenticate(header, "192.0.2.1")
    assert caught.value.http_status == 401
    assert ("www-authenticate", "Bearer") in caught.value.headers()
    assert "pl_" not in caught.value.message
    assert "sha256" not in caught.value.message


def test_without_keys_everybody_comes_in() -> None:
    """If neither keys nor signers of tokens are configured, whoever asks, with a key or not, may do everything."""
    for header in (None, "Bearer pl_whatever", "Basic x"):
        assert access(KeyRing()).authenticate(header, "192.0.2.1") is EVERYBODY
