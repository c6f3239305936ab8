"""From one message to the bytes of every member: encode once per dialect, offer to each. The most travelled loop."""

from __future__ import annotations

from collections.abc import Iterable

from partyline.interfaces import Connection, Dialect
from partyline.models import Message, Payload, Policy


def fan_out(message: Message, members: Iterable[Connection], policy: Policy = Policy.CLOSE) -> int:
    """Offer `message` to each of `members`; returns to how many. No await, no task, no copy per member."""
    payloads: dict[Dialect, Payload] = {}
    last: Dialect | None = None
    payload = Payload(b"")
    count = 0
    for member in members:
        dialect = member.dialect
        if dialect is not last:  # neighbours mostly speak alike: an identity test instead of a dict look-up
            last = dialect
            found = payloads.get(dialect)
            if found is None:
                found = Payload(dialect.encode(message), message.room, policy, message.draft.key)
                payloads[dialect] = found
            payload = found
        member.offer(payload)
        count += 1
    return count
