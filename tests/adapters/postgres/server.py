"""A real PostgreSQL of a test's own, which may be stopped, killed, promoted and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket as sockets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from tests import tools

_HBA = """\
local all all trust
host all locked all scram-sha-256
host all all all trust
host replication all all trust
"""


class PostgresServer:
    """One server on a free port of loopback. `postgres` is its superuser; `app` owns the database `app`."""

    def __init__(self, folder: str, *options: str) -> None:
        tools.asyncpg()
        self._data = os.path.join(folder, "data")
        self._folder = folder
        self._options = options
        self.account = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        if self.account:
            shutil.chown(folder, **self.account)
        with sockets.create_server(("127.0.0.1", 0)) as one:
            self.port: int = one.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, user: str = "app", **options: str) -> str:
        """The address of the database `app`."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgres://{user}@127.0.0.1:{self.port}/app" + (f"?{query}" if query else "")

    def make(self) -> None:
        """Make its files."""
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        Path(self._data, "pg_hba.conf").write_text(_HBA)

    def make_standby_of(self, other: PostgresServer) -> None:
        """Make its files from those of a running server, which it follows from then on."""
        self._run(
            "pg_basebackup",
            "-D",
            self._data,
            "-R",
            "-c",
            "fast",
            "-h",
            "127.0.0.1",
            "-p",
            str(other.port),
            "-U",
            "postgres",
        )

    async def start(self) -> None:
        """Start it; returns when it answers."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        options = ["-p", str(self.port), "-k", self._folder, "-c", "listen_addresses=127.0.0.1"]
        for option in ("max_connections=60", "shared_buffers=16MB", *self._options):
            options += ["-c", option]
        with open(os.path.join(self._folder, "log"), "ab") as log:
            self._process = subprocess.Popen(
                [self._program("postgres"), "-D", self._data, *options], stdout=log, stderr=log, cwd="/", **self.account
            )
        ready = [self._program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            assert self._process.poll() is None, Path(self._folder, "log").read_text()[-2000:]

    async def stop(self) -> None:
        """End it, as fast as it can without a loss."""
        if self._process is not None:
            for pid in self._pids():
                os.kill(pid, signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            await asyncio.to_thread(self._process.wait, 30)
            self._process = None

    def kill(self) -> None:
        """Kill all its processes at once."""
        assert self._process is not None
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def hang(self) -> None:
        """Let it answer nothing until `go_on`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Let none of its files become larger, which to PostgreSQL is a disk that is full; None lets them."""
        for pid in self._pids():
            self._run("prlimit", "--pid", str(pid), f"--fsize={'unlimited' if size is None else size}:unlimited")

    async def promote(self) -> None:
        """Make a standby a primary."""
        await self.ask("SELECT pg_promote()", user="postgres")

    async def ask(self, statement: str, *values: Any, user: str = "app") -> Any:
        """The first value that a statement gives, on a connection of its own."""
        connection = await tools.asyncpg().connect(self.url(user))
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    async def make_app(self) -> None:
        """The role `app`, and its database."""
        connection = await tools.asyncpg().connect(f"postgres://postgres@127.0.0.1:{self.port}/postgres")
        await connection.execute("CREATE ROLE app LOGIN")
        await connection.execute("CREATE DATABASE app OWNER app")
        await connection.close()

    def _pids(self) -> Iterator[int]:
        """Its processes, the first one first: that starts the others."""
        assert self._process is not None
        yield self._process.pid
        for one in Path("/proc").iterdir():
            if one.name.isdigit():
                with contextlib.suppress(OSError):
                    if int((one / "stat").read_text().rpartition(")")[2].split()[1]) == self._process.pid:
                        yield int(one.name)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._program(program), *arguments], capture_output=True, text=True, check=False, cwd="/", **self.account
        )
        assert done.returncode == 0, done.stderr

    @staticmethod
    def _program(name: str) -> str:
        return tools.postgres(name)


@contextlib.asynccontextmanager
async def postgres_server(*options: str) -> AsyncIterator[PostgresServer]:
    """A running server with the database `app`."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(folder, *options)
        await asyncio.to_thread(server.make)
        await server.start()
        try:
            await server.make_app()
            yield server
        finally:
            await server.stop()


@contextlib.asynccontextmanager
async def pgbouncer(server: PostgresServer, mode: str) -> AsyncIterator[str]:
    """The address of the database `app` through a PgBouncer."""
    program = tools.program("pgbouncer")
    with sockets.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        users, settings = Path(folder, "users"), Path(folder, "pgbouncer.ini")
        users.write_text('"app" ""\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = trust\nauth_file = {users}\npool_mode = {mode}\nunix_socket_dir =\n"
        )
        if server.account:
            shutil.chown(folder, **server.account)
        process = subprocess.Popen([program, "-q", str(settings)], stderr=subprocess.DEVNULL, **server.account)
        try:
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.02)
            yield f"postgres://app@127.0.0.1:{port}/app"
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 10)
