"""A message on its way to a large audience, a slice in each turn of the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection

from partyline.hub.fanout import Payloads, fan_out
from partyline.interfaces import Member
from partyline.models import Message, Policy


class Crowd:
    """The audience of one message, as it stood when its turn came, and how many of it have been served.

    `still` leaves out of a slice whoever the message is not for any more. Where the crowd is `open`, members may join
    and leave it while it is being served.
    """

    __slots__ = ("_at", "_gone", "_members", "_payloads", "_policy", "_seen", "_skipped", "_still", "message", "open")

    def __init__(
        self,
        message: Message,
        members: Collection[Member],
        policy: Policy,
        still: Callable[[Collection[Member]], Collection[Member]],
        *,
        open: bool,  # noqa: A002 - as a group is
    ) -> None:
        self.message = message
        self.open = open
        self._members = list(members)
        self._policy = policy
        self._still = still
        self._at = 0
        self._payloads: Payloads = {}
        self._gone: set[Member] = set()
        self._skipped: set[Member] = set()  # they were gone when their turn came
        self._seen: set[Member] | None = None  # all of `_members`; made when somebody joins meanwhile

    @property
    def served(self) -> bool:
        return self._at >= len(self._members)

    def serve(self, count: int) -> int:
        """Offer the message to the next `count` members; returns to how many of them. Raises what `fan_out` does."""
        chosen = self._members[self._at : self._at + count]
        self._at += count
        if self._gone:
            self._skipped.update(member for member in chosen if member in self._gone)
            chosen = [member for member in chosen if member not in self._gone]
        return fan_out(self.message, self._still(chosen), self._policy, self._payloads)

    def joined(self, member: Member) -> None:
        """`member` sees the message's room from now on, and has been told that it misses nothing after the one before:
        it is served last, unless it was in the audience already."""
        self._gone.discard(member)
        if self._seen is None:
            self._seen = set(self._members)
        if member not in self._seen or member in self._skipped:
            self._seen.add(member)
            self._skipped.discard(member)
            self._members.append(member)

    def left(self, member: Member) -> None:
        """`member` does not see the message's room any more."""
        self._gone.add(member)
