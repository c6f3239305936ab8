"""Revocations in memory: which tokens they refuse, and for how long."""

from __future__ import annotations

import pytest

from partyline.errors import Overloaded
from partyline.trust import revocations as module
from partyline.trust.keys import Token
from partyline.trust.revocations import Revocations

NOW = 1_000.0
KEPT = 100.0


def test_a_users_revocation_concerns_what_was_issued_until_then() -> None:
    """Revoking a user refuses their tokens issued up to that moment or without a time of issue, and no others."""
    found = Revocations(KEPT)
    assert not found.refuses(Token("ann", "t", NOW), NOW)
    assert found.revoke("sub", "ann", NOW) == NOW
    for issued, refused in ((NOW - 50, True), (NOW, True), (NOW + 0.001, False), (None, True)):
        assert found.refuses(Token("ann", "t", issued), NOW) is refused
        assert found.refuses(Token("ann", None, issued), NOW) is refused
        assert not found.refuses(Token("bob", "ann", issued), NOW)


def test_a_tokens_revocation_concerns_that_token() -> None:
    """Revoking an id refuses the token with it, whenever it was issued, and no other one."""
    found = Revocations(KEPT)
    found.revoke("jti", "t", NOW)
    for issued in (NOW - 50, NOW + 50, None):
        assert found.refuses(Token("ann", "t", issued), NOW)
        assert not found.refuses(Token("ann", "u", issued), NOW)
        assert not found.refuses(Token("t", None, issued), NOW)


def test_a_revocation_is_kept_for_its_time() -> None:
    """A revocation holds until the end of its time, even if the clock is set back meanwhile, and is then forgotten."""
    found = Revocations(KEPT)
    found.revoke("sub", "ann", NOW)
    found.revoke("jti", "t", NOW + 1)
    assert found.refuses(Token("ann", None, None), NOW - 500)
    assert found.refuses(Token("ann", None, None), NOW + KEPT)
    assert not found.refuses(Token("ann", None, None), NOW + KEPT + 0.001)
    assert found.oldest(NOW + KEPT) == NOW
    found.revoke("sub", "bob", NOW + KEPT + 0.5)
    assert len(found) == 2
    assert found.refuses(Token("x", "t", None), NOW + KEPT + 0.5)


def test_revoking_again_moves_the_time_on() -> None:
    """A second revocation covers tokens issued since the first, and never takes anything back."""
    found = Revocations(KEPT)
    found.revoke("sub", "ann", NOW)
    assert found.revoke("sub", "ann", NOW + 10) == NOW + 10
    assert found.refuses(Token("ann", None, NOW + 10), NOW + 10)
    assert found.revoke("sub", "ann", NOW - 50) == NOW + 10
    assert found.refuses(Token("ann", None, NOW + 10), NOW + KEPT + 10)
    assert len(found) == 1


def test_restored_revocations_hold() -> None:
    """Revocations of an earlier process still hold, and are forgotten in time."""
    found = Revocations(KEPT)
    found.restore([("sub", "ann", NOW), ("jti", "t", NOW + 5)])
    assert found.refuses(Token("ann", None, NOW), NOW + 50)
    assert found.refuses(Token("bob", "t", None), NOW + 50)
    found.revoke("sub", "bob", NOW + KEPT + 1)
    assert len(found) == 2


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One revocation too many is refused and changes nothing; an existing one can be renewed."""
    monkeypatch.setattr(module, "MAX_REVOCATIONS", 2)
    found = Revocations(KEPT)
    found.revoke("sub", "ann", NOW)
    found.revoke("sub", "bob", NOW)
    with pytest.raises(Overloaded) as caught:
        found.revoke("sub", "eve", NOW)
    assert caught.value.limit == "max_revocations"
    assert not found.refuses(Token("eve", None, None), NOW)
    found.revoke("sub", "ann", NOW + 1)
    found.revoke("sub", "eve", NOW + KEPT + 0.5)
