"""API keys: which are known, and what each may do."""

from __future__ import annotations

import hashlib

import pytest

from partyline.errors import Forbidden
from partyline.trust.keys import EVERYBODY, KeyRing, Principal, key_hash

READER = Principal((), ("cats", "news.>"))
WRITER = Principal(("orders.*",), ())
RING = KeyRing([(key_hash("pl_reader"), READER), (key_hash("pl_writer"), WRITER)])


def test_a_key_is_kept_as_its_hash() -> None:
    """A key is configured as `sha256:` and its SHA-256 in hex."""
    assert key_hash("pl_x") == "sha256:" + hashlib.sha256(b"pl_x").hexdigest()


def test_a_known_key_is_its_principal() -> None:
    """A key stands for its principal, wherever it is listed; any other text, its hash among them, for nobody."""
    assert (RING.find("pl_reader"), RING.find("pl_writer")) == (READER, WRITER)
    for other in ("", "pl_reade", "pl_readerx", "PL_READER", key_hash("pl_reader"), "pl_reader pl_writer"):
        assert RING.find(other) is None


def test_without_keys_the_ring_is_open() -> None:
    """Without a key configured the ring is in open mode, in which everybody may do everything."""
    assert KeyRing().open_mode
    assert not RING.open_mode
    EVERYBODY.may_publish("any.topic")
    EVERYBODY.may_subscribe("any.topic")
    assert EVERYBODY.admin


@pytest.mark.parametrize(
    ("principal", "action", "topic", "allowed"),
    [
        (READER, "subscribe", "cats", True),
        (READER, "subscribe", "news.a.b", True),
        (READER, "subscribe", "news", False),
        (READER, "subscribe", "dogs", False),
        (READER, "publish", "cats", False),
        (WRITER, "publish", "orders.eu", True),
        (WRITER, "publish", "orders.eu.de", False),
        (WRITER, "publish", "cats", False),
        (WRITER, "subscribe", "orders.eu", False),
    ],
)
def test_rights_go_by_pattern(principal: Principal, action: str, topic: str, allowed: bool) -> None:
    """A principal may do what a pattern of that action covers; the rest is 403 and names the topic."""
    check = principal.may_publish if action == "publish" else principal.may_subscribe
    if allowed:
        check(topic)
        return
    with pytest.raises(Forbidden) as caught:
        check(topic)
    assert (caught.value.http_status, caught.value.field) == (403, "topic")
    assert repr(topic) in caught.value.message


def test_a_principal_may_nothing_by_default() -> None:
    """Rights are given, not taken away: an empty principal may neither publish, subscribe nor administer."""
    nobody = Principal()
    for check in (nobody.may_publish, nobody.may_subscribe):
        with pytest.raises(Forbidden):
            check("cats")
    assert not nobody.admin
