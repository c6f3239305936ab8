"""What all clients of the relay share, whatever their transport."""

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
    """A connected client, which can be listed and closed."""

    @property
    def public_id(self) -> str:
        """Its name in lists: it opens nothing."""

    @property
    def member(self) -> Member:
        """Its hub member."""


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
