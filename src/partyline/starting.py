"""Ctrl-C while the command line is imported, which takes longer than anything that it does then."""

import os
import signal
from types import FrameType


def hold() -> None:
    """Until `begin` Ctrl-C ends the process at once, with 130: an exception in the middle of an import shows a trace,
    or is lost."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def begin() -> None:
    """Everything that a command needs is imported: from now on Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(130)
