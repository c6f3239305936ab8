"""Delivery: everything that is sent takes its turn here, in order, and goes to all its members from here.

A thing to be delivered is a `Parcel`. One that the log keeps takes its place with `reserve`, and is due when the log
answers; any other is due at once with `post`. Due parcels are served in order, and a large audience in slices, one in
each turn of the loop. Parcels of one `Lane` keep their order even where some of them wait for the log and others do
not. A member, dialect or publisher that fails costs nobody else anything.

Writing to ten thousand members holds the loop for as long as their system calls take (measured: 60 ms), and with it
every other socket, the answers to publishes and the handing over to the writer: hence the slices.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from partyline.errors import CONTAINED, Overloaded
from partyline.interfaces import NEWS, Dialect, Member, News, Outcome, Refused, Renewed, Store, Stored
from partyline.metrics import Counters
from partyline.models import Draft, Message, Payload, Policy

_log = logging.getLogger("partyline.hub")

_SMALL: Final = 512  # the largest audience, in members, that is served at once
_SLICE: Final = 64  # members of a larger one served in one turn of the loop
# Due parcels while a large audience is served; beyond that, everything is served without a pause.
_MOST_DUE: Final = 16_384
_MOST_DUE_BYTES: Final = 16 * 1024 * 1024
# Parcels that wait for the log, and as many again that wait for those; beyond that, the log is slower than its users.
_MOST_WAITING: Final = 50_000
_MOST_WAITING_BYTES: Final = 64 * 1024 * 1024


_ids = random.Random(os.urandom(32))  # noqa: S311 - ids open nothing


def message_id() -> str:
    """An id for a message whose publisher names none: 32 hex digits.

    Not from os.urandom: a system call releases the interpreter's lock, and the writer's thread would take it in the
    middle of each of the loop's reads (measured: half the throughput of durable publishing).
    """
    return f"{_ids.getrandbits(128):032x}"


class Lane:
    """The unserved parcels that have to keep their order."""

    __slots__ = ("parcels", "reserved")

    def __init__(self) -> None:
        self.parcels: deque[Parcel] = deque()
        self.reserved: Parcel | None = None  # the newest of them that waits for the log


class Parcel:
    """One thing to be delivered, until its whole audience has it. This one is for nobody."""

    __slots__ = ("lane", "message", "policy", "size", "then", "waited")

    open = False  # whether members that join while it is being served get it, too

    def __init__(self, lane: Lane | None = None, message: Message | None = None, size: int = 0) -> None:
        self.lane = lane
        self.message = message
        self.size = size  # bytes it holds while it waits
        self.policy = Policy.CLOSE  # what happens to it where a consumer is slow
        self.waited = False  # its turn did not come at once
        self.then: list[Parcel] | None = None  # what came after it in its lane, and waits for it

    def answered(self, outcome: Outcome) -> bool:
        """The log has answered: set `message` to what it keeps. False: the parcel needs no turn."""
        return True

    def waits(self) -> None:
        """Its turn does not come at once: fix whatever may change as it is now."""
        self.waited = True

    def members(self) -> Collection[Member]:
        """Its audience, now that its turn has come. May be a live view."""
        return ()

    def still(self, members: Collection[Member]) -> Collection[Member]:
        """The members of a slice that still belong to its audience."""
        return members

    def served(self) -> None:
        """Everybody has it."""

    def tell(self, outcome: Outcome) -> None:
        """Tell the sender how the log has answered; its turn has come, or will come."""


Payloads: TypeAlias = dict[Dialect, Payload | None]
"""A message as each dialect writes it; None where one could not."""


def fan_out(
    message: Message, members: Iterable[Member], policy: Policy = Policy.CLOSE, payloads: Payloads | None = None
) -> int:
    """Offer `message` to each of `members`; returns their number. No await, no task, no copy per member.

    `payloads` holds what it has been encoded to so far, where its audience is served in pieces.

    A member whose dialect fails to encode it, or that raises in `offer`, is closed (1011), since it would have a hole.
    All others get the message before the error is raised.
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


class Crowd:
    """The audience of one message, as it stood when its turn came, and how many of it have been served.

    `still` takes out of a slice the members that the message is no longer for. Members may join and leave an `open`
    crowd while it is being served.
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
        self._skipped: set[Member] = set()  # gone when their turn came
        self._seen: set[Member] | None = None  # all of `_members`; made when somebody joins meanwhile

    @property
    def served(self) -> bool:
        return self._at >= len(self._members)

    def serve(self, count: int) -> int:
        """Offer the message to the next `count` members; returns how many got it. Raises what `fan_out` does."""
        chosen = self._members[self._at : self._at + count]
        self._at += count
        if self._gone:
            self._skipped.update(member for member in chosen if member in self._gone)
            chosen = [member for member in chosen if member not in self._gone]
        return fan_out(self.message, self._still(chosen), self._policy, self._payloads)

    def joined(self, member: Member) -> None:
        """`member` sees the message's room from now on, and was told that it misses nothing after the message before:
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


class Delivery:
    """Everything that is sent and not served yet, kept in the log or not."""

    def __init__(
        self,
        counters: Counters,
        news: Callable[[News], Parcel],
        store: Store | None = None,
        *,
        most_waiting: int = _MOST_WAITING,
        small: int = _SMALL,
        slice_size: int = _SLICE,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`news` makes a parcel of a change in the log, the `store`, that nobody here waits for.

        At most `most_waiting` parcels wait for the log. An audience of more than `small` members is served `slice_size`
        at a time, one slice per turn of the loop; `later` calls a function in the next turn.
        """
        self.counters = counters
        self.reached = 0 if store is None else store.head  # all offsets up to this one have been offered
        self.crowd: Crowd | None = None  # the large audience that is being served
        self.most_waiting = most_waiting
        self._news = news
        self._store = store
        self._small = small
        self._slice = slice_size
        self._later = later or _call_soon
        self._reserved: deque[Parcel] = deque()  # in the order in which the log answers
        self._due: deque[Parcel] = deque()
        self._serving = False
        self._reserved_bytes = self._due_bytes = self._following = self._following_bytes = 0

    @property
    def unsettled(self) -> int:
        """How many parcels wait for the log or for their turn: their senders may not have been answered yet."""
        return len(self._reserved) + len(self._due)

    @property
    def idle(self) -> bool:
        """Whether everything that was due has been served."""
        return not self._due

    @property
    def in_hand(self) -> Parcel | None:
        """The parcel with the large audience that is being served."""
        return None if self.crowd is None else self._due[0]

    # Sending

    def keep(self, drafts: Sequence[Draft], parcels: Sequence[Parcel]) -> bool:
        """Give drafts to the log, each with the parcel that its answer makes due. False if it can take no more."""
        assert self._store is not None, "there is a log"
        if not self.reserve(parcels):
            return False
        self._store.append(*drafts)
        return True

    def reserve(self, parcels: Sequence[Parcel]) -> bool:
        """Give parcels their places. The log is asked to keep them, and answers in the order of these calls.

        False, without a place for any of them, if too much waits for the log already.
        """
        size = self._reserved_bytes
        for one in parcels:
            size += one.size
        if len(self._reserved) + len(parcels) > self.most_waiting or size > _MOST_WAITING_BYTES:
            self.counters.hit("max_waiting_publishes")
            return False
        self._reserved_bytes = size
        self._reserved.extend(parcels)
        for one in parcels:
            one.waited = True
            if (lane := one.lane) is not None:
                lane.parcels.append(one)
                lane.reserved = one
        return True

    def post(self, parcel: Parcel, *, must: bool = False) -> None:
        """Make it due now, or once everything before it in its lane has been served.

        Raises Overloaded if too much waits already, unless it `must` wait.
        """
        lane = parcel.lane
        if lane is None:
            self._push(parcel)
            return
        if lane.reserved is None:
            lane.parcels.append(parcel)
            self._push(parcel)
            return
        full = self._following >= self.most_waiting or self._following_bytes + parcel.size > _MOST_WAITING_BYTES
        if full and not must:
            self.counters.hit("max_waiting_publishes")
            raise Overloaded("more messages wait for the log than it can take: try again in a moment")
        parcel.waits()
        lane.parcels.append(parcel)
        if lane.reserved.then is None:
            lane.reserved.then = []
        lane.reserved.then.append(parcel)
        self._following += 1
        self._following_bytes += parcel.size

    def committed(self, batch: Sequence[Outcome | News]) -> None:
        """The store's one callback per batch: its outcomes are due in their order, then publishers are told."""
        for outcome in batch:
            if type(outcome) is Stored or isinstance(outcome, Refused):
                parcel = self._reserved.popleft()
                self._reserved_bytes -= parcel.size
                if parcel.answered(outcome):
                    self._push(parcel)
                if (lane := parcel.lane) is not None:
                    if lane.reserved is parcel:
                        lane.reserved = None
                    for other in parcel.then or ():
                        self._following -= 1
                        self._following_bytes -= other.size
                        self._push(other)
                try:
                    parcel.tell(outcome)
                except CONTAINED:  # one publisher's trouble must not reach the next one's message
                    self._failed("telling a publisher of its message failed")
            elif isinstance(outcome, NEWS):
                self.found(self._news(outcome))
                if isinstance(outcome, Renewed):  # everything is served before any position may have the new epoch
                    self._serve(None)

    def found(self, parcel: Parcel) -> None:
        """Make due now what the log brings though nobody here waits for it."""
        self._push(parcel)

    # Serving

    def _push(self, parcel: Parcel) -> None:
        self._due.append(parcel)
        self._due_bytes += parcel.size
        if len(self._due) == 1 and not self._serving:
            self._serve(self._small)
            return
        if not parcel.waited:
            parcel.waits()
        if not self._serving and (len(self._due) > _MOST_DUE or self._due_bytes > _MOST_DUE_BYTES):
            self.counters.hit("max_due_messages")
            self._serve(None)

    def _serve(self, most: int | None) -> None:
        """Serve at most so many parcels, and at most one slice of a large audience; None: everything."""
        due, left = self._due, most
        self._serving = True
        try:
            while due and left != 0:
                if self._take_turn(due[0]):
                    left = None if left is None else left - 1
                elif left is not None:
                    break
        finally:
            self._serving = False
        if due:
            self._later(self._go_on)

    def _go_on(self) -> None:
        if self._due:
            self._serve(self._small + 1)  # the one in hand, and others

    def _take_turn(self, parcel: Parcel) -> bool:
        """Offer it to its audience, or to a slice of a large one; False if some are left."""
        try:
            crowd = self.crowd
            if crowd is None:
                members = parcel.members()
                if members and parcel.message is not None:
                    if len(members) <= self._small:
                        self.counters.delivered += fan_out(parcel.message, members, parcel.policy)
                    else:
                        crowd = self.crowd = Crowd(
                            parcel.message, members, parcel.policy, parcel.still, open=parcel.open
                        )
            if crowd is not None:
                self.counters.delivered += crowd.serve(self._slice)
        except CONTAINED:
            self._failed("a message could not be delivered")
        if self.crowd is not None:
            if not self.crowd.served:
                return False
            self.crowd = None
        self._due.popleft()
        self._due_bytes -= parcel.size
        if parcel.lane is not None:
            parcel.lane.parcels.popleft()
        if parcel.message is not None and parcel.message.offset is not None:
            self.reached = parcel.message.offset
        try:
            parcel.served()
        except CONTAINED:
            self._failed("a step that follows a message failed")
        return True

    def _failed(self, what: str) -> None:
        self.counters.errors += 1
        _log.exception(what)


def _call_soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)
