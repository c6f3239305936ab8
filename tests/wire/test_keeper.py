"""Frames between workers and their keeper, and what is in them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.errors import Conflict, MalformedRequest, PartylineError, StoreUnavailable
from partyline.interfaces import Outcome, Refused, Stored
from partyline.models import Draft, Message
from partyline.wire.keeper import MAX_FRAME, Failure, Frames, Placed, decode_worker, encode, frame


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
def test_frames_may_be_cut_anywhere(contents: list[bytes], size: int) -> None:
    """However the bytes are cut, the same frames come out, in their order."""
    data = b"".join(map(frame, contents))
    frames = Frames()
    found: list[bytes] = []
    for at in range(0, len(data), size):
        found += frames.feed(data[at : at + size])
    assert found == contents


def test_a_frame_that_is_too_long_is_refused_by_its_length() -> None:
    """Nothing of a frame is waited for that is longer than any may be."""
    with pytest.raises(MalformedRequest, match="longer than"):
        Frames().feed((MAX_FRAME + 1).to_bytes(4, "big"))


@given(st.binary(max_size=60))
def test_garbage_is_refused(data: bytes) -> None:
    """What is not a message of a worker raises what the line expects, and nothing else."""
    try:
        decode_worker(data)
    except msgspec.MsgspecError:
        pass


DRAFT = Draft("cats", b"1", "x", user="u", key="k", ttl=1.5, publisher="p")


@pytest.mark.parametrize(
    "outcome",
    [
        Stored(DRAFT, Message(DRAFT, 7, 1.5)),
        Stored(DRAFT, Message(Draft("cats", b"1", "x"), 5, 0.5), duplicate=True),
    ],
)
def test_what_became_of_a_draft(outcome: Outcome) -> None:
    """An outcome is the same for the one that handed the draft in."""
    assert msgspec.msgpack.decode(encode(Placed.of(outcome)), type=Placed).outcome(DRAFT) == outcome


@pytest.mark.parametrize(
    "error",
    [Conflict("no", code="id_conflict", field="id"), StoreUnavailable("later"), PartylineError("oh", limit="max_body")],
)
def test_an_error_is_the_same_error(error: PartylineError) -> None:
    """The class, the code, the field and the limit of an error arrive with it."""
    placed = msgspec.msgpack.decode(encode(Placed.of(Refused(DRAFT, error))), type=Placed).outcome(DRAFT)
    assert isinstance(placed, Refused)
    found = placed.error
    assert type(found) is type(error)
    assert Failure.of(found) == Failure.of(error)
