"""Drives the load generator: one process, its connections, and runs counted by command."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.build import BUILD
from bench.process import BenchFailed, log_file, spawn

LOST = 2  # the exit code that native/load.h names so
ANSWER_SECONDS = 900.0  # the generator has deadlines of its own, which are shorter


class MessageLost(BenchFailed):
    """A message was lost, altered or delivered twice: the benchmark has failed as a test."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run as the generator saw it."""

    seconds: float
    cpu_share: float
    fields: dict[str, float]


class Load:
    """A load generator with its connections open."""

    def __init__(
        self, mode: str, port: int, core: int | None, *arguments: str, paths: Sequence[str] | None = None
    ) -> None:
        command = [str(BUILD / "load"), mode, "--port", str(port), "--control", *arguments]
        paths_file: Path | None = None
        if paths is not None:
            # A registered path is a credential: the file goes as soon as it has been read.
            paths_file = BUILD / f"paths-{port}-{time.monotonic_ns()}"
            paths_file.touch(mode=0o600)
            paths_file.write_text("".join(path + "\n" for path in paths))
            command += ["--paths", str(paths_file)]
        with log_file(f"load-{mode}").open("wb") as log:
            self._process = spawn(command, core, stderr=log, stdin=subprocess.PIPE)
        self._buffer = b""
        try:
            ready = self._answer()
        except BaseException:
            self._end()
            raise
        finally:
            if paths_file is not None:
                paths_file.unlink()
        self.connections_per_second = float(ready["connections_per_second"])

    def run(self, operations: int) -> Result:
        """One counted run; raises MessageLost if any message did not arrive correctly."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"run {operations}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended between two runs, and its last line says why
        fields = self._answer()
        numbers = {name: float(value) for name, value in fields.items() if not isinstance(value, str)}
        return Result(numbers["seconds"], numbers["cpu_share"], numbers)

    def close(self) -> None:
        """Close all connections in order: a late duplicate is still seen, and raised."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._end()
            raise BenchFailed("the load generator did not end") from None
        if self._process.returncode:
            self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next line of JSON; its errors, and the end of the process, are raised."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._buffer:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise BenchFailed("the load generator does not answer")
            data = self._process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not data:
                raise BenchFailed(f"the load generator ended with {self._process.wait()} and no word")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            code = self._process.wait()
            raise (MessageLost if code == LOST else BenchFailed)(answer["error"])
        return answer

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._end()
