"""What all clients of the relay share, whatever carries them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from partyline.config import Settings
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Member, Store
from partyline.relay.access import Access
from partyline.trust.rate import Closing


class Listed(Closing, Protocol):
    """A client that is connected: what lists show, and what closes it."""

    @property
    def public_id(self) -> str:
        """What lists call it: it opens nothing."""
        ...

    @property
    def member(self) -> Member:
        """What the hub knows it as."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """One server's. `open` holds every client of the relay that is connected."""

    hub: Hub
    store: Store
    access: Access
    timers: Timers
    settings: Settings
    clock: Callable[[], float] = time.time
    open: set[Listed] = field(default_factory=set)
