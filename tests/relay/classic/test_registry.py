"""Registrations: how long one lives, what it may be used for, and what outlives the process."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partyline.config import Settings
from partyline.errors import Forbidden, NotFound, Overloaded, RateLimited
from partyline.hub.timers import SLOT, Timers
from partyline.metrics import Counters
from partyline.relay.classic.registry import Registry, id_hash
from partyline.stores.sqlite.registrations import Row
from partyline.testing import Clock

EPSILON = SLOT * 2  # a deadline is at most one slot late
EVERYTHING = (">",)


class MemoryTable:
    """A table that is written at once and counts its writes."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.saves = 0

    def load(self) -> Iterable[Row]:
        return list(self.rows.values())

    def save(self, row: Row) -> None:
        self.saves += 1
        self.rows[row.id_hash] = row

    def delete(self, id_hash: bytes) -> None:
        self.rows.pop(id_hash, None)

    async def flush(self) -> None:
        pass


class Member:
    """A session that records what it is told."""

    def __init__(self) -> None:
        self.topics: list[tuple[str, ...]] = []
        self.closed: list[int] = []

    def follow(self, topics: tuple[str, ...]) -> None:
        self.topics.append(topics)

    def close(self, code: int, reason: str = "") -> None:
        self.closed.append(code)


class House:
    """A registry with its clocks and its table, which can be started again."""

    def __init__(self, **limits: Any) -> None:
        self.loop = Clock(1_000.0)
        self.wall_offset = 1_000_000_000.0
        self.table = MemoryTable()
        self.limits = Settings(**limits)
        self.restart()

    def restart(self, down: float = 0.0) -> None:
        """A new process, `down` seconds after the last one ended: its connections are gone, its loop is a new one."""
        self.wall_offset += down
        wall = self.wall_offset + self.loop.time()
        self.loop = Clock(1_000.0)
        self.wall_offset = wall - 1_000.0
        self.counters = Counters()
        self.registry = Registry(
            self.table,
            Timers(cast("Any", self.loop)),
            self.counters,
            self.limits,
            clock=lambda: self.wall_offset + self.loop.time(),
        )

    def create(self, user: str = "1", topics: tuple[str, ...] = ("cats",), grants: tuple[str, ...] = EVERYTHING) -> str:
        return self.registry.create(user, topics, grants)

    def connect(self, connection_id: str) -> Member:
        """A connection of this registration."""
        member = Member()
        self.registry.attach(self.registry.find(connection_id), member)
        return member

    def disconnect(self, connection_id: str, member: Member) -> None:
        self.registry.detach(self.registry.find(connection_id), member)

    def knows(self, connection_id: str) -> bool:
        """Whether the id is found; if not, it is not in the table either."""
        try:
            self.registry.find(connection_id)
        except NotFound:
            assert id_hash(connection_id) not in self.table.rows
            return False
        assert id_hash(connection_id) in self.table.rows
        return True


# Ids


def test_an_id_is_random_and_kept_nowhere() -> None:
    """An id is 32 random hex digits; the registry and the table hold only its hash."""
    house = House(registrations_per_user=1_000)
    ids = [house.create() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(re.fullmatch("[0-9a-f]{32}", connection_id) for connection_id in ids)
    everything = repr(house.table.rows) + repr([vars_of(house.registry.find(connection_id)) for connection_id in ids])
    assert not any(connection_id in everything for connection_id in ids)
    assert not any(repr(bytes.fromhex(connection_id))[2:-1] in everything for connection_id in ids)


def vars_of(registration: object) -> dict[str, object]:
    return {
        name: getattr(registration, name)
        for name in type(registration).__slots__  # type: ignore[attr-defined]
        if name != "_registry"
    }


def test_a_public_id_opens_nothing() -> None:
    """The name of a registration in lists and logs is distinct, stays the same, and is not its id."""
    house = House()
    ids = [house.create() for _ in range(50)]
    public = [house.registry.find(connection_id).public_id for connection_id in ids]
    assert len(set(public)) == 50
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in public)
    for connection_id, name in zip(ids, public, strict=True):
        assert house.registry.find(connection_id).public_id == name
        assert name not in connection_id
        assert name not in id_hash(connection_id).hex()
        with pytest.raises(NotFound):
            house.registry.find(name)


@pytest.mark.parametrize("connection_id", ["", "x", "0" * 32, "0" * 31, "../x", "é", "\x00"])
def test_an_unknown_id_is_not_found(connection_id: str) -> None:
    """An unknown id gets 404 `unknown_connection`, with the way to a new one and without repeating the id."""
    house = House()
    house.create()
    with pytest.raises(NotFound) as caught:
        house.registry.find(connection_id)
    assert (caught.value.http_status, caught.value.code) == (404, "unknown_connection")
    assert "POST /register" in caught.value.message
    assert len(connection_id) < 2 or connection_id not in caught.value.message


def test_an_id_counts_to_the_letter() -> None:
    """An id in capitals, or with white space, is another id."""
    house = House()
    connection_id = house.create()
    assert not re.fullmatch("[0-9]*", connection_id)
    for other in (connection_id.upper(), f" {connection_id}", f"{connection_id}\n", connection_id[:-1]):
        with pytest.raises(NotFound):
            house.registry.find(other)


def test_a_registration_is_what_was_asked_for() -> None:
    """An id finds the user, the topics and the grants with which it was created."""
    house = House()
    found = house.registry.find(house.create("ann", ("cats", "dogs"), ("cats", "d*")))
    assert (found.user, found.topics, found.grants) == ("ann", ("cats", "dogs"), ("cats", "d*"))
    assert found.connection is None
    assert not found.used


# Lives


def test_an_unused_registration_expires() -> None:
    """An unused registration lives for unused_registration_life, to the slot, and no longer."""
    house = House(unused_registration_life=300.0)
    connection_id = house.create()
    house.loop.advance(299.9)
    assert house.knows(connection_id)
    house.loop.advance(0.1 + EPSILON)
    assert not house.knows(connection_id)
    assert len(house.registry) == 0


def test_a_connected_registration_does_not_expire() -> None:
    """A registration lives as long as a connection uses it."""
    house = House()
    connection_id = house.create()
    house.connect(connection_id)
    house.loop.advance(1_000_000.0)
    assert house.knows(connection_id)


def test_a_registration_outlives_its_connection() -> None:
    """After its connection is gone, an id is valid for resume_window, and no longer."""
    house = House(resume_window=120.0)
    connection_id = house.create()
    member = house.connect(connection_id)
    house.loop.advance(5_000.0)
    house.disconnect(connection_id, member)
    house.loop.advance(119.9)
    assert house.knows(connection_id)
    house.loop.advance(0.1 + EPSILON)
    assert not house.knows(connection_id)


def test_each_connection_opens_a_window_of_its_own() -> None:
    """A client that comes back within the window keeps its registration, and the next disconnect opens a whole window
    again."""
    house = House(resume_window=120.0)
    connection_id = house.create()
    for _ in range(5):
        member = house.connect(connection_id)
        house.loop.advance(500.0)
        house.disconnect(connection_id, member)
        house.loop.advance(119.0)
        assert house.knows(connection_id)
    house.loop.advance(1.0 + EPSILON)
    assert not house.knows(connection_id)


def test_without_a_window_a_registration_ends_with_its_connection() -> None:
    """With resume_window = 0 a registration ends with its connection, as in the simplest relays; unused ones still wait
    for their connection."""
    house = House(resume_window=0.0)
    used, unused = house.create(), house.create()
    house.disconnect(used, house.connect(used))
    assert not house.knows(used)
    house.loop.advance(299.0)
    assert house.knows(unused)
    house.loop.advance(1.0 + EPSILON)
    assert not house.knows(unused)


def test_a_second_connection_replaces_the_first() -> None:
    """A second connection with the same id replaces the first, which is returned to be closed."""
    house = House()
    registration = house.registry.find(house.create())
    first, second = Member(), Member()
    assert house.registry.attach(registration, first) is None
    assert house.registry.attach(registration, second) is first
    assert registration.connection is second
    assert (first.closed, second.closed) == ([], [])


def test_the_replaced_connections_end_opens_no_window() -> None:
    """When the replaced connection ends, its successor goes on, and no window opens."""
    for window in (0.0, 120.0):
        house = House(resume_window=window)
        connection_id = house.create()
        first, second = house.connect(connection_id), house.connect(connection_id)
        house.disconnect(connection_id, first)
        house.loop.advance(10_000.0)
        assert house.registry.find(connection_id).connection is second
        house.disconnect(connection_id, second)
        house.loop.advance(120.0 + EPSILON)
        assert not house.knows(connection_id)


# Removal


def test_a_removed_registration_is_gone_at_once() -> None:
    """After `remove` the id is neither found nor in the table, its deadline is not called, and removing again does
    nothing."""
    house = House()
    connection_id, other = house.create(), house.create()
    registration = house.registry.find(connection_id)
    house.registry.remove(registration)
    house.registry.remove(registration)
    assert not house.knows(connection_id)
    assert house.knows(other)
    assert len(house.registry) == 1
    house.loop.advance(301.0)
    assert len(house.registry) == 0


def test_a_removed_registration_does_not_come_back() -> None:
    """Whatever the connection of a removed registration still does, be it changing topics, ending or only now
    beginning, does not bring the registration back (hostile 37)."""
    house = House()
    connected, beginning = house.create(), house.create()
    member = house.connect(connected)
    for connection_id in (connected, beginning):
        registration = house.registry.find(connection_id)
        house.registry.remove(registration)
        house.registry.set_topics(registration, ("dogs",))
        assert house.table.rows.get(registration.id_hash) is None
        if connection_id is beginning:
            house.registry.attach(registration, member)
        house.registry.detach(registration, member)
        assert not house.knows(connection_id)
    house.loop.advance(10_000.0)
    house.restart()
    assert len(house.registry) == 0


# Limits


def test_a_user_has_a_number_of_registrations() -> None:
    """A user's registration beyond registrations_per_user gets 429 with the setting, the way out and a time to come
    back, is counted, and does not affect other users."""
    house = House(registrations_per_user=3)
    ids = [house.create("1") for _ in range(3)]
    with pytest.raises(RateLimited) as caught:
        house.create("1")
    error = caught.value
    assert (error.http_status, error.code, error.field) == (429, "too_many_registrations", "user_id")
    assert "registrations_per_user" in error.message
    assert "'1'" in error.message
    assert int(dict(error.headers())["retry-after"]) >= 1
    assert house.counters.limits == {"registrations_per_user": 1}
    assert len(house.registry) == len(house.table.rows) == 3
    house.create("2")
    house.registry.remove(house.registry.find(ids[1]))
    house.create("1")
    with pytest.raises(RateLimited):
        house.create("1")


def test_expired_registrations_make_room() -> None:
    """An expired registration no longer counts, neither for its user nor in all."""
    house = House(registrations_per_user=2, max_registrations=2)
    for _ in range(2):
        house.create("1")
    house.loop.advance(300.0 + EPSILON)
    for _ in range(2):
        house.create("1")
    with pytest.raises(RateLimited):
        house.create("1")


def test_all_users_have_a_number_of_registrations() -> None:
    """A registration beyond max_registrations gets 503 with the setting, and is counted; one that ends makes room."""
    house = House(max_registrations=3)
    ids = [house.create(str(number)) for number in range(3)]
    with pytest.raises(Overloaded) as caught:
        house.create("x")
    assert caught.value.http_status == 503
    assert "max_registrations" in caught.value.message
    assert house.counters.limits == {"max_registrations": 1}
    house.registry.remove(house.registry.find(ids[0]))
    house.create("x")
    with pytest.raises(Overloaded):
        house.create("y")


WIDE = tuple(f"{number:04}".ljust(200, "x") for number in range(100))  # 26,400 bytes, 1,024 of them free


def test_all_registrations_have_bytes_for_their_topics() -> None:
    """hostile 49: many wide topics are refused with 503 beyond max_registration_bytes, and counted; few topics never
    are, and a registration that goes, or takes fewer topics, makes room."""
    house = House(max_registration_bytes=2 * (26_400 - 1_024))
    first, second = house.create("1", WIDE), house.create("2", WIDE)
    with pytest.raises(Overloaded) as caught:
        house.create("3", WIDE[:4])
    assert caught.value.http_status == 503
    assert "max_registration_bytes" in caught.value.message
    assert house.counters.limits == {"max_registration_bytes": 1}
    small = house.create("3", WIDE[:3])
    house.registry.remove(house.registry.find(first))
    house.create("4", WIDE)
    with pytest.raises(Overloaded):
        house.create("5", WIDE)
    house.registry.set_topics(house.registry.find(second), ("cats",))
    house.registry.set_topics(house.registry.find(small), WIDE)


def test_topics_that_find_no_room_change_nothing() -> None:
    """A registration whose new topics find no room keeps the ones that it has, here and in the table."""
    house = House(max_registration_bytes=1)
    connection_id = house.create()
    registration, member = house.registry.find(connection_id), house.connect(connection_id)
    with pytest.raises(Overloaded):
        house.registry.set_topics(registration, WIDE)
    assert registration.topics == house.table.rows[registration.id_hash].topics == ("cats",)
    assert member.topics == []


def test_a_removed_registration_needs_no_room() -> None:
    """Topics of a registration that has gone, while its connection still ends, are counted nowhere."""
    house = House(max_registration_bytes=26_400)
    gone = house.registry.find(house.create())
    house.registry.remove(gone)
    house.registry.set_topics(gone, WIDE)
    house.registry.set_topics(gone, ())
    house.create("1", WIDE)
    with pytest.raises(Overloaded):
        house.create("2", WIDE)


def test_restored_topics_count() -> None:
    """What an earlier process left counts against max_registration_bytes."""
    house = House(max_registration_bytes=26_400)
    house.create("1", WIDE)
    house.restart()
    with pytest.raises(Overloaded):
        house.create("2", WIDE)


def test_a_long_user_id_does_not_fill_the_answer() -> None:
    """The message of a refusal shows only the beginning of a long user id."""
    house = House(registrations_per_user=1)
    house.create("x" * 10_000)
    with pytest.raises(RateLimited) as caught:
        house.create("x" * 10_000)
    assert len(caught.value.message) < 300


# Topics and grants


def test_topics_are_replaced() -> None:
    """New topics replace the old ones, here and in the table, and no other registration changes."""
    house = House()
    connection_id, other = house.create(topics=("cats",)), house.create(topics=("cats",))
    registration = house.registry.find(connection_id)
    house.registry.set_topics(registration, ("dogs", "birds"))
    assert registration.topics == ("dogs", "birds")
    assert house.table.rows[registration.id_hash].topics == ("dogs", "birds")
    assert house.registry.find(other).topics == ("cats",)


@pytest.mark.parametrize(
    ("grants", "topics", "allowed"),
    [
        ((">",), ["cats", "a.b.c"], True),
        (("cats",), ["cats"], True),
        (("cats",), [], True),
        (("cats", "news.*"), ["cats", "news.eu"], True),
        (("cats", "news.*"), ["cats", "news.eu.de"], False),
        (("cats",), ["cats", "dogs"], False),
        ((), ["cats"], False),
    ],
)
def test_topics_are_checked_against_the_grants(grants: tuple[str, ...], topics: list[str], allowed: bool) -> None:
    """Every topic must be covered by a grant of the registration's creator; one that is not gets 403 and is named."""
    house = House()
    registration = house.registry.find(house.create(grants=grants))
    if allowed:
        house.registry.check_grants(registration, topics)
        return
    with pytest.raises(Forbidden) as caught:
        house.registry.check_grants(registration, topics)
    assert (caught.value.http_status, caught.value.field) == (403, "topics")
    assert repr(topics[-1]) in caught.value.message


def test_using_it_is_written_down_once() -> None:
    """The use of a registration is saved with its first connection, and not again with later ones."""
    house = House()
    connection_id = house.create()
    assert house.table.saves == 1
    for _ in range(5):
        house.disconnect(connection_id, house.connect(connection_id))
    assert house.table.saves == 2
    assert house.table.rows[id_hash(connection_id)].used


# Restarts


def test_a_registration_outlives_the_process() -> None:
    """After a restart an id stands for the same user, topics and grants."""
    house = House()
    connection_id = house.create("ann", ("cats", "日本"), ("cats", "日本", "news.>"))
    house.registry.set_topics(house.registry.find(connection_id), ("cats",))
    house.restart(down=10.0)
    found = house.registry.find(connection_id)
    assert (found.user, found.topics, found.grants) == ("ann", ("cats",), ("cats", "日本", "news.>"))
    house.connect(connection_id)
    house.loop.advance(10_000.0)
    assert house.knows(connection_id)


def test_after_a_restart_a_window_opens() -> None:
    """A client that was connected or within its window when the process ended has a whole window after the next start,
    however long that took."""
    house = House(resume_window=120.0)
    connected, waiting = house.create(), house.create()
    house.connect(connected)
    house.disconnect(waiting, house.connect(waiting))
    house.loop.advance(100.0)
    house.restart(down=3_600.0)
    house.loop.advance(119.9)
    assert house.knows(connected)
    assert house.knows(waiting)
    house.loop.advance(0.1 + EPSILON)
    assert not house.knows(connected)
    assert not house.knows(waiting)


def test_after_a_restart_an_unused_life_goes_on() -> None:
    """The life of an unused registration does not start again at a restart: the rest of it is left."""
    house = House(unused_registration_life=300.0, resume_window=20.0)
    connection_id = house.create()
    house.loop.advance(100.0)
    house.restart(down=50.0)
    house.loop.advance(149.9)
    assert house.knows(connection_id)
    house.loop.advance(0.1 + EPSILON)
    assert not house.knows(connection_id)


def test_after_a_restart_nobody_is_late_already() -> None:
    """A registration that would have expired while the server was down has a resume window, because its client could
    not connect."""
    house = House(unused_registration_life=300.0, resume_window=120.0)
    connection_id = house.create()
    house.restart(down=10_000.0)
    house.loop.advance(119.9)
    assert house.knows(connection_id)
    house.loop.advance(0.1 + EPSILON)
    assert not house.knows(connection_id)


def test_without_a_window_a_restart_ends_what_was_connected() -> None:
    """With resume_window = 0 a restart is a disconnect: used registrations are gone, from the table too, and unused
    ones have the rest of their life."""
    house = House(resume_window=0.0, unused_registration_life=300.0)
    used, unused, old = house.create(), house.create(), house.create()
    house.connect(used)
    house.table.rows[id_hash(old)] = replace(house.table.rows[id_hash(old)], created=0.0)
    house.restart(down=100.0)
    assert not house.knows(used)
    assert not house.knows(old)
    assert house.knows(unused)
    house.loop.advance(200.0 + EPSILON)
    assert not house.knows(unused)
    assert house.table.rows == {}


def test_a_clock_that_was_set_back_prolongs_no_life() -> None:
    """When the wall clock shows a time before a registration's creation, it lives as long as a new one and no longer
    (hostile 8)."""
    house = House(unused_registration_life=300.0, resume_window=0.0)
    connection_id = house.create()
    house.restart(down=-1_000_000.0)
    house.loop.advance(299.9)
    assert house.knows(connection_id)
    house.loop.advance(0.1 + EPSILON)
    assert not house.knows(connection_id)


def test_restored_registrations_count() -> None:
    """Registrations of an earlier process count against the limits, per user and in all."""
    house = House(registrations_per_user=2, max_registrations=3)
    for user in ("1", "1", "2"):
        house.create(user)
    house.restart()
    assert len(house.registry) == 3
    with pytest.raises(RateLimited):
        house.create("1")
    with pytest.raises(Overloaded):
        house.create("3")


# Everything together


@dataclass
class Known:
    """What the model knows about a registration. Without a deadline it is connected."""

    user: str
    created: float
    deadline: float | None
    used: bool = False
    members: tuple[Member, ...] = ()  # the newest last; the others were replaced and have not ended yet


LIFE, WINDOW, PER_USER, IN_ALL = 10.0, 4.0, 3, 5


class Lives(RuleBasedStateMachine):
    """Whatever happens in whatever order, a registration exists exactly as long as it may, here and in the table, and
    the limits count exactly the existing ones."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(
            registrations_per_user=PER_USER,
            max_registrations=IN_ALL,
            unused_registration_life=LIFE,
            resume_window=WINDOW,
        )
        self.known: dict[str, Known] = {}
        self.gone: list[str] = []

    @property
    def now(self) -> float:
        return self.house.loop.time()

    def _pick(self, number: int) -> str | None:
        return list(self.known)[number % len(self.known)] if self.known else None

    @rule(user=st.sampled_from(("1", "2", "3")))
    def create(self, user: str) -> None:
        own = sum(known.user == user for known in self.known.values())
        try:
            connection_id = self.house.create(user)
        except RateLimited:
            assert own == PER_USER
        except Overloaded:
            assert own < PER_USER
            assert len(self.known) == IN_ALL
        else:
            assert own < PER_USER
            assert len(self.known) < IN_ALL
            wall = self.house.wall_offset + self.now
            self.known[connection_id] = Known(user, wall, self.now + LIFE)

    @rule(number=st.integers(0, 9))
    def connect(self, number: int) -> None:
        connection_id = self._pick(number)
        if connection_id is not None:
            known = self.known[connection_id]
            earlier = known.members[-1] if known.deadline is None else None
            member = Member()
            assert self.house.registry.attach(self.house.registry.find(connection_id), member) is earlier
            known.members, known.deadline, known.used = (*known.members, member), None, True

    @rule(number=st.integers(0, 9), which=st.integers(0, 9))
    def disconnect(self, number: int, which: int) -> None:
        connection_id = self._pick(number)
        if connection_id is not None and (members := self.known[connection_id].members):
            known, at = self.known[connection_id], which % len(members)
            self.house.disconnect(connection_id, members[at])
            if known.deadline is None and at == len(members) - 1:
                known.deadline = self.now + WINDOW
            known.members = (*members[:at], *members[at + 1 :])

    @rule(number=st.integers(0, 9))
    def remove(self, number: int) -> None:
        connection_id = self._pick(number)
        if connection_id is not None:
            self.house.registry.remove(self.house.registry.find(connection_id))
            del self.known[connection_id]
            self.gone.append(connection_id)

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds: int) -> None:
        self.house.loop.advance(seconds + EPSILON)
        for connection_id, known in list(self.known.items()):
            if known.deadline is not None and self.now >= known.deadline + SLOT:
                del self.known[connection_id]
                self.gone.append(connection_id)

    @rule(down=st.integers(0, 12))
    def restart(self, down: int) -> None:
        self.house.restart(float(down))
        for known in self.known.values():
            age = self.house.wall_offset + self.now - known.created
            known.deadline = self.now + (WINDOW if known.used else max(WINDOW, LIFE - age))
            known.members = ()

    @invariant()
    def the_registry_is_the_model(self) -> None:
        assert len(self.house.registry) == len(self.house.table.rows) == len(self.known)
        for connection_id, known in self.known.items():
            found = self.house.registry.find(connection_id)
            assert (found.user, found.used) == (known.user, known.used)
            assert found.connection is (known.members[-1] if known.deadline is None else None)
            assert self.house.table.rows[found.id_hash].used is known.used
        assert not any(self.house.knows(connection_id) for connection_id in self.gone)


TestLives = Lives.TestCase
TestLives.settings = settings(stateful_step_count=30, deadline=None)
