"""Processes of the bench: pinned to a core, announced by a line, stopped for certain."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import urlsplit

from bench.build import BUILD, ROOT

START_SECONDS = 30.0
STOP_SECONDS = 15.0
CRASH_SECONDS = 0.5


class BenchFailed(Exception):
    """A server or the generator did not do its part; there is no figure."""


def spawn(
    command: Sequence[str],
    core: int | None,
    *,
    stderr: IO[bytes],
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a process on one core.

    A child inherits the affinity of the thread that starts it, and so do all threads that it
    starts itself: setting it afterwards would miss those that are already running.
    """
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    finally:
        os.sched_setaffinity(0, before)


def log_file(name: str) -> Path:
    """Where a process of this name writes its standard error."""
    folder = BUILD / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


class Server:
    """A running server that has said where it listens."""

    def __init__(
        self, name: str, command: Sequence[str], core: int | None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = log_file(name)
        with self._log.open("wb") as log:
            self._process = spawn(command, core, stderr=log, environment=environment)
        self.pid = self._process.pid
        self._announced: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        # Its output is read to the end, or a server that logs would stop at a full pipe.
        threading.Thread(target=self._drain, daemon=True).start()
        try:
            port = self._announced.get(timeout=START_SECONDS)
        except queue.Empty:
            port = None
        if port is None:
            self.stop()
            raise BenchFailed(f"{name} did not start: {self._last_words()}")
        self.port = port

    def _drain(self) -> None:
        assert self._process.stdout is not None
        waiting = True
        for line in self._process.stdout:
            if waiting and (port := announced_port(line)) is not None:
                self._announced.put(port)
                waiting = False
        if waiting:
            self._announced.put(None)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing on standard error"

    def check(self) -> None:
        """Raise if the server has ended by itself."""
        if self._process.poll() is not None:
            raise BenchFailed(self._end())

    def _end(self) -> str:
        return f"{self.name} ended with {self._process.returncode}: {self._last_words()}"

    def stop(self) -> None:
        """Ask it to stop, then make it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A generator that was cut off sees less of the reason than the server's last line says.
            ended = isinstance(error, BenchFailed) and self._process.wait(CRASH_SECONDS) is not None
        except subprocess.TimeoutExpired:
            ended = False
        self.stop()
        if ended and isinstance(error, BenchFailed):
            raise type(error)(f"{error}; {self._end()}") from error


def announced_port(line: bytes) -> int | None:
    """The port of a `listening PORT` line or of Partyline's JSON line; None for any other line."""
    if line.startswith(b"listening "):
        return int(line.split()[1])
    try:
        value = json.loads(line)
    except ValueError:
        return None
    url = value.get("listening") if isinstance(value, dict) else None
    # Several listeners are joined by commas; the first will do.
    return urlsplit(url.split(",")[0]).port if isinstance(url, str) else None
