"""The command line run within this process: what it printed and how it ended, as if it had its own process."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from partyline import mounting
from partyline.cli import main
from tests.process import environment


class _Terminal(io.TextIOWrapper):
    """A standard output that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def run(
    *arguments: str,
    cwd: Path | None = None,
    stdin: bytes = b"",
    terminal: bool = False,
    stdout: Path | None = None,
    encoding: str = "utf-8",
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run `partyline ...` as the console script does, with these variables and nothing else of Partyline's.

    `stdout` is a file for the output, which is in this `encoding`. A program that is found in `cwd` is forgotten
    afterwards."""
    kind = _Terminal if terminal else io.TextIOWrapper
    out, err = io.BytesIO(), io.BytesIO()
    streams = {
        "stdin": tempfile.TemporaryFile("w+", encoding="utf-8"),  # noqa: SIM115 - closed below
        "stdout": kind(out, encoding, newline="\n", write_through=True),
        "stderr": kind(err, "utf-8", newline="\n", write_through=True),
    }
    code: object = 0
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(streams["stdin"])
        given.buffer.write(stdin)
        given.seek(0)
        stack.enter_context(_logging_as_it_was())
        stack.enter_context(mock.patch.dict(os.environ, {**environment(), "COLUMNS": "120", **env}, clear=True))
        stack.enter_context(mock.patch.object(sys, "argv", ["partyline", *arguments]))
        if stdout is not None:
            file = stack.enter_context(stdout.open("w", encoding=encoding, newline="\n"))
            stack.enter_context(mock.patch.dict(streams, stdout=file))
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
            stack.enter_context(_programs_of(cwd))
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
        out.getvalue().decode(encoding),
        err.getvalue().decode(),
    )


@contextlib.contextmanager
def _programs_of(folder: Path) -> Iterator[None]:
    """Python's path, modules and applications are those of a new process; what comes from the folder is forgotten."""
    path = list(sys.path)
    try:
        with mock.patch.object(mounting, "_made", weakref.WeakSet()):
            yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(f"{folder}{os.sep}"):
                del sys.modules[name]
        importlib.invalidate_caches()


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
