"""A wall clock that is set while the server runs (hostile 8)."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

from tests.process import serving
from tests.tools import preloaded

from .clients import LONG, Http, history, offset_of, run
from .parties import Ledger, LineSubscriber, taking_part

YEAR = 365 * 86400.0


class Wall:
    """The server's wall clock, off by this many seconds."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "offset"
        self.set(0.0)
        library = preloaded(Path(__file__).with_name("clock.c"), folder)
        self.env = {"LD_PRELOAD": library, "CLOCK_OFFSET": str(self._path)}

    def set(self, seconds: float) -> None:
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    """When the wall clock jumps a year ahead and two back, positions go on, nothing is forgotten or kept too long,
    retries are recognized, subscribers get everything once and in order, and messages have the clock's times."""
    run(jumps(tmp_path / "partyline.db", Wall(tmp_path)))


async def jumps(db: Path, wall: Wall) -> None:
    settings = ("--set", "max_age=1h", "--set", "idempotency_window=1h")
    positions: list[str] = []
    async with serving(*settings, db=db, env=wall.env) as server:
        ledger = Ledger(server.port, ("a",))
        ledger.up.set()
        subscriber = LineSubscriber(ledger, "a")
        async with taking_part([subscriber]), Http.open(server.port) as http:

            async def publish(name: str, **fields: object) -> bool:
                body = {"id": name, "data": name, **fields}
                status, answer = await http.call("POST", "/v1/topics/a/messages", body)
                assert status == 200, answer
                if not answer["duplicate"]:
                    positions.append(answer["position"])
                duplicate: bool = answer["duplicate"]
                return duplicate

            for number, offset in enumerate((0.0, YEAR, -YEAR)):
                wall.set(offset)
                assert not await publish(f"long{number}", ttl=600)
                assert not await publish(f"short{number}", ttl=0.5)
                assert not await publish(f"kept{number}")
                assert await publish("kept0")
                newest = (await history(server.port, "a"))[-1]
                assert abs(newest["time"] - (time.time() + offset)) < 60

            async def passed(name: str) -> None:
                async with asyncio.timeout(LONG):
                    while name in {message["id"] for message in await history(server.port, "a")}:
                        await asyncio.sleep(0.02)

            await passed("short2")
            left = [message["id"] for message in await history(server.port, "a")]
            assert left == [f"{kind}{number}" for number in range(3) for kind in ("long", "kept")]
            subscriber.finish = offset_of(positions[-1])
            await subscriber.finished()
        assert await server.end() == 0
    assert subscriber.order == [offset_of(position) for position in positions] == list(range(1, 10))
    # The clock is a year slow at the next start, too.
    async with serving(*settings, db=db, env=wall.env) as server:
        assert [message["id"] for message in await history(server.port, "a")] == left
        async with Http.open(server.port) as http:
            _, answer = await http.call("POST", "/v1/topics/a/messages", {"id": "kept0", "data": "kept0"})
            assert answer["duplicate"]
            _, answer = await http.call("POST", "/v1/topics/a/messages", {"data": "new"})
            assert offset_of(answer["position"]) == 10
        assert await server.end() == 0
