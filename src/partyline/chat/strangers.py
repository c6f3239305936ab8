"""Strangers: two at a time, and nothing is kept, neither here after the talk nor in any log."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec

import partyline
from partyline.chat.matching import Matching
from partyline.chat.rooms import Saying, person
from partyline.chat.words import Answer, Pace, Refused, message_id, remember, text

REPORTS = 3  # from different networks, after which a person is no longer paired
MOST_REPORTED = 2_000  # people whose reports are remembered
REMEMBERED = 50  # ids of what one says in a talk, so that nothing is said twice; a page waits for each answer
NEWS = 1.0  # seconds between two counts of the people online


class Key(msgspec.Struct):
    """The auth of a page. Pages with the same `key` are one person."""

    key: str = ""


@dataclass(slots=True)
class Visitor:
    """A page: its person, its rates, and what it has said in this talk."""

    person: str
    starts: Pace = field(default_factory=lambda: Pace(1, 10))
    says: Pace = field(default_factory=lambda: Pace(2, 10))
    types: Pace = field(default_factory=lambda: Pace(2, 10))
    said: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Strangers:
    """The handlers of the namespace `/stranger`."""

    def __init__(self, strangers: partyline.Namespace) -> None:
        self.strangers = strangers
        self.matching = Matching()
        self.visitors: dict[str, Visitor] = {}  # by socket
        self.reports: dict[str, dict[str, None]] = {}  # by person: the networks; the least recent first
        self.run = secrets.token_hex(8)
        self._telling = False
        strangers.on_connect(self.come)
        for handler in (self.start, self.next, self.stop, self.say, self.typing, self.block, self.report):
            strangers.on(handler.__name__, handler)
        strangers.on_disconnect(self.gone)

    def come(self, socket: partyline.Socket, auth: Key) -> None:
        """A page is open."""
        self.visitors[socket.id] = Visitor(person(auth.key or socket.id))
        socket.emit("hello", {"run": self.run})
        socket.emit("online", len(self.visitors))
        self._count()

    def gone(self, socket: partyline.Socket, reason: str) -> None:
        """A page is closed; its talk ends."""
        self._tell(self.matching.leave(socket.id))
        del self.visitors[socket.id]
        self._count()

    def start(self, socket: partyline.Socket) -> Answer:
        """Be paired with somebody, now or as soon as somebody comes."""
        visitor = self.visitors[socket.id]
        try:
            if len(self.reports.get(visitor.person, ())) >= REPORTS:
                raise Refused("reported", "several people have reported you: come back another time")
            visitor.starts.check()
        except Refused as refused:
            return refused.answer
        if self.matching.partner(socket.id) is not None:
            return {}
        visitor.said.clear()
        waits = self.matching.waits(visitor.person)
        if waits not in (None, socket.id):  # the newest page wins: an earlier one's connection may be lost
            self.matching.stop(waits)
            self.strangers.to(waits).emit("elsewhere")
        other = self.matching.start(socket.id, visitor.person)
        if other is not None:
            self.strangers.to(socket.id, other).emit("paired")
        return {}

    def next(self, socket: partyline.Socket) -> Answer:
        """Leave this one, and be paired with another."""
        self._tell(self.matching.stop(socket.id))
        return self.start(socket)

    def stop(self, socket: partyline.Socket) -> Answer:
        """Leave this one, or stop waiting."""
        self._tell(self.matching.stop(socket.id))
        return {}

    def say(self, socket: partyline.Socket, saying: Saying) -> Answer:
        """Say something to the other one."""
        visitor = self.visitors[socket.id]
        try:
            words, mark = text(saying.text), message_id(saying.id)
            if mark in visitor.said:
                return {}
            other = self.matching.partner(socket.id)
            if other is None:
                raise Refused("no_partner", "the talk is over")
            visitor.says.check()
        except Refused as refused:
            return refused.answer
        visitor.said.append(mark)
        self.strangers.to(other).emit("said", {"text": words, "time": int(time.time() * 1000)})
        return {}

    def typing(self, socket: partyline.Socket, on: bool) -> None:
        """Tell the other one."""
        other = self.matching.partner(socket.id)
        if other is not None and self.visitors[socket.id].types.allows():
            self.strangers.to(other).volatile.emit("typing", on)

    def block(self, socket: partyline.Socket) -> Answer:
        """End the talk, and never meet this one again."""
        self._tell(self.matching.block(socket.id))
        return {}

    def report(self, socket: partyline.Socket) -> Answer:
        """The same, and count a report, also if the other one has just left.

        A key costs nothing, and an address does: reports from one network count once.
        """
        answer, reported = self.block(socket), self.matching.last(socket.id)
        if reported is not None:
            networks = self.reports.get(reported, {})
            remember(networks, socket.handshake.network, None, REPORTS)
            remember(self.reports, reported, networks, MOST_REPORTED)
        return answer

    def _tell(self, left: str | None) -> None:
        """The other one hears that the talk is over."""
        if left is not None:
            self.strangers.to(left).emit("left")

    def _count(self) -> None:
        """Tell everybody soon how many are online."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(NEWS, self._told)

    def _told(self) -> None:
        self._telling = False
        self.strangers.emit("online", len(self.visitors))
