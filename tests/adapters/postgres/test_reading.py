"""Pages of a log in PostgreSQL, and what retention leaves of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from partyline.adapters.postgres import pruning
from partyline.adapters.postgres.log import PostgresLog
from partyline.adapters.postgres.placing import regex
from partyline.errors import InvalidValue, TooManyTopics
from partyline.interfaces import Outcome, Refused, Stored, View
from partyline.models import Draft
from partyline.stores.retention import Bounds, Retention
from partyline.topics import any_covers
from tests.adapters.postgres.server import PostgresServer

pytestmark = pytest.mark.check

Fresh = Callable[[], str]


class Node:
    """A log with a clock that is moved by hand."""

    def __init__(self, address: str, retention: Retention | None = None) -> None:
        self.now = 1_000_000.0
        self.log = PostgresLog(address, retention, clock=lambda: self.now)
        self.epoch = ""

    async def put(self, *drafts: Draft) -> list[Outcome]:
        """Append each for itself."""
        return list(await self.log.append(self.epoch, [(draft,) for draft in drafts]))

    async def prune(self) -> None:
        """All that retention has to do now."""
        while await self.log._pruner.round():
            pass

    async def offsets(self, view: View, after: int = 0, limit: int = 100) -> list[int]:
        """Those of a view's next page."""
        page = await self.log.read(self.epoch, view, after, limit)
        return [message.offset or 0 for message in page.messages]


def on(address: str, test: Callable[[Node], Awaitable[None]], retention: Retention | None = None) -> None:
    """Run a test on a node."""

    async def main() -> None:
        node = Node(address, retention)
        node.epoch = (await node.log.connect(0)).epoch
        await test(node)
        await node.log.close()

    asyncio.run(main())


def draft(room: str = "cats", number: int = 0, data: bytes = b"1", **rest: object) -> Draft:
    return Draft(room, data, f"{room}{number}", **rest)  # type: ignore[arg-type]


def of(*rooms: str, patterns: tuple[str, ...] = (), user: str | None = None) -> View:
    return View(frozenset(rooms), patterns, user)


_PATTERNS = ("a", "a.b", "a.*", "*.b", "*", ">", "a.>", "*.>", "a.*.c", "a+b", "é.*", "[x]", "$x.>", "a|b", "^a")
_ROOMS = (
    *("a", "b", "a.b", "a.b.c", "a.x.c", "x.b", "a+b", "aab", "aXb", "é.x", "[x]", "x", "$x.y", "a|b", "^a"),
    *("\x1fa", "\x1f.b"),
)


@pytest.mark.parametrize("pattern", _PATTERNS)
def test_a_pattern_finds_what_it_covers(server: PostgresServer, pattern: str) -> None:
    """The regular expression of a pattern finds the rooms that it covers, and no others."""

    async def main() -> None:
        statement = "SELECT array_agg(r) FROM unnest($1::text[]) AS r WHERE r ~ $2"
        found = await server.ask(statement, list(_ROOMS), regex(pattern))
        assert (found or []) == [room for room in _ROOMS if any_covers((pattern,), room)]

    asyncio.run(main())


def test_a_view_of_many_rooms_is_a_walk_of_the_log(fresh: Fresh) -> None:
    """A view with more rooms than are looked up one by one has the same pages as one with few."""

    async def test(node: Node) -> None:
        await node.put(*(draft(f"r{number % 100}.x", number) for number in range(400)), draft("other", 1))
        few, many = of("r1.x", "r2.x"), of(patterns=("*.x",))
        assert await node.offsets(few, 0, 3) == [2, 3, 102]
        assert await node.offsets(many, 0, 500) == list(range(1, 401))
        assert await node.offsets(many, 100, 3) == [101, 102, 103]
        page = await node.log.read(node.epoch, of("other", patterns=("r1.*",)), 300, 10)
        assert [one.room for one in page.messages] == ["r1.x", "other"]
        assert (page.next, page.more) == (401, False)

    on(fresh(), test)


def test_what_others_may_not_see_costs_pages_and_not_messages(fresh: Fresh) -> None:
    """A view that sees few of a room's messages gets them all, over pages that come to an end."""

    async def test(node: Node) -> None:
        await node.put(*(draft(number=number, user="b" if number % 700 else "a") for number in range(3000)))
        found, after = [], 0
        for _ in range(100):
            page = await node.log.read(node.epoch, of("cats", user="a"), after, 2)
            assert page.next > after
            found += [one.offset for one in page.messages]
            after = page.next
            if not page.more:
                break
        assert found == [1, 701, 1401, 2101, 2801]

    on(fresh(), test)


def test_a_page_is_bounded_in_bytes(fresh: Fresh) -> None:
    """However large messages are, a page, a stretch and the newest of a room have some megabytes, and one at least."""

    async def test(node: Node) -> None:
        await node.put(*(draft(number=number, data=b"x" * 1_500_000) for number in range(6)))
        page = await node.log.read(node.epoch, of("cats"), 0, 10)
        assert [one.offset for one in page.messages] == [1, 2, 3]
        assert (page.next, page.more) == (3, True)
        assert [one.offset for one in (await node.log.tail(node.epoch, 3, 512, 0.0)).messages] == [4, 5, 6]
        assert [one.offset for one in (await node.log.tail(node.epoch, 0, 512, 0.0)).messages] == [1, 2, 3]
        assert [one.offset for one in await node.log.newest(node.epoch, "cats", 6, 10)] == [3, 4, 5]

    on(fresh(), test)


def test_what_no_row_can_hold_is_refused_alone(fresh: Fresh) -> None:
    """NUL, half a character and a name of thousands of bytes are refused; what was appended with them is kept."""

    async def test(node: Node) -> None:
        drafts = [draft("a\0b"), draft("cats"), draft("x" * 3000), draft("dogs", user="\0"), draft("\ud800")]
        outcomes = await node.put(*drafts, draft("\x1fcats"))
        assert [isinstance(one, Stored) for one in outcomes] == [False, True, False, False, False, True]
        assert all(isinstance(one.error, InvalidValue) for one in outcomes if isinstance(one, Refused))
        assert await node.offsets(of("cats", "\x1fcats", patterns=(">",))) == [1, 2]

    on(fresh(), test)


def test_what_is_twice_in_one_append_is_stored_once(fresh: Fresh) -> None:
    """A draft that comes twice in one append, or is there already, is a duplicate of the first; another body with its
    id is refused."""

    async def test(node: Node) -> None:
        one = draft()
        stored = await node.put(one, one, draft(), draft(data=b"2"), draft("dogs"))
        told = [(outcome.message.offset, outcome.duplicate) for outcome in stored if isinstance(outcome, Stored)]
        assert told == [(1, False), (1, True), (1, True), (2, False)]
        assert isinstance(stored[3], Refused)
        again = await node.put(draft("birds"), one)
        told = [(outcome.message.offset, outcome.duplicate) for outcome in again if isinstance(outcome, Stored)]
        assert told == [(3, False), (1, True)]

    on(fresh(), test)


def test_a_log_full_of_rooms_takes_messages_for_those(fresh: Fresh) -> None:
    """Beyond max_rooms what would be a new room is refused, group by group; known rooms go on."""

    async def test(node: Node) -> None:
        await node.put(draft("a"), draft("b"))
        outcomes = await node.put(draft("c"), draft("d"), draft("a", 1), draft("c", 1))
        assert [isinstance(one, Stored) for one in outcomes] == [True, False, True, True]
        assert isinstance(outcomes[1], Refused)
        assert isinstance(outcomes[1].error, TooManyTopics)
        node.now += 8 * 86400.0
        await node.prune()
        assert all(isinstance(one, Stored) for one in await node.put(draft("x"), draft("y"), draft("z")))

    on(fresh(), test, Retention(max_rooms=3))


def test_what_is_too_old_goes(fresh: Fresh) -> None:
    """Messages go with their age; a view is told from where on it is whole, also of rooms of which nothing is left."""

    async def test(node: Node) -> None:
        await node.put(draft("cats"), draft("dogs"), draft("logs.x"))
        node.now += 100.0
        await node.put(draft("cats", 1))
        await node.prune()
        assert await node.offsets(of(patterns=(">",))) == [1, 2, 4]
        node.now += 950.0
        await node.prune()
        assert await node.offsets(of(patterns=(">",))) == [4]
        page = await node.log.read(node.epoch, of("cats"), 0, 10)
        assert page.oldest == 2
        assert (await node.log.read(node.epoch, of("dogs"), 0, 10)).oldest == 3
        assert (await node.log.read(node.epoch, of("logs.x"), 0, 10)).oldest == 4
        assert (await node.log.read(node.epoch, of(patterns=(">",)), 0, 10)).oldest == 4
        assert (await node.log.tail(node.epoch, 0, 10, 0.0)).oldest == 4
        await node.put(draft("logs.x", 5))
        assert (await node.log.read(node.epoch, of("logs.x"), 4, 10)).oldest == 4

    on(fresh(), test, Retention(max_age=1000.0, rules=(("logs.>", Bounds(max_age=90.0)),)))


def test_what_is_too_much_goes_after_a_minute(fresh: Fresh) -> None:
    """Bounds of messages and bytes hold for each room, but nothing goes before every node has surely got it."""

    async def test(node: Node) -> None:
        for number in range(10):
            await node.put(draft("cats", number), draft("big", number, b"x" * 100))
        await node.prune()
        assert len(await node.offsets(of("cats", "big"))) == 20
        node.now += 61.0
        await node.put(draft("cats", 10))
        await node.prune()
        node.now += 11.0
        await node.prune()
        assert await node.offsets(of("cats")) == [17, 19, 21]
        assert await node.offsets(of("big")) == [18, 20]
        await node.put(draft("big", 11, b"x" * 1000))
        node.now += 72.0
        await node.prune()
        assert await node.offsets(of("big")) == [22]
        assert (await node.log.read(node.epoch, of("big"), 0, 1)).oldest == 21

    on(fresh(), test, Retention(max_messages=3, rules=(("big", Bounds(max_bytes=250)),)))


def test_one_node_prunes_at_a_time(fresh: Fresh, server: PostgresServer) -> None:
    """While one node prunes, the others leave it alone."""
    address = fresh()

    async def test(node: Node) -> None:
        await node.put(draft("cats"))
        node.now += 8 * 86400.0
        other = Node(address)
        other.now = node.now
        line = other.log._pruner._line
        async with line.use() as connection, connection.transaction():
            assert await connection.fetchval(other.log._address.sql(pruning._TRY_LOCK))
            await node.prune()
            assert await node.offsets(of("cats")) == [1]
        line.drop()
        await node.prune()
        assert await node.offsets(of("cats")) == []
        await other.log.close()

    on(address, test)
