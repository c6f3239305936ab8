"""The server in the hands of an unlucky operator: files moved away, logs that nobody reads, few descriptors, closed
streams, closed terminals (hostile 22, 54, 57)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.calls import call
from tests.process import Server, command, environment, serving

from .clients import LONG, Frame, Line


async def publish(url: str, data: object = 1, topic: str = "cats") -> int:
    """Publish; the status."""
    return (await call(f"{url}/v1/topics/{topic}/messages", "POST", {"data": data}))[0]


async def kept(url: str, topic: str = "cats") -> list[object]:
    _, page = await call(f"{url}/v1/topics/{topic}/messages?limit=1000")
    return [message["data"] for message in page["messages"]]


async def accepted(url: str) -> None:
    """Publish until it is accepted: connections that are gone may still be counted."""
    async with asyncio.timeout(LONG):
        while True:
            with contextlib.suppress(ConnectionError):
                if await publish(url) == 200:
                    return
            await asyncio.sleep(0.05)


async def refused(port: int) -> None:
    """A request that is refused, which makes a line in the log."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"BAD\r\n\r\n")
    await reader.read()
    writer.close()


@contextlib.asynccontextmanager
async def in_shell(line: str, db: Path, *, errors: int = asyncio.subprocess.PIPE) -> AsyncIterator[Server]:
    """A server that a shell starts: `line` is what it runs, with `SERVE` for the command."""
    serve = shlex.join(command("serve", "--port", "0", "--db", str(db), "--log-format", "json"))
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        line.replace("SERVE", serve),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LONG):
            facts = await process.stdout.readline()
        if not facts:
            assert process.stderr is not None
            raise AssertionError((await process.stderr.read()).decode())
        yield Server(process, json.loads(facts))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class Client:
    """A client of /v1/ws that says ping and hears how it ends."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Frame] = asyncio.Queue()
        self._line: Line | None = None

    async def ping(self) -> None:
        """Return when the server has answered."""
        assert self._line is not None
        self._line.send(type="ping", id=7)
        async with asyncio.timeout(LONG):
            while (await self._heard.get()).id != 7:
                pass

    async def closed(self) -> int | None:
        """The close code, when the server has closed it."""
        assert self._line is not None
        async with asyncio.timeout(LONG):
            await self._line.closed
        return self._line.close_code

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, port: int) -> AsyncIterator[Client]:
        client = cls()
        client._line = await Line.open(port, client._heard.put_nowait)
        try:
            yield client
        finally:
            client._line.drop()


# Files


@pytest.mark.alone
@pytest.mark.parametrize("act", ["move", "replace", "folder"])
def test_a_database_that_is_taken_away(tmp_path: Path, act: str) -> None:
    """Within a second after the file is moved away, publishes get 503 and `/health` says so, connections stay, and
    doctor finds it; with the file back publishing goes on, and a restart has everything that was answered with 200
    (hostile 54)."""
    folder = tmp_path / "data"
    folder.mkdir()
    db, aside = folder / "partyline.db", tmp_path / "aside"

    async def main() -> None:
        kept_ones: list[object] = []
        async with serving(db=db) as server, Client.of(server.port) as line:
            for number in range(5):
                assert await publish(server.url, number) == 200
                kept_ones.append(number)
            if act == "folder":
                folder.rename(aside)
                folder.mkdir()
            else:
                db.rename(aside)
            if act == "replace":
                async with serving(db=tmp_path / "other.db") as other:
                    assert await other.end() == 0
                (tmp_path / "other.db").rename(db)
            began = time.monotonic()
            while await publish(server.url, f"late{len(kept_ones)}") == 200:
                kept_ones.append(f"late{len(kept_ones)}")
                assert time.monotonic() - began < 1.5
            assert (await call(f"{server.url}/health"))[0] == 503
            found = await asyncio.create_subprocess_exec(
                *command("doctor", "--db", str(db), "--set", "port=0"), stdout=subprocess.PIPE, env=environment()
            )
            told = (await found.communicate())[0].decode()
            expected = {
                "move": "its database file was moved away",
                "folder": "does not exist yet",  # the lock was moved away with it
                "replace": "not the file that it has open",
            }
            assert expected[act] in told, told
            await line.ping()
            if act == "folder":
                folder.rmdir()
                aside.rename(folder)
            else:
                aside.rename(db)
            async with asyncio.timeout(LONG):
                while await publish(server.url, "back") != 200:
                    await asyncio.sleep(0.1)
            kept_ones.append("back")
            assert (await call(f"{server.url}/health"))[0] == 200
            await line.ping()
            assert await server.end() == 0
            assert "put it back" in server.errors.decode() or "put the old one back" in server.errors.decode()
        async with serving(db=db) as server:
            there = await kept(server.url)
            assert [data for data in there if data in kept_ones] == kept_ones

    asyncio.run(main())


def test_a_small_disk_that_is_full_at_start(tmp_path: Path) -> None:
    """A full or read-only disk gives one line at start that says so, and exit code 2."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "partyline-test", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        for options, word in (("remount", "no room"), ("remount,ro", "read-only")):
            subprocess.run(["mount", "-o", options, str(disk)], check=True)
            done = subprocess.run(
                command("serve", "--port", "0", "--db", str(disk / "partyline.db")),
                capture_output=True,
                text=True,
                env=environment(),
                timeout=LONG,
            )
            assert done.returncode == 2, done
            assert done.stderr.count("\n") == 1
            assert word in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Streams and descriptors


def test_logs_that_nobody_reads(tmp_path: Path) -> None:
    """With a full pipe for its logs the server answers as always; when the logs are read again, they say how many lines
    were dropped; unread logs do not keep the server from ending (hostile 57)."""

    async def main() -> None:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        async with in_shell("exec SERVE", tmp_path / "partyline.db", errors=writing) as server:
            os.close(writing)
            for _ in range(30):
                for _ in range(20):
                    await refused(server.port)
                assert (await call(f"{server.url}/health"))[0] == 200
            assert await publish(server.url) == 200
            assert await server.end() == 0
        os.close(reading)

    asyncio.run(main())


@pytest.mark.parametrize("closed", [">&- 2>&- <&-", "2>&-", "<&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """A server whose standard streams were closed runs and keeps what it accepts, because none of its files gets the
    number of a standard stream."""

    async def main() -> None:
        port = _free_port()
        db = tmp_path / "partyline.db"
        serve = shlex.join(command("serve", "--port", str(port), "--db", str(db)))
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            f"exec {serve} {closed}",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(LONG):
                while True:
                    try:
                        assert await publish(url) == 200
                        break
                    except ConnectionError:
                        assert process.returncode is None
                        await asyncio.sleep(0.05)
            for number in range(3):
                assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
            await refused(port)
            assert await kept(url) == [1]
            process.terminate()
            async with asyncio.timeout(LONG):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    asyncio.run(main())


def test_few_descriptors(tmp_path: Path) -> None:
    """With a hard limit of 256 descriptors the server takes half of them for connections, and one line says what to do;
    with next to none it does not start, and one line says why (hostile 22)."""

    async def main() -> None:
        async with in_shell("ulimit -n 256 && exec SERVE", tmp_path / "partyline.db") as server:
            assert "128 connections (256 descriptors)" in server.facts["limits"]
            connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
            for _, writer in connections:
                writer.close()
            await accepted(server.url)
            assert await server.end() == 0
            lines = [line for line in server.errors.decode().splitlines() if "descriptors" in line]
            assert len(lines) == 1
            assert "ulimit -n" in lines[0]
            assert "LimitNOFILE" in lines[0]
        with pytest.raises(AssertionError, match=r"needs 64 at least.*ulimit -n"):
            async with in_shell("ulimit -n 20 && exec SERVE", tmp_path / "partyline.db"):
                pass

    asyncio.run(main())


# Signals


@pytest.mark.parametrize(
    "storm",
    [
        (signal.SIGHUP,),
        (signal.SIGHUP, signal.SIGHUP, signal.SIGPIPE, signal.SIGHUP),
        (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP),
    ],
)
def test_hangups_and_storms_of_signals(tmp_path: Path, storm: tuple[signal.Signals, ...]) -> None:
    """At SIGHUP, alone or among others, the server drains: clients hear 1012, and what was accepted is kept (hostile
    42, 57)."""
    db = tmp_path / "partyline.db"

    async def main() -> None:
        async with serving(db=db) as server, Client.of(server.port) as line:
            for number in range(10):
                assert await publish(server.url, number) == 200
            await line.ping()
            for number in storm:
                server.process.send_signal(number)
            assert await line.closed() == 1012
            assert await server.end(signal.SIGPIPE) == 0
        async with serving(db=db) as server:
            assert await kept(server.url) == list(range(10))

    asyncio.run(main())


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_goes(tmp_path: Path, nohup: bool) -> None:
    """When its terminal is closed the server drains: clients hear 1012 and it ends with 0. Under nohup it stays
    (hostile 42, 57)."""
    port = _free_port()
    arguments = command("serve", "--port", str(port), "--db", str(tmp_path / "partyline.db"))
    child, terminal = pty.fork()
    if not child:
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execve(arguments[0], arguments, environment())

    async def main() -> None:
        output = b""
        async with asyncio.timeout(LONG):
            while b"Ctrl-C" not in output:
                output += await asyncio.to_thread(os.read, terminal, 4096)
        async with Client.of(port) as line:
            await line.ping()
            os.close(terminal)
            if nohup:
                await asyncio.sleep(0.2)
                await line.ping()
                os.kill(child, signal.SIGTERM)
            assert await line.closed() == 1012

    try:
        asyncio.run(main())
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
