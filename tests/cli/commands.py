"""The command line run within this process: what it printed and how it ended, as if it had its own process."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from partyline.cli import main
from tests.process import command, environment


class _Terminal(io.TextIOWrapper):
    """A standard output that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def run(
    *arguments: str, cwd: Path | None = None, stdin: bytes = b"", terminal: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `partyline ...` as the console script does, with these variables and nothing else of Partyline's."""
    kind = _Terminal if terminal else io.TextIOWrapper
    out, err = io.BytesIO(), io.BytesIO()
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin), "utf-8"),
        "stdout": kind(out, "utf-8", newline="\n", write_through=True),
        "stderr": kind(err, "utf-8", newline="\n", write_through=True),
    }
    code: object = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(_logging_as_it_was())
        stack.enter_context(mock.patch.dict(os.environ, {**environment(), "COLUMNS": "120", **env}, clear=True))
        stack.enter_context(mock.patch.object(sys, "argv", ["partyline", *arguments]))
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
        for name, stream in streams.items():
            stack.enter_context(mock.patch.object(sys, name, stream))
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except Exception:  # as Python does at the end of a process
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(
        ["partyline", *arguments],
        0 if code is None else code if isinstance(code, int) else 1,
        out.getvalue().decode(),
        err.getvalue().decode(),
    )


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for a command that imports a program written by the test."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        check=False,
        env={**environment(), "COLUMNS": "120"},
    )


@contextlib.contextmanager
def _logging_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("partyline", "uvicorn", "asyncio")]
    earlier = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level, propagate in earlier:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
