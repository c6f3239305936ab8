"""Which strangers talk to each other: a plain data structure, without a loop or a clock.

A stranger who starts is paired at once if somebody suitable waits. So no two of those who wait may meet: one has
blocked the other, or they are one person. As nobody blocks more than `MOST_BLOCKED`, at most 2 * MOST_BLOCKED + 1
people wait, however many there are: if each waits once, a search of the pool costs at most a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random, SystemRandom

from partyline.chat.words import remember

MOST_BLOCKED = 100
MOST_BLOCKERS = 2_000  # people whose blocks are remembered


@dataclass(slots=True)
class Stranger:
    """A page of a person: whom it talks to, and the person it talked to last."""

    person: str
    partner: str | None = None
    last: str | None = None
    place: int | None = None  # in the pool, while waiting


class Matching:
    """Pairs strangers by their ids, but never two of one person. A person's blocks outlive their ids.

    `waiting` are those who wait, in no order.
    """

    def __init__(self, random: Random | None = None) -> None:
        self._people: dict[str, Stranger] = {}
        self.waiting: list[str] = []
        self._blocked: dict[str, dict[str, None]] = {}  # by person; all of it oldest first
        self._random = random or SystemRandom()

    def __len__(self) -> int:
        """How many are known: waiting, talking, or between two talks."""
        return len(self._people)

    def partner(self, who: str) -> str | None:
        """The stranger that `who` talks to."""
        return None if (page := self._people.get(who)) is None else page.partner

    def last(self, who: str) -> str | None:
        """The person that `who` talked to in their last talk that is over."""
        return None if (page := self._people.get(who)) is None else page.last

    def waits(self, person: str) -> str | None:
        """The page of a person that waits, if any."""
        return next((who for who in self.waiting if self._people[who].person == person), None)

    def start(self, who: str, person: str | None = None) -> str | None:
        """Pair `who`, a page of `person`, with somebody at random, who is returned; None: `who` waits.

        Their last partner is chosen only if nobody else is suitable. If `who` is talking, nothing changes.
        """
        people, page = self._people, self._people.setdefault(who, Stranger(person or who))
        if page.partner is not None or page.place is not None:
            return page.partner
        others = [other for other in self.waiting if self.may_meet(who, other)]
        fresh = [other for other in others if page.last != people[other].person and people[other].last != page.person]
        if not others:
            page.place = len(self.waiting)
            self.waiting.append(who)
            return None
        other = self._random.choice(fresh or others)
        self._unpool(other)
        page.partner, people[other].partner = other, who
        return other

    def stop(self, who: str) -> str | None:
        """End the talk or the waiting of `who`; returns whom they left, to be told. `start` after it makes `next`."""
        page = self._people.get(who)
        if page is None:
            return None
        if page.place is not None:
            self._unpool(who)
        left = page.partner
        if left is not None:
            other = self._people[left]
            page.partner = other.partner = None
            page.last, other.last = other.person, page.person
        return left

    def block(self, who: str) -> str | None:
        """Never let `who` meet their current or last partner again. Ends the talk; returns whom they left.

        Ends waiting too. Beyond `MOST_BLOCKED` the one blocked first is forgotten; beyond `MOST_BLOCKERS` all blocks of
        the person whose last one is the oldest.
        """
        left = self.stop(who)
        page = self._people.get(who)
        if page is not None and page.last is not None:
            blocked = self._blocked.get(page.person, {})
            remember(blocked, page.last, None, MOST_BLOCKED)
            remember(self._blocked, page.person, blocked, MOST_BLOCKERS)
        return left

    def leave(self, who: str) -> str | None:
        """Forget `who`, but not whom they have blocked; returns whom they left."""
        left = self.stop(who)
        self._people.pop(who, None)
        return left

    def may_meet(self, one: str, other: str) -> bool:
        """Whether they are two people, neither of whom has blocked the other."""
        mine, theirs = self._people[one].person, self._people[other].person
        blocked = theirs in self._blocked.get(mine, ()) or mine in self._blocked.get(theirs, ())
        return mine != theirs and not blocked

    def _unpool(self, who: str) -> None:
        """Take `who` out of the pool; the last one takes their place."""
        page, last = self._people[who], self.waiting.pop()
        assert page.place is not None
        if last != who:
            self.waiting[page.place] = last
            self._people[last].place = page.place
        page.place = None
