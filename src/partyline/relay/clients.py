"""The clients of the relay that are connected, whatever carries them: what lists show, and what closes one."""

from __future__ import annotations

from typing import Protocol

from partyline.interfaces import Member


class Listed(Protocol):
    """One such client."""

    @property
    def public_id(self) -> str:
        """What lists call it: it opens nothing."""
        ...

    @property
    def member(self) -> Member:
        """What the hub knows it as."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """End its connection."""
        ...
