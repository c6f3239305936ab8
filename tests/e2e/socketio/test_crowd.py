"""Thousands of sockets connect and leave, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path

import pytest

from partyline import Socket, SocketIO
from tests.crash.clients import TRIALS
from tests.process import environment
from tests.server.servers import eventually, partyline_server

CROWD = Path(__file__).with_name("crowd.py")
COUNT = 10_000 if TRIALS else 2_000
ROUNDS = 5
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.alone
def test_a_crowd_leaves_nothing_behind() -> None:
    """2,000 sockets (10,000 in `make trials`) connect, join three rooms and vanish, five times over: descriptors, tasks
    and tables are what they were, and memory does not grow from the second round on (hostile 43)."""
    io = SocketIO()

    @io.on_connect
    def enter(socket: Socket) -> None:
        socket.join("everybody", f"some {len(io.sockets) % 10}", f"own {socket.id}")

    async def main() -> None:
        async with partyline_server(extras=[io]) as (partyline, url):
            pipe = asyncio.subprocess.PIPE
            port = url.rpartition(":")[2]
            crowd = await asyncio.create_subprocess_exec(
                *(sys.executable, str(CROWD), port, str(COUNT), str(ROUNDS)), stdin=pipe, stdout=pipe, env=environment()
            )
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            before, tasks = descriptors(), len(asyncio.all_tasks())
            memory: list[int] = []
            for _ in range(ROUNDS):
                assert await crowd.stdout.readline() == b"connected\n"
                assert len(io.sockets) == len(io.connections) == COUNT
                assert len(io._members.members("everybody")) == COUNT
                crowd.stdin.write(b"\n")
                assert await crowd.stdout.readline() == b"gone\n"
                await eventually(lambda: not io.sockets and not partyline.site.live, "all have gone")
                assert not io.connections
                assert not io.engine.connections
                assert len(io._members) == 0
                assert not io._tasks
                assert len(partyline.site.timers) == 0
                assert len(asyncio.all_tasks()) == tasks
                assert descriptors() == before
                memory.append(resident())
                crowd.stdin.write(b"\n")
            assert await crowd.wait() == 0
            assert max(memory[1:]) - memory[0] < max(COUNT * 200, 1_000_000), memory  # bytes a socket, once

    asyncio.run(main())
