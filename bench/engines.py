"""Engines of the bench: each on a free port, with files that go at the end; may be killed, and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from bench.catalog import JETSTREAM, POSTGRES, REDIS, nats_program, postgres_folder
from bench.process import START_SECONDS, BenchFailed


class Engine:
    """A running engine."""

    def __init__(self, url: str, port: int, command: list[str], account: dict[str, str]) -> None:
        self.url = url
        self._port = port
        self._command = command
        self._account: dict[str, Any] = dict(account)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it listens."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet, cwd="/", **self._account)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise BenchFailed("the engine did not start") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it, as fast as it can without a loss."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None


@contextmanager
def _redis() -> Iterator[Engine]:
    """A Redis that answers when a message is on the disk."""
    program = shutil.which("redis-server")
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        engine = Engine(
            f"redis://127.0.0.1:{port}", port, [program, "--port", str(port), "--dir", folder, *options], {}
        )
        try:
            yield engine
        finally:
            engine.stop()


@contextmanager
def _nats() -> Iterator[Engine]:
    """A NATS whose JetStream answers when a message is on the disk."""
    program = nats_program()
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        port, monitor = _free_port(), _free_port()
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "http": f"127.0.0.1:{monitor}",
            "jetstream": {"store_dir": folder, "sync_interval": "always"},
        }
        file = Path(folder, "server.conf")
        file.write_text(json.dumps(settings))
        engine = Engine(f"nats://127.0.0.1:{port}?monitor={monitor}", port, [program, "-c", str(file)], {})
        try:
            yield engine
        finally:
            engine.stop()


@contextmanager
def _postgres() -> Iterator[Engine]:
    """A PostgreSQL with its defaults, which sync each commit."""
    programs = postgres_folder()
    assert programs is not None
    account = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        if account:
            shutil.chown(folder, **account)
        data, port = str(Path(folder, "data")), _free_port()
        make = [str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **account)
        run = [
            str(programs / "postgres"),
            "-D",
            data,
            "-p",
            str(port),
            "-k",
            folder,
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        engine = Engine(f"postgres://postgres@127.0.0.1:{port}/postgres", port, run, account)
        try:
            yield engine
        finally:
            engine.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


ENGINES: Final[dict[str, Callable[[], AbstractContextManager[Engine]]]] = {
    POSTGRES: _postgres,
    REDIS: _redis,
    JETSTREAM: _nats,
}
"""By contender, what runs its engine."""
