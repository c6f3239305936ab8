"""Backup, restore and handover as an operator sees them: real servers, real files, what is printed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.calls import call
from tests.cli import commands
from tests.process import command, environment, serving

LONG = 20.0


async def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command; what it printed."""
    done = await asyncio.to_thread(commands.run, *arguments, COLUMNS="200")
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout, done.stderr


async def publish(url: str, data: object, topic: str = "cats") -> str:
    """Publish; the position."""
    status, answer = await call(f"{url}/v1/topics/{topic}/messages", "POST", {"data": data})
    assert status == 200, answer
    position: str = answer["position"]
    return position


async def history(url: str, after: str = "earliest", topic: str = "cats") -> dict[str, Any]:
    status, page = await call(f"{url}/v1/topics/{topic}/messages?after={after}")
    assert status == 200, page
    return dict(page)


def data(page: dict[str, Any]) -> list[object]:
    return [message["data"] for message in page["messages"]]


@pytest.mark.check
def test_backup_and_restore(tmp_path: Path) -> None:
    """A backup made while a server runs is restored while it is stopped: the messages are back, and whoever was beyond
    the backup is told `recovered: false` (hostile 9)."""

    async def main() -> None:
        db, backup = tmp_path / "partyline.db", tmp_path / "backup.db"
        async with serving(db=db) as server:
            first = await publish(server.url, 1)
            out, err = await run("backup", str(backup), "--db", str(db))
            assert "last offset 1" in out
            assert "\x1b" not in out + err
            _, err = await run("backup", str(backup), "--db", str(db), code=2)
            assert "exists" in err
            assert err.count("\n") == 1
            out, _ = await run("backup", str(backup), "--db", str(db), "--force", "--json")
            told = json.loads(out)
            assert (told["head"], told["epoch"]) == (1, first.partition("-")[0])
            lost = await publish(server.url, 2)
            _, err = await run("restore", str(backup), "--db", str(db), "--force", code=2)
            assert f"in use by another server (process {server.pid})" in err
            assert await server.end() == 0
        _, err = await run("restore", str(backup), "--db", str(db), code=2)
        assert "--force" in err
        out, _ = await run("restore", str(backup), "--db", str(db), "--force")
        kept = re.search(r"kept as (\S+)", out)
        assert kept is not None
        assert Path(kept[1]).exists()
        async with serving(db=db) as server:
            page = await history(server.url)
            assert data(page) == [1]
            assert page["recovered"]
            for position in (first, lost):
                page = await history(server.url, position)
                assert not page["recovered"]
                assert data(page) == [1], "the log starts again from what the backup has"
            assert (await publish(server.url, 3)).endswith("-2")

    asyncio.run(main())


@pytest.mark.check
def test_killed_restores(tmp_path: Path) -> None:
    """A restore that is killed (kill -9) at any moment leaves a database that a server starts with: the old or the
    new."""

    async def main() -> None:
        db, backup = tmp_path / "partyline.db", tmp_path / "backup.db"
        async with serving(db=db) as server:
            await publish(server.url, "x" * 900_000)
            await run("backup", str(backup), "--db", str(db))
            await publish(server.url, 2)
            assert await server.end() == 0
        for delay in (0.15, 0.3, 0.45):
            process = await asyncio.create_subprocess_exec(
                *command("restore", str(backup), "--db", str(db), "--force"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
            )
            await asyncio.sleep(delay)  # any moment will do
            if process.returncode is None:
                process.kill()
            await process.wait()
            async with serving(db=db) as server:
                assert len(data(await history(server.url))) in (1, 2)

    asyncio.run(main())


@pytest.mark.check
def test_serve_with_a_new_epoch(tmp_path: Path) -> None:
    """`serve --new-epoch` keeps messages and offsets, and accepts no earlier position."""

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with serving(db=db) as server:
            old = await publish(server.url, 1)
            assert await server.end() == 0
        async with serving("--new-epoch", db=db) as server:
            new = await publish(server.url, 2)
            assert new.partition("-")[0] != old.partition("-")[0]
            assert new.endswith("-2")
            page = await history(server.url, old)
            assert not page["recovered"]
            assert data(page) == [1, 2]
            assert await server.end() == 0
        async with serving(db=db) as server:
            assert (await history(server.url, new))["recovered"], "the next start keeps it"

    asyncio.run(main())


async def _holding_open(server: Any) -> asyncio.StreamWriter:
    """A request whose body never arrives, for which the drain waits."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    await writer.drain()
    await call(f"{server.url}/health")  # the head has arrived by now
    return writer


async def _line(stream: asyncio.StreamReader | None, *words: str) -> str:
    """The first line that contains all of these words."""
    assert stream is not None
    async with asyncio.timeout(LONG):
        while True:
            line = (await stream.readline()).decode()
            assert line, f"no line with {words}"
            if all(word in line for word in words):
                return line


async def _starting(db: Path, port: int, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command("serve", "--port", str(port), "--db", str(db), "--log-format", "json", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )


@pytest.mark.check
def test_a_server_that_drains_is_waited_for(tmp_path: Path) -> None:
    """A server started while its predecessor drains says that it waits, listens nowhere meanwhile, and then takes over
    its log, its position and its port (hostile 7, 42)."""

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with serving(db=db) as old:
            position = await publish(old.url, 1)
            open_request = await _holding_open(old)
            old.process.send_signal(signal.SIGTERM)
            await _line(old.process.stderr, "draining")
            new = await _starting(db, old.port)
            try:
                waiting = json.loads(await _line(new.stderr, "waiting"))
                assert waiting["holder"] == old.pid
                assert waiting["at_most"] == 40
                try:
                    await asyncio.open_connection("127.0.0.1", old.port)
                except ConnectionRefusedError:
                    pass
                else:
                    raise AssertionError("a server that cannot keep a message accepts connections")
                open_request.close()
                assert await old.end() == 0
                facts = json.loads(await _line(new.stdout, "listening"))
                assert facts["listening"] == old.url
                page = await history(old.url, position)
                assert page["recovered"]
                assert data(page) == []
                assert (await publish(old.url, 2)).endswith("-2")
            finally:
                new.terminate()
                await new.communicate()
            assert new.returncode == 0

    asyncio.run(main())


@pytest.mark.check
def test_a_planned_handover(tmp_path: Path) -> None:
    """With --handover the new server may be started first: it waits until the old one is stopped (hostile 7)."""

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with serving(db=db) as old:
            position = await publish(old.url, 1)
            new = await _starting(db, old.port, "--handover")
            try:
                await _line(new.stderr, "waiting")
                assert (await publish(old.url, 2)).endswith("-2"), "the old server goes on until it is stopped"
                assert await old.end() == 0
                await _line(new.stdout, "listening")
                assert data(await history(old.url, position)) == [2]
            finally:
                new.terminate()
                await new.communicate()

    asyncio.run(main())


@pytest.mark.check
def test_a_handover_that_nobody_makes(tmp_path: Path) -> None:
    """A server that does not finish in time is named in one line with the way out, and goes on (hostile 7)."""
    code = """
import sys, partyline.app
partyline.app._CLOSING = 0.0
sys.argv = ["partyline", *sys.argv[1:]]
from partyline.cli import main
main()
"""

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with serving(db=db) as old:
            arguments = ("serve", "--handover", "--db", str(db), "--port", "0", "--set", "drain_time=0.2")
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", code, *arguments],
                capture_output=True,
                text=True,
                env=environment(),
                timeout=LONG,
            )
            assert done.returncode == 2
            last = done.stderr.splitlines()[-1]
            assert f"in use by another server (process {old.pid}) and was not released within 0.2 s" in last
            assert "Traceback" not in done.stderr
            assert (await publish(old.url, 1)).endswith("-1")

    asyncio.run(main())


@pytest.mark.check
def test_a_stale_lock_file_means_nothing(tmp_path: Path) -> None:
    """What a killed server left in the lock file keeps nobody waiting (hostile 1)."""

    async def main() -> None:
        db = tmp_path / "partyline.db"
        async with serving(db=db) as server:
            assert await server.end(signal.SIGKILL) == -9
        Path(f"{db}.lock").write_text('{"pid":1,"draining":true}' + " " * 100)
        async with serving(db=db) as server:
            held = json.loads(Path(f"{db}.lock").read_text().split("\n")[0])
            assert held == {"pid": server.pid, "draining": False}

    asyncio.run(main())


@pytest.mark.check
@pytest.mark.parametrize("memory", [pytest.param(False, marks=pytest.mark.check), True])
def test_retention_by_settings(tmp_path: Path, memory: bool) -> None:
    """Rules of the settings file apply to their topics, pruned messages are counted, whoever resumes before them is
    told, and a topic beyond max_rooms gets 507 (rows max_messages, max_rooms)."""
    file = tmp_path / "partyline.toml"
    file.write_text('max_rooms = 2\n[[retention]]\ntopic = "logs.*"\nmax_messages = 5\nmax_bytes = "1kB"\n')

    async def main() -> None:
        db = ":memory:" if memory else tmp_path / "partyline.db"
        async with serving("--config", str(file), db=db) as server:
            first = await publish(server.url, 0, "logs.a")
            for number in range(1, 20):
                await publish(server.url, number, "logs.a")
                await publish(server.url, number)
            async with asyncio.timeout(LONG):
                while len(data(page := await history(server.url, topic="logs.a"))) > 5:
                    pass
            assert data(page) == [15, 16, 17, 18, 19]
            assert not (await history(server.url, first, "logs.a"))["recovered"]
            assert len(data(await history(server.url))) == 19
            status, answer = await call(f"{server.url}/v1/topics/dogs/messages", "POST", {"data": 1})
            assert (status, answer["error"]["code"]) == (507, "too_many_topics")
            metrics = await asyncio.to_thread(_text, f"{server.url}/metrics")
            assert "partyline_pruned_total 15.0" in metrics
            assert "partyline_damaged_total 0.0" in metrics
            assert 'partyline_limit_hits_total{limit="max_rooms"} 1.0' in metrics

    asyncio.run(main())


def test_a_rule_that_is_no_pattern(tmp_path: Path) -> None:
    """A rule whose topic is neither a topic nor a pattern stops the start with one line."""
    done = commands.run("serve", "--db", ":memory:", "--set", "retention=[{topic='a.>.b', max_messages=1}]")
    assert done.returncode == 2
    assert "retention 'a.>.b' is not a pattern" in done.stderr


def _text(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=LONG) as answer:
        return str(answer.read().decode())
