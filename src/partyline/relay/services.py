"""What all clients of the relay share, whatever their transport."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from partyline.config import Settings
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Member, Store
from partyline.relay.access import Access
from partyline.relay.values import ConnectionOf
from partyline.topics import is_pattern
from partyline.trust.rate import Closing


class Listed(Closing, Protocol):
    """A connected client, which can be listed and closed."""

    @property
    def public_id(self) -> str:
        """Its name in lists: it opens nothing."""

    @property
    def member(self) -> Member:
        """Its hub member."""


class OtherNodes(Protocol):
    """What the nodes with the same log have: what those that answer say, and the names of the others."""

    async def users(self, topic: str) -> tuple[set[str], list[str]]:
        """The users of a topic."""
        ...

    async def topics(self) -> tuple[Counter[str], list[str]]:
        """The connections of each topic."""
        ...

    async def connections(self) -> tuple[list[ConnectionOf], list[str]]:
        """The connections."""
        ...

    async def disconnect(self, public_id: str) -> bool:
        """Close a connection; whether one of them had it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one server. `open` holds every connected client of the relay."""

    hub: Hub
    store: Store
    access: Access
    timers: Timers
    settings: Settings
    clock: Callable[[], float] = time.time
    open: set[Listed] = field(default_factory=set)
    others: OtherNodes | None = None

    def topics(self) -> Counter[str]:
        """The connections of each topic here."""
        rooms = self.hub.rooms
        return Counter({name: len(rooms.members(name)) for name in rooms.names() if not is_pattern(name)})

    def connections(self) -> list[ConnectionOf]:
        """The connections here."""
        return [ConnectionOf(one.public_id, one.member.user, sorted(one.member.rooms)) for one in self.open]

    def disconnect(self, public_id: str) -> bool:
        """Close a connection; False if it is not here."""
        for client in self.open:
            if client.public_id == public_id:
                client.close(4001, "disconnected")
                return True
        return False
