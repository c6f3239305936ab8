"""A Bus on subjects of NATS: a node gets what it listens to, and nothing else.

Published messages go to `<prefix>.bus.<subject>`, those to one node to `<prefix>.node.<name>`.
"""

from __future__ import annotations

from typing import Final

from partyline.adapters.nats.address import LOG_OPTIONS, parse, short
from partyline.adapters.nats.client import Nats
from partyline.adapters.nats.line import Arrived
from partyline.hub.envelopes import Envelopes, node_name
from partyline.interfaces import Heard
from partyline.metrics import Counters

_TO: Final = "@"  # with a node's name: the subject of messages to that node; published ones begin with ":"


def open_bus(url: str, field: str) -> NatsBus:
    """The bus that a setting names. Raises ConfigError."""
    return NatsBus(url, field=field)


class NatsBus:
    """A Bus on the NATS (2.2 or later) of an address, `nats://one:4222,two:4222?prefix=chat`.

    The prefix tells deployments on one NATS from each other. Raises ConfigError. If NATS cannot be reached, `start`
    returns nevertheless, and messages are lost and counted until it can.
    """

    def __init__(self, address: str, *, field: str = "bus") -> None:
        """`field` is the setting that the address comes from."""
        self.node = node_name()
        self._nats = Nats(parse(address, field, LOG_OPTIONS if field == "log" else ()))
        self._prefix = self._nats.address.prefix.encode()
        self._envelopes = Envelopes(self.node)
        self._closed = False

    @property
    def counters(self) -> Counters:
        """Counters, among others of messages that were not sent."""
        return self._nats.counters

    @counters.setter
    def counters(self, counters: Counters) -> None:
        self._nats.counters = counters

    @property
    def connected(self) -> bool:
        return self._nats.connected and not self._closed

    async def start(self, received: Heard) -> None:
        self._listen(_TO + self.node, received)
        await self._nats.start()

    def publish(self, subject: str, data: bytes) -> None:
        self._say(":" + subject, data)

    def send(self, node: str, data: bytes) -> None:
        self._say(_TO + node, data)

    def listen(self, subject: str, heard: Heard) -> None:
        self._listen(":" + subject, heard)

    def unlisten(self, subject: str) -> None:
        self._envelopes.unlisten(":" + subject)
        self._nats.unlisten(self._subject(":" + subject))

    async def ready(self) -> None:
        await self._nats.ready()

    def lost(self) -> int:
        return self._envelopes.lost

    async def close(self) -> None:
        self._closed = True
        await self._nats.close()

    def _subject(self, subject: str) -> bytes:
        kind = b".node." if subject.startswith(_TO) else b".bus."
        return self._prefix + kind + short(subject[1:])

    def _say(self, subject: str, data: bytes) -> None:
        if not self._closed:
            self._nats.publish(self._subject(subject), self._envelopes.wrap(subject, data))

    def _listen(self, subject: str, heard: Heard) -> None:
        def arrived(message: Arrived) -> None:
            said = None if self._closed else self._envelopes.unwrap(subject, message.data)
            if said is not None:
                heard(*said)

        self._nats.listen(self._subject(subject), arrived)
