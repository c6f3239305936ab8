"""How all commands write to standard output, which may be a terminal, a file, a full disk or a closed pipe."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Final

from rich.console import Console

_ENDLESS: Final = 1_000_000  # columns


def write(text: str, *, done: str = "") -> None:
    """Print `text` now. If nobody reads it any more, the command ends quietly, as Unix tools do. If it cannot be
    written, the command exits with 1 and one line, which says what is `done` nevertheless."""
    try:
        if sys.stdout is None:  # it was closed when the process began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:  # Python flushes it again at exit, and would complain about the rest
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        so_far = f"{done}, but " if done else ""
        sys.stderr.write(f"partyline: {so_far}standard output cannot be written: {error.strerror or error}\n")
        sys.exit(1)


def console(*, soft_wrap: bool = False) -> Console:
    """Lays out text and prints it with `write`. Nothing is wrapped outside a terminal: the lines are for grep.

    With `soft_wrap` lines are printed as they are; otherwise they are rows of tables.
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
        if self._trim and not self.isatty():  # a table pads its cells with blanks
            text = "\n".join(line.rstrip(" ") for line in text.split("\n"))
        write(text)
        return len(text)

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()
