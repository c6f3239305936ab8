"""A locked descriptor that belongs to this process alone.

A lock belongs to an open file description, which a forked child shares: without care the lock would live on in a child
after the server has ended.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable


class Held:
    """A descriptor and the way to undo its lock. The lock ends with `release`, and with the process."""

    def __init__(self, number: int, unlock: Callable[[int], object]) -> None:
        self.number = number
        self._unlock = unlock
        _all.add(self)

    def release(self) -> None:
        """Unlock, also for children that share the descriptor, and close. A second call does nothing."""
        if self.number >= 0:
            with contextlib.suppress(OSError):  # a filesystem that has lost its locks: closing is enough
                self._unlock(self.number)
            self.forget()

    def forget(self) -> None:
        """Close the descriptor. The lock stays with the process that shares it."""
        number, self.number = self.number, -1
        os.close(number)


_all: weakref.WeakSet[Held] = weakref.WeakSet()


def _in_child() -> None:
    """The server is the parent: its child keeps no locks."""
    for one in list(_all):
        if one.number >= 0:
            one.forget()


os.register_at_fork(after_in_child=_in_child)
