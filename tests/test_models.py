"""Positions as text, and immutable values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import InvalidValue
from partyline.models import MAX_OFFSET, Draft, Message, Page, Payload, Policy, Position, Receipt

EPOCH = "0123456789abcdef"
DRAFT = Draft("cats", b"1", "id")


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(0, MAX_OFFSET))
@settings(deadline=None)
def test_a_position_is_read_back(epoch: str, offset: int) -> None:
    """Every position is read back from its text."""
    position = Position(epoch, offset)
    assert str(position) == f"{epoch}-{offset}"
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        EPOCH,
        f"{EPOCH}-",
        f"{EPOCH}--1",
        f"{EPOCH}-+1",
        f"{EPOCH}-01",
        f"{EPOCH}-00",
        f"{EPOCH}-1.0",
        f"{EPOCH}-1e3",
        f"{EPOCH}-0x1",
        f"{EPOCH}-1_0",
        f"{EPOCH}-1\n",
        f"{EPOCH}-1 ",
        f" {EPOCH}-1",
        f"{EPOCH}-\uff11",
        f"{EPOCH}-{MAX_OFFSET + 1}",
        f"{EPOCH}-{10**400}",
        f"{EPOCH.upper()}-1",
        f"{EPOCH[:-1]}-1",
        f"{EPOCH}0-1",
        f"{EPOCH[:-1]}g-1",
        f"{EPOCH}_1",
        "1",
        "latest",
        "x" * 10_000,
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_what_is_no_position_is_refused(text: str) -> None:
    """A text that is not a position gets 422 `invalid_position`, with a message of one short line."""
    with pytest.raises(InvalidValue) as caught:
        Position.parse(text)
    assert (caught.value.http_status, caught.value.code) == (422, "invalid_position")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_the_largest_offset_is_exact_in_javascript() -> None:
    """Offsets stay below 2^53, where JavaScript's numbers are whole."""
    assert MAX_OFFSET == 2**53 - 1
    assert int(float(MAX_OFFSET)) == MAX_OFFSET
    assert Position.parse(f"{EPOCH}-{MAX_OFFSET}").offset == MAX_OFFSET


@pytest.mark.parametrize(
    "value",
    [
        Position(EPOCH, 1),
        DRAFT,
        Message(DRAFT, 1, 0.0),
        Receipt("cats", "id", None),
        Page((), 0, False, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_do_not_change(value: Any) -> None:
    """Values that cross a boundary are immutable, have no dictionary, and are compared by content."""
    names = value.__struct_fields__
    for name in names:
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    assert not hasattr(value, "__dict__")
    assert value == type(value)(*[getattr(value, name) for name in names])


def test_a_message_is_of_its_drafts_room() -> None:
    """A message's room is that of its draft."""
    assert Message(DRAFT, None, 0.0).room == "cats"


def test_a_payload_is_kept_unless_it_says_otherwise() -> None:
    """A payload without a policy, like an answer to a client, is never dropped."""
    payload = Payload(b"x")
    assert payload.policy is Policy.CLOSE
    assert (payload.room, payload.key) == ("", None)
    assert not hasattr(payload, "__dict__")
