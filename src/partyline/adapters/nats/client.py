"""A connection to NATS that is restored after a loss, with its subscriptions: the bus and the tables use it.

Whatever is published while there is no connection is lost, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from typing import Final

from partyline import log
from partyline.adapters.nats.address import Address
from partyline.adapters.nats.line import LOST, Arrived, Heard, Line
from partyline.errors import ConfigError, PartylineError, StoreUnavailable
from partyline.metrics import Counters

_log = log.get("cluster")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.8
_PROBE: Final = 5.0  # seconds between signs of life
_STARTING: Final = 10.0  # seconds that a server that starts waits for NATS
_AGAIN: Final = 0.05  # seconds between looks for a connection
_PATIENCE: Final = 2.0  # seconds until a NATS that does not answer counts as gone


class Nats:
    """A connection to one of the servers of an address.

    It hears itself on a subject of its own; one that has been deaf for five seconds is given up.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.counters = Counters()
        self.quiet = False  # True: its owner tells what is wrong
        self._listeners: dict[bytes, tuple[Heard, bytes]] = {}  # by subject, with the subscription's number on `_line`
        self._line: Line | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._gone = asyncio.Event()
        self._closed = False
        self._told = ""  # why it is down, as logged last
        self._probing: asyncio.TimerHandle | None = None
        self._probe_subject = f"{address.prefix}.probe.{secrets.token_hex(8)}".encode()
        self._heard_probe = True
        self._listeners[self._probe_subject] = self._probed, b""

    @property
    def connected(self) -> bool:
        """Whether a message would be sent now."""
        return self._line is not None

    async def start(self) -> None:
        """Connect. Returns after the first attempt; if that failed, further ones follow."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        try:
            async with asyncio.timeout(_STARTING):
                await self._tried.wait()
                if self._line is not None:
                    await self._line.settled()
        except (TimeoutError, StoreUnavailable):
            pass

    async def close(self) -> None:
        """Send everything said, and close the connection."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
        line, self._line = self._line, None
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if line is not None:
            await line.close()

    def publish(self, subject: bytes, data: bytes) -> None:
        """Publish. Lost and counted if there is no connection, or too much waits for NATS, or it takes no message of
        this size."""
        line = self._line
        if line is None:
            self.counters.unsent += 1
        elif line.full:
            self.counters.unsent += 1
            self.counters.hit("max_nats_bytes")
        elif len(data) > line.largest:
            self.counters.unsent += 1
            self.counters.hit("max_nats_payload")
        else:
            line.publish(subject, data)

    def listen(self, subject: bytes, heard: Heard) -> None:
        """Listen on a subject, now and after every reconnect."""
        self.unlisten(subject)
        number = self._line.subscribe(subject, heard) if self._line is not None else b""
        self._listeners[subject] = heard, number

    def unlisten(self, subject: bytes) -> None:
        """Listen no longer."""
        _, number = self._listeners.pop(subject, (None, b""))
        if number and self._line is not None:
            self._line.unsubscribe(number)

    async def ready(self) -> None:
        """Return when every `listen` so far has taken effect."""
        while not self._closed:
            if self._line is not None:
                with contextlib.suppress(StoreUnavailable):
                    await self._line.settled()
                    return
            await asyncio.sleep(_AGAIN)

    def line(self) -> Line:
        """The connection. Raises StoreUnavailable if there is none now."""
        if self._line is None:
            raise LOST
        return self._line

    async def ask(self, subject: bytes, data: bytes, head: bytes = b"") -> Arrived:
        """The answer to a request. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self.line().ask(subject, data, head)
        except TimeoutError:
            raise StoreUnavailable("NATS does not answer: try again in a moment") from None

    # The connection

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._gone.clear()
            try:
                line = await Line.open(self.address, self._down)
            except (PartylineError, OSError, ValueError) as error:  # any of them may pass
                said = error.message if isinstance(error, StoreUnavailable | ConfigError) else str(error)
                if self._told != said and not self.quiet:
                    self._told = said
                    _log.error("NATS cannot be reached: trying again until it can", error=said)
                self._tried.set()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - a pause is no secret
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            self._up(line)
            await self._gone.wait()
            pause = _FIRST_PAUSE

    def _up(self, line: Line) -> None:
        self._line = line
        self._listeners = {
            subject: (heard, line.subscribe(subject, heard)) for subject, (heard, _) in self._listeners.items()
        }
        if self._told:
            self._told = ""
            _log.warning("NATS is connected again")
        self._tried.set()
        self._heard_probe = True
        self._probe()

    def _down(self, line: Line) -> None:
        if self._line is not line:
            return
        self._line = None
        self._gone.set()
        if self._probing is not None:
            self._probing.cancel()
        if not self._told and not self._closed and not self.quiet:
            self._told = "lost"
            _log.error("the connection to NATS is lost: what is published now does not reach other servers")

    def _probe(self) -> None:
        """Publish to ourselves. If that is not heard, the connection is deaf or dead."""
        line = self._line
        if line is None:
            return
        if not self._heard_probe:
            _log.error("the connection to NATS is deaf: it is made anew")
            line.abort()
            return
        self._heard_probe = False
        line.publish(self._probe_subject, b"1")
        self._probing = asyncio.get_running_loop().call_later(_PROBE, self._probe)

    def _probed(self, arrived: Arrived) -> None:
        self._heard_probe = True
