"""Standard output, as all commands write to it: it may be a terminal, a file, a full disk or a pipe that is closed."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Final

from rich.console import Console

_ENDLESS: Final = 1_000_000  # columns


def write(text: str, *, done: str = "") -> None:
    """Print `text` now. Where nobody reads any more the command ends quietly, as Unix tools do; where it cannot be
    written, with 1 and one line, which says what is `done` in spite of it."""
    try:
        if sys.stdout is None:  # it was closed when the process began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:  # Python flushes it once more at exit, and would complain about what is left in it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        so_far = f"{done}, but " if done else ""
        sys.stderr.write(f"partyline: {so_far}standard output cannot be written: {error.strerror or error}\n")
        sys.exit(1)


def console(*, soft_wrap: bool = False) -> Console:
    """Lays out text and prints it, as `write` does. Without a terminal nothing is wrapped: such lines are for grep.

    With `soft_wrap` lines are printed as they are; else they are rows of tables.
    """
    made = Console(file=_Output(trim=not soft_wrap), highlight=False, markup=False, soft_wrap=soft_wrap)
    if not made.is_terminal:
        made.width = _ENDLESS
    return made


class _Output(io.StringIO):
    """Standard output, for rich."""

    def __init__(self, *, trim: bool) -> None:
        super().__init__()
        self._trim = trim

    def write(self, text: str) -> int:
        if self._trim and not self.isatty():  # a table fills its cells with blanks
            text = "\n".join(line.rstrip(" ") for line in text.split("\n"))
        write(text)
        return len(text)

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()
