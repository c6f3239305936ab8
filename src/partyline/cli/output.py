"""Standard output, as all commands write to it: it may be a terminal, a file, a full disk or a pipe that is closed."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final

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
        sys.stderr.write(f"partyline: {so_far}standard output cannot be written: {error.strerror}\n")
        sys.exit(1)


def console(**options: Any) -> Console:
    """Lays out text and prints it, as `write` does. Without a terminal nothing is wrapped: such lines are for grep."""
    made = Console(file=_Output(), highlight=False, markup=False, **options)
    if not made.is_terminal:
        made.width = _ENDLESS
    return made


class _Output(io.StringIO):
    """Standard output, for rich."""

    def write(self, text: str) -> int:
        # A table fills its cells with blanks, which end the lines.
        write(text if self.isatty() else "\n".join(line.rstrip(" ") for line in text.split("\n")))
        return len(text)

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()
