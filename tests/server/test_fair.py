"""Turns: connections with more work than a slice wait in order, and strangers share a quarter of the time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from partyline.app import Partyline
from partyline.server.fair import SLICE, Fair
from tests.server.conftest import Run
from tests.server.peers import connected, request, websocket
from tests.server.servers import eventually, nothing_is_held, partyline_server


class Worker:
    """A connection with `left` slices of work, which records each of its turns in `served`."""

    def __init__(self, name: str, left: int, served: list[str], again: Callable[[Worker], None]) -> None:
        self.name = name
        self.left = left
        self.served = served
        self.again = again

    def go_on(self) -> None:
        self.served.append(self.name)
        self.left -= 1
        if self.name == "bad":
            raise RuntimeError("as asked")
        if self.left:
            self.again(self)


def test_those_that_wait_are_served_in_turn(run: Run) -> None:
    """Every connection gets one slice before any gets a second one, and one that fails does not hold up the others."""

    async def main() -> None:
        served: list[str] = []
        fair = Fair()
        for name in ("a", "bad", "b", "c"):
            fair.wait(Worker(name, 3, served, lambda one: fair.wait(one, 0.0001)), 0.0001)
        assert not served
        for _ in range(4):
            await asyncio.sleep(0)
        assert served == ["a", "bad", "b", "c", "a", "b", "c", "a", "b", "c"]
        assert not len(fair)

    run(main())


def test_a_turn_of_the_loop_is_bounded(run: Run) -> None:
    """However many wait, one turn of the loop serves only a few slices, and the next turns serve the rest."""

    async def main() -> None:
        served: list[str] = []
        fair = Fair()
        for number in range(30):
            fair.wait(Worker(str(number), 1, served, lambda one: None), SLICE)
        turns = [0]
        while len(fair):
            await asyncio.sleep(0)
            turns.append(len(served))
        assert max(after - before for before, after in itertools.pairwise(turns)) == 3
        assert served == [str(number) for number in range(30)]

    run(main())


def test_work_that_cannot_be_cut_takes_a_turn_alone(run: Run) -> None:
    """A connection whose last slice exceeded a turn's bound goes on, and is the only one served in that turn."""

    async def main() -> None:
        served: list[str] = []
        fair = Fair()
        for name in ("long", "short"):
            fair.wait(Worker(name, 1, served, lambda one: None), 0.1)
        await asyncio.sleep(0)
        assert served == ["long"]
        await asyncio.sleep(0)
        assert served == ["long", "short"]

    run(main())


def test_strangers_share_a_quarter_of_the_loop(run: Run) -> None:
    """Hostile peers, row 48: strangers together get a quarter of the time, however many they are; a first small amount
    is free."""

    async def main() -> None:
        served: list[str] = []
        now = [100.0]
        fair = Fair(lambda: now[0])
        cost = 0.001
        spent = 0.0
        waits = 0

        def work(one: Worker) -> None:
            nonlocal spent, waits
            while True:
                now[0] += cost
                spent += cost
                if fair.stranger(one, cost, one.name):
                    waits += 1
                    return

        workers = [Worker(str(number), 1_000_000, served, work) for number in range(20)]
        for one in workers:
            work(one)
        free = spent
        assert 0.02 <= free <= 0.06  # a burst of logins
        loop = asyncio.get_running_loop()
        began, busy = now[0], spent
        while now[0] < began + 2.0:
            # The clock advances to when the next one is due; its timer fires in the next turn of the loop.
            assert fair._timer is not None
            fair._timer.cancel()
            now[0] = max(now[0], fair._paid - 0.1)
            fair._next_stranger()
        assert loop.time() > 0
        assert (spent - busy) / (now[0] - began) <= 0.26
        assert {served.count(str(number)) for number in range(20)} <= {waits // 20 - 2, waits // 20 - 1, waits // 20}
        assert fair._timer is not None
        fair._timer.cancel()

    run(main())


def test_a_task_waits_for_its_turn_too(run: Run) -> None:
    """`turn` returns after those that already waited, and a task that is cancelled meanwhile does not hold up
    others."""

    async def main() -> None:
        served: list[str] = []
        fair = Fair()
        fair.wait(Worker("first", 1, served, lambda one: None), 1.0)

        async def task(name: str) -> None:
            await fair.turn(1.0)
            served.append(name)

        gone = asyncio.create_task(task("gone"))
        last = asyncio.create_task(task("last"))
        await asyncio.sleep(0)
        gone.cancel()
        await last
        assert served == ["first", "last"]

    run(main())


def test_a_machine_that_stood_still_keeps_no_stranger_waiting(run: Run) -> None:
    """A stall in the slice of one stranger costs all of them a second, not five times the stall: their logins would
    time out."""

    async def main() -> None:
        fair, went_on = Fair(), asyncio.Event()

        class Stranger:
            def go_on(self) -> None:
                went_on.set()

        assert fair.stranger(Stranger(), 60.0, "10.0.0.1")
        async with asyncio.timeout(10):
            await went_on.wait()
        assert not len(fair)

    run(main())


class Newcomer:
    """A connection that waits for its turn, or has had it."""

    def __init__(self, name: str, served: list[str]) -> None:
        self.name = name
        self.served = served

    def go_on(self) -> None:
        self.served.append(self.name)


def test_48_who_came_for_nothing_waits_the_next_time(run: Run) -> None:
    """hostile 48: after a flood of connections that came to nothing, new ones from its address wait until the
    strangers' share has paid for it; those from elsewhere do not."""

    async def main() -> None:
        served: list[str] = []
        now = [100.0]
        fair = Fair(lambda: now[0])
        for _ in range(80):
            assert not fair.owes(Newcomer("early", served), "10.0.0.1")
            fair.came_for_nothing(0.0002, "10.0.0.1")
        assert not fair.owes(Newcomer("elsewhere", served), "10.0.0.2")
        for _ in range(1_000):
            fair.came_for_nothing(0.0002, "10.0.0.1")
        waiting = Newcomer("waiting", served)
        assert fair.owes(waiting, "10.0.0.1")
        assert not fair.owes(Newcomer("elsewhere", served), "10.0.0.2")
        assert fair._paid <= now[0] + 0.5, "others would wait for all that a flood has cost"
        fair.forget(waiting, "10.0.0.1")
        assert not len(fair)
        now[0] += 0.6
        assert not fair.owes(Newcomer("later", served), "10.0.0.1")
        assert not served

    run(main())


def test_48_newcomers_do_not_wait_for_all_of_a_crowd(run: Run) -> None:
    """hostile 48: while hundreds of strangers of one address wait, one from another address is next but one."""

    async def main() -> None:
        served: list[str] = []
        now = [100.0]
        fair = Fair(lambda: now[0])
        for number in range(300):
            fair.stranger(Newcomer(f"crowd {number}", served), 0.002, f"2001:db8::{number:x}")
        assert fair.stranger(Newcomer("newcomer", served), 0.001, "10.0.0.2")
        for _ in range(3):
            now[0] = fair._paid
            fair._next_stranger()
        assert "newcomer" in served[:2]
        assert len(served) == 3
        now[0] += 1_000.0
        while len(fair):
            await asyncio.sleep(0.001)
        assert len(served) == len(set(served))

    run(main())


def test_48_the_first_slices_of_a_crowd_are_no_debt_of_newcomers(run: Run) -> None:
    """hostile 48: thousands of strangers have each had a slice before they could be made to wait; one who comes after
    them, from elsewhere, has its turn within a second."""

    async def main() -> None:
        served: list[str] = []
        now = [100.0]
        fair = Fair(lambda: now[0])
        for number in range(5_000):
            now[0] += SLICE
            fair.stranger(Newcomer(f"crowd {number}", served), SLICE, "10.0.0.1")
        came = now[0]
        assert fair.stranger(Newcomer("newcomer", served), 0.0001, "10.0.0.2")
        while "newcomer" not in served:
            now[0] = max(now[0], fair._paid - 0.1)
            fair._next_stranger()
        assert now[0] - came < 1.0
        assert fair._timer is not None
        fair._timer.cancel()

    run(main())


def test_48_a_task_that_is_cancelled_waits_no_more(run: Run) -> None:
    """hostile 48: nothing is left in the strangers' line of a task that was cancelled there."""

    async def main() -> None:
        fair = Fair(lambda: 100.0)
        task = asyncio.create_task(fair.turn(1.0, "10.0.0.1"))
        await asyncio.sleep(0)
        assert len(fair) == 1
        task.cancel()
        await asyncio.wait((task,))
        assert not len(fair)

    run(main())


def frozen(partyline: Partyline) -> None:
    """Let no time pass for the strangers' share, so that nothing is paid while the machine is slow."""
    partyline.site.fair._clock = lambda: 100.0


def test_48_who_is_refused_again_and_again_waits(run: Run) -> None:
    """hostile 48: requests for what is not there count as a stranger's: after some of them a connection waits before
    the next is read, and is answered all the same. Requests that are answered do not wait."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as peer, connected(url) as other:
            frozen(partyline)
            for _ in range(300):
                await peer.send(request("GET", "/health"))
                assert (await peer.answer()).status == 200
                assert not len(partyline.site.fair)
            for _ in range(300):
                await peer.send(request("GET", "/nowhere"))
                assert (await peer.answer()).status == 404
                if len(partyline.site.fair):
                    break
            else:
                raise AssertionError("it never waits")
            await other.send(request("GET", "/health"))
            assert (await other.answer()).status == 200

    run(main())


def test_48_a_flood_of_connections_waits_at_the_door(run: Run) -> None:
    """hostile 48: where connections with garbage have come and gone, the next ones from that address wait for their
    turn; whoever is connected does not."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as inside:
            frozen(partyline)
            socket = await websocket(inside, "/v1/ws", "Sec-WebSocket-Protocol: partyline.v1")
            assert "welcome" in str(await socket.text())
            for _ in range(300):
                async with connected(url) as peer:
                    await eventually(lambda: partyline.site.connections == 2, "it is accepted")
                    waits = len(partyline.site.fair)
                    await peer.send(b"\x16\x03\x01 garbage\r\n\r\n")
                    assert (await peer.answer()).status == 400
                await eventually(lambda: partyline.site.connections == 1, "it is gone")
                if waits:
                    break
            else:
                raise AssertionError("none of them waits")
            await socket.say('{"type":"ping","id":1}')
            assert '"id":1' in str(await socket.text())
            await inside.close()
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize("asks", [True, False])
def test_48_a_short_visit_is_nothing_only_where_nothing_is_asked(asks: bool, run: Run) -> None:
    """hostile 48: whoever asks something and leaves at once pays nothing; whoever opens a WebSocket and asks nothing
    counts as one who came for nothing."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            for _ in range(20):
                async with connected(url) as peer:
                    socket = await websocket(peer, "/v1/ws", "Sec-WebSocket-Protocol: partyline.v1")
                    assert "welcome" in str(await socket.text())
                    if asks:
                        await socket.say('{"type":"ping","id":1}')
                        assert '"id":1' in str(await socket.text())
                await eventually(lambda: partyline.site.connections == 0, "it is gone")
            assert (partyline.site.fair._paid > 0) is not asks

    run(main())


def test_48_whoever_was_cut_off_and_goes_on_sending_waits(run: Run) -> None:
    """hostile 48: what a peer sends after its connection was failed is a stranger's, however small each read is."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as peer:
            frozen(partyline)
            socket = await websocket(peer, "/v1/ws", "Sec-WebSocket-Protocol: partyline.v1")
            assert "welcome" in str(await socket.text())
            await peer.send(b"\xff\x80\0\0\0\0")  # reserved bits
            for _ in range(5_000):
                await peer.send(b"\x8a\x80\0\0\0\0")
                await asyncio.sleep(0)
                if len(partyline.site.fair):
                    break
            else:
                raise AssertionError("it never waits")

    run(main())
