"""A server with few descriptors, and strangers that take all they can get."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

from tests.calls import call
from tests.crash.clients import Http
from tests.process import serving

DESCRIPTORS = 320  # of which half are kept for the database, logs and listeners
STRANGERS = 400


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_more_connections_than_descriptors(tmp_path: Path) -> None:
    """Strangers take no descriptor that the database needs, and do not make the server spin: whoever is connected
    publishes durably meanwhile, and when they have gone new connections are served (hostile 22)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with (
            serving(db=tmp_path / "party.db", descriptors=DESCRIPTORS) as server,
            Http.open(server.port) as http,
        ):
            assert (await http.call("POST", "/publish", {"topic": "cats", "message": "before"}))[0] == 200
            with ExitStack() as strangers:
                for _ in range(STRANGERS):
                    stranger, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", server.port)
                    strangers.callback(stranger.abort)
                before = cpu_seconds(server.pid)
                for _ in range(20):
                    status, answer = await http.call("POST", "/publish", {"topic": "cats", "message": "meanwhile"})
                    assert status == 200, answer
                    await asyncio.sleep(0.05)
                assert cpu_seconds(server.pid) - before < 0.5
                assert len(os.listdir(f"/proc/{server.pid}/fd")) < DESCRIPTORS - 100
            async with asyncio.timeout(20):
                while True:
                    try:
                        if (await call(f"{server.url}/health"))[0] == 200:
                            break
                    except OSError:
                        pass
                    await asyncio.sleep(0.05)
            status, page = await http.call("GET", "/v1/topics/cats/messages?after=earliest")
            assert status == 200
            assert len(page["messages"]) == 21
            assert await server.end() == 0

    asyncio.run(main())
