"""Rooms: messages are kept in the log, where latecomers read them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

import partyline
from partyline.chat.words import MOST_NAME, MOST_ROOM, Answer, Pace, Refused, message_id, name, remember, text

PAGE = 50  # messages, of which as many come as have
MOST_PAGE = 50_000  # characters
MOST_SHOWN = 200  # people by name
REMEMBERED = 10_000  # ids of messages, so that none is said twice
MOST_ROOMS = 10_000  # rooms that somebody is in


class Guest(msgspec.Struct):
    """A request to enter. Pages with the same `key` are one person."""

    room: str
    name: str
    key: str = ""


class Saying(msgspec.Struct):
    """A message on its way in."""

    id: str
    text: str


@dataclass(slots=True)
class Member:
    """A page in a room, and how often it may ask and say something."""

    name: str
    by: str
    room: str = ""
    asks: Pace = field(default_factory=lambda: Pace(5, 20))
    says: Pace = field(default_factory=lambda: Pace(1.5, 10))


class Rooms:
    """The handlers of the namespace `/chat`."""

    def __init__(self, chat: partyline.Namespace) -> None:
        self.chat = chat
        self.members: dict[str, Member] = {}  # by socket
        self.here: dict[str, dict[str, dict[str, str]]] = {}  # by room and person: the name of each page, by socket
        self.said: dict[tuple[str, str], asyncio.Future[Any]] = {}  # by person and id
        for handler in (self.enter, self.older, self.say, self.typing):
            chat.on(handler.__name__, handler)
        chat.on_disconnect(self.gone)

    async def enter(self, socket: partyline.Socket, guest: Guest) -> Answer:
        """Enter a room, leaving the one before; answers the newest page of its log, and who is there."""
        try:
            room = room_of(title := name(guest.room, MOST_ROOM, "room"))
            called = name(guest.name, MOST_NAME, "name")
            member = self.members.get(socket.id) or Member(called, person(guest.key or socket.id))
            member.asks.check()
            if room not in self.here and len(self.here) >= MOST_ROOMS:
                self.chat.io.counters.hit("chat_rooms")
                raise Refused("too_many_rooms", f"there are {MOST_ROOMS:,} rooms already: go to one that exists")
            self._leave(socket)
            member.name, member.room = called, room
            self.members[socket.id] = member
            socket.join(room)
            people = self.here.setdefault(room, {})
            people.setdefault(member.by, {})[socket.id] = called
            count = len(people)
            socket.to(room).emit("came", {"by": member.by, "name": called, "count": count})
            newest = reversed(list(islice(reversed(people.items()), MOST_SHOWN)))
            shown = [{"by": by, "name": _newest(pages)} for by, pages in newest]
            # Join the room first, then read its log: a message said meanwhile comes twice rather than not at all.
            return {"me": member.by, "room": title, "people": shown, "count": count, **await self._page(room, None)}
        except (Refused, partyline.PartylineError) as error:
            return refusal(error)

    async def older(self, socket: partyline.Socket, before: str) -> Answer:
        """The page of the log that ends before a place in it."""
        try:
            member = self._member(socket)
            member.asks.check()
            return await self._page(member.room, partyline.Position.parse(before))
        except (Refused, partyline.PartylineError) as error:
            return refusal(error)

    async def say(self, socket: partyline.Socket, saying: Saying) -> Answer:
        """Say something to everybody in the room, including oneself; answered when it is kept."""
        try:
            member = self._member(socket)
            words, mark = text(saying.text), (member.by, message_id(saying.id))
            kept = self.said.get(mark)
            if kept is None:
                member.says.check()
                kept = self._keep(member, mark, words)
            await asyncio.shield(kept)  # if its page goes now, it is kept all the same
        except (Refused, partyline.PartylineError) as error:
            return refusal(error)
        return {}

    def _keep(self, member: Member, mark: tuple[str, str], words: str) -> asyncio.Future[Any]:
        said = {"id": mark[1], "by": member.by, "name": member.name, "text": words, "time": int(time.time() * 1000)}
        kept: asyncio.Future[Any] = asyncio.ensure_future(self.chat.publish(member.room, "said", said))
        remember(self.said, mark, kept, REMEMBERED)
        # A message that could not be kept may be said again.
        kept.add_done_callback(lambda done: self.said.pop(mark, None) if done.cancelled() or done.exception() else None)
        return kept

    def typing(self, socket: partyline.Socket, on: bool) -> None:
        """Tell the others of the room."""
        member = self.members.get(socket.id)
        if member is not None and member.asks.allows():
            socket.to(member.room).volatile.emit("typing", {"by": member.by, "name": member.name, "on": on})

    def gone(self, socket: partyline.Socket, reason: str) -> None:
        """The page is gone."""
        self._leave(socket)

    def _member(self, socket: partyline.Socket) -> Member:
        member = self.members.get(socket.id)
        if member is None:
            raise Refused("not_in_a_room", "enter a room first")
        return member

    def _leave(self, socket: partyline.Socket) -> None:
        """Leave the room, if it is in one; the others only hear of a person's last page."""
        member = self.members.pop(socket.id, None)
        if member is None:
            return
        socket.leave(member.room)
        people = self.here[member.room]
        pages = people[member.by]
        shown = _newest(pages)
        del pages[socket.id]
        if pages and _newest(pages) != shown:
            self.chat.to(member.room).emit("came", {"by": member.by, "name": _newest(pages), "count": len(people)})
        elif not pages:
            del people[member.by]
            self.chat.to(member.room).emit("left", {"by": member.by, "count": len(people)})
            if not people:
                del self.here[member.room]

    async def _page(self, room: str, before: partyline.Position | None) -> Answer:
        """A page of the log, oldest message first, and the place before which the next one ends."""
        entries = await self.chat.history(room, before=before, limit=PAGE)
        full, size = len(entries) == PAGE, 0
        for number, entry in enumerate(reversed(entries)):
            size += len(entry.arguments[0]["text"])
            if number and size > MOST_PAGE:  # more would not fit into a slow client's outbox
                entries, full = entries[-number:], True
                break
        messages = [entry.arguments[0] for entry in entries]
        return {"messages": messages, "before": str(entries[0].position) if full else None}


def _newest(pages: dict[str, str]) -> str:
    """The name that a person goes by: that of their newest page."""
    return next(reversed(pages.values()))


def room_of(called: str) -> str:
    """The Socket.IO room for a room's name: valid for any log, and never the id of a socket."""
    return "room-" + hashlib.sha256(called.encode()).hexdigest()[:32]


def refusal(error: Refused | partyline.PartylineError) -> Answer:
    """The acknowledgement of a refusal."""
    return error.answer if isinstance(error, Refused) else {"error": error.code, "message": error.message}


def person(key: str) -> str:
    """The public hash of a key, from which the key cannot be found."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:16]
