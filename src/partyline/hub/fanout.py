"""From one message to the bytes of every member: encode once per dialect, offer to each. The most travelled loop."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeAlias

from partyline.errors import CONTAINED
from partyline.interfaces import Dialect, Member
from partyline.models import Message, Payload, Policy

Payloads: TypeAlias = dict[Dialect, Payload | None]
"""A message as each dialect writes it; None where one could not."""


def fan_out(
    message: Message, members: Iterable[Member], policy: Policy = Policy.CLOSE, payloads: Payloads | None = None
) -> int:
    """Offer `message` to each of `members`; returns to how many. No await, no task, no copy per member.

    `payloads` is what it has been encoded to so far, where its audience is served in pieces.

    A member whose dialect fails to encode it is closed (1011), since it would have a hole, and so is one that raises
    in `offer`; all others get it first, and then the error is raised.
    """
    if payloads is None:
        payloads = {}
    draft = message.draft
    last: Dialect | None = None
    payload: Payload | None = None
    failure: BaseException | None = None
    failed: list[Member] = []
    count = 0
    for member in tuple(members):  # one that ends while it is offered something leaves its rooms
        dialect = member.dialect
        try:
            if dialect is not last:  # neighbours mostly speak alike: an identity test instead of a dict look-up
                last, payload = dialect, None
                if dialect in payloads:
                    payload = payloads[dialect]
                else:
                    payloads[dialect] = None
                    payload = Payload(dialect.encode(message), draft.room, policy, draft.key)
                    payloads[dialect] = payload
            if payload is not None:
                member.offer(payload)
                count += 1
                continue
        except CONTAINED as error:
            failure = error
        failed.append(member)
    for member in failed:
        with suppress(*CONTAINED):
            member.close(1011, "internal error")
    if failure is not None:
        raise failure
    return count
