"""Who of the strangers talks to whom: a plain data structure, without a loop and without a clock.

Whoever starts is paired at once if anybody waits who may be met. So those who wait may not meet each other: each two of
them are blocked one way or the other. As nobody blocks more than `MOST_BLOCKED`, the pool never holds more than
2 * MOST_BLOCKED + 1 people, however many there are: looking through it costs no more than a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random, SystemRandom

MOST_BLOCKED = 100


@dataclass(slots=True)
class Stranger:
    """One person: whom they talk to, whom they talked to last, and whom they do not want to meet, oldest first."""

    partner: str | None = None
    last: str | None = None
    place: int | None = None  # in the pool, while waiting
    blocked: dict[str, None] = field(default_factory=dict)


class Matching:
    """Pairs strangers, known by their ids. Each call costs constant time; `block` may go through 100 names."""

    __slots__ = ("_people", "_pool", "_random")

    def __init__(self, random: Random | None = None) -> None:
        self._people: dict[str, Stranger] = {}
        self._pool: list[str] = []
        self._random = random or SystemRandom()

    def __len__(self) -> int:
        """How many are known: waiting, talking, or between two talks."""
        return len(self._people)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Those who wait."""
        return tuple(self._pool)

    def partner(self, who: str) -> str | None:
        """Whom `who` talks to."""
        person = self._people.get(who)
        return None if person is None else person.partner

    def start(self, who: str) -> str | None:
        """Pair `who` with somebody at random, who is returned; None: `who` waits.

        The one they talked to last comes only if nobody else may be met. Whoever talks goes on talking.
        """
        person = self._people.setdefault(who, Stranger())
        if person.partner is not None or person.place is not None:
            return person.partner
        others = [other for other in self._pool if self.may_meet(who, other)]
        fresh = [other for other in others if person.last != other and self._people[other].last != who]
        if not others:
            person.place = len(self._pool)
            self._pool.append(who)
            return None
        other = self._random.choice(fresh or others)
        self._unpool(other)
        person.partner, self._people[other].partner = other, who
        return other

    def stop(self, who: str) -> str | None:
        """End the talk or the waiting of `who`; returns whom they left, to be told. `start` behind it makes `next`."""
        person = self._people.get(who)
        if person is None:
            return None
        if person.place is not None:
            self._unpool(who)
        left = person.partner
        if left is not None:
            other = self._people[left]
            person.partner = other.partner = None
            person.last, other.last = left, who
        return left

    def block(self, who: str) -> str | None:
        """Never let `who` meet again whom they talk to, or talked to last. Ends the talk; returns whom they left.

        Ends waiting too. Beyond `MOST_BLOCKED` the one blocked first is forgotten.
        """
        left = self.stop(who)
        person = self._people.get(who)
        if person is not None and person.last is not None:
            person.blocked.pop(person.last, None)
            person.blocked[person.last] = None
            if len(person.blocked) > MOST_BLOCKED:
                del person.blocked[next(iter(person.blocked))]
        return left

    def leave(self, who: str) -> str | None:
        """Forget `who` and all they wanted; returns whom they left."""
        left = self.stop(who)
        self._people.pop(who, None)
        return left

    def may_meet(self, one: str, other: str) -> bool:
        """Whether neither has blocked the other."""
        return one not in self._people[other].blocked and other not in self._people[one].blocked

    def _unpool(self, who: str) -> None:
        """Take `who` out of the pool; the last of it takes the place."""
        person, last = self._people[who], self._pool.pop()
        assert person.place is not None
        if last != who:
            self._pool[person.place] = last
            self._people[last].place = person.place
        person.place = None
