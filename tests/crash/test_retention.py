"""What the log has forgotten across restarts, and what is damaged in it (hostile 4, 14)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from tests.process import command, environment, serving

from .clients import LONG, Frame, Http, Line, history, offset_of, run


def test_a_kill_behind_retention_repeats_no_position(tmp_path: Path) -> None:
    """When all messages have expired, a killed server goes on after the last position, and whoever resumes from an
    earlier one is told that it was not recovered (hostile 14)."""
    run(forgotten(tmp_path / "partyline.db"))


async def forgotten(db: Path) -> None:
    async with serving("--set", "max_age=200ms", db=db) as server:
        async with Http.open(server.port) as http:
            positions = []
            for number in range(20):
                _, answer = await http.call("POST", "/v1/topics/a/messages", {"data": number})
                positions.append(answer["position"])
            async with asyncio.timeout(LONG):
                while await history(server.port, "a"):
                    await asyncio.sleep(0.02)
        await server.end(signal.SIGKILL)
    async with serving(db=db) as server:
        heard: asyncio.Queue[Frame] = asyncio.Queue()
        line = await Line.open(server.port, heard.put_nowait)
        async with Http.open(server.port) as http, asyncio.timeout(LONG):
            assert (await heard.get()).type == "welcome"
            for asked, recovered in ((positions[0], False), (positions[18], False), (positions[19], True)):
                line.send(type="subscribe", topic="a", after=asked)
                reply = await heard.get()
                assert (reply.type, reply.recovered) == ("reply", recovered), asked
                assert reply.position == positions[19]
                line.send(type="unsubscribe", topic="a")
                assert (await heard.get()).type == "reply"
                page = (await http.call("GET", f"/v1/topics/a/messages?after={asked}"))[1]
                assert (page["recovered"], page["messages"]) == (recovered, [])
            _, answer = await http.call("POST", "/v1/topics/a/messages", {"data": "new"})
            assert offset_of(answer["position"]) == offset_of(positions[19]) + 1
        line.drop()
        assert await server.end() == 0


@pytest.mark.parametrize("name", ["partyline.db", "partyline.db-wal"])
def test_a_flipped_byte_is_refused(tmp_path: Path, name: str) -> None:
    """A message that changed in the file is never served: the server does not start, with exit code 2 and one sentence;
    in the write-ahead log the log ends at that message, as after a crash (hostile 4)."""
    run(flipped(tmp_path / "partyline.db", name))


async def flipped(db: Path, name: str) -> None:
    async with serving(db=db) as server:
        async with Http.open(server.port) as http:
            for number in range(20):
                assert (await http.call("POST", "/v1/topics/a/messages", {"data": f"needle {number}"}))[0] == 200
        await server.end(signal.SIGTERM if name == db.name else signal.SIGKILL)
    file = db.with_name(name)
    content = bytearray(file.read_bytes())
    content[content.index(b"needle 10")] ^= 0x20
    file.write_bytes(content)
    if name == db.name:
        arguments = command("serve", "--port", "0", "--db", str(db))
        done = await asyncio.to_thread(
            subprocess.run, arguments, env=environment(), capture_output=True, text=True, timeout=LONG
        )
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert f"{db} is damaged" in line
        assert "restore a backup of it, or choose another file with --db" in line
        return
    async with serving(db=db) as server:
        kept = [message["data"] for message in await history(server.port, "a")]
        assert kept == [f"needle {number}" for number in range(len(kept))]
        assert len(kept) == 10
        assert await server.end() == 0
