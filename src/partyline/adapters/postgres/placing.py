"""Which drafts of an append are kept, refused, or in the log already; and how a message becomes a row."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from partyline.errors import InvalidValue, PartylineError, TooManyTopics
from partyline.interfaces import Outcome, Refused, Stored
from partyline.models import Draft, Message
from partyline.topics import PRIVATE

ROW: Final = '"offset", room, "user", ttl, time, head, data'
_MOST_ROOM: Final = 2_000  # bytes of a room's name: an index takes no more than 2,700

_decode = msgspec.json.Decoder(tuple[str, str | None, str | None, bool | None, str]).decode
_encode = msgspec.json.encode

Key = tuple[str, str, str]


def message(
    offset: int, room: str, user: str | None, ttl: float | None, time: float, head: str, data: bytes
) -> Message:
    """The message of a row."""
    message_id, key, sender, durable, publisher = _decode(head)
    return Message(Draft(room, data, message_id, user, key, sender, ttl, durable, publisher), offset, time)


def identity(draft: Draft) -> bytes:
    """What a retry has in common with its first attempt. Raises UnicodeEncodeError."""
    return blake2b("\0".join(draft.identity).encode(), digest_size=16).digest()


def regex(pattern: str) -> str:
    """A pattern of topics as a regular expression of PostgreSQL. It matches what `topics.any_covers` covers."""
    if pattern == ">":
        return f"^[^{PRIVATE}]"
    *tokens, last = pattern.split(".")
    wanted = [_token(token) for token in tokens]
    # A room that is not a topic has a first character of its own, which no token matches.
    wanted.append(".+" if last == ">" else _token(last))
    return f"^(?!{PRIVATE})" + r"\.".join(wanted) + "$"


def _token(token: str) -> str:
    return "[^.]+" if token == "*" else re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", token)


class Placing:
    """One append: its groups, and what the log has said about them so far."""

    def __init__(self, groups: Sequence[Sequence[Draft]]) -> None:
        self._groups = groups
        self._known: dict[Key, Message] = {}
        self._rooms: set[str] | None = None  # those in the log, of these drafts' rooms; None: all may be
        self._room_for = 0  # other ones
        self._max_rooms = 0
        self._refused: dict[int, PartylineError] = {}  # by the number of the group
        self.fresh: list[Draft] = []  # what is to be kept
        self.columns: list[list[Any]] = []  # of their rows
        self._plan()

    def learn(self, messages: Iterable[Message]) -> None:
        """These are in the log already."""
        self._known.update((message.draft.identity, message) for message in messages)
        self._plan()

    def learn_rooms(self, there: Collection[str], room_for: int, max_rooms: int) -> None:
        """These rooms are in the log, and it takes so many more."""
        self._rooms, self._room_for, self._max_rooms = set(there), room_for, max_rooms
        self._plan()

    @property
    def rooms(self) -> list[str]:
        """The rooms of the drafts that are to be kept."""
        return list({draft.room for draft in self.fresh})

    def outcomes(self, head: int, at: float) -> list[Outcome]:
        """One outcome for each draft; the kept ones get the offsets after `head`."""
        placed = dict(self._known)
        new: set[Key] = set()
        for offset, draft in enumerate(self.fresh, head + 1):
            placed[draft.identity] = Message(draft, offset, at)
            new.add(draft.identity)
        told: list[Outcome] = []
        for number, group in enumerate(self._groups):
            refusal = self._refused.get(number)
            for draft in group:
                if refusal is not None:
                    told.append(Refused(draft, refusal))
                else:
                    key = draft.identity
                    told.append(Stored(draft, placed[key], duplicate=key not in new))
                    new.discard(key)
        return told

    def _plan(self) -> None:
        """Work out what is to be kept, from the first group to the last."""
        self._refused.clear()
        taken: dict[Key, Draft] = {}
        rooms: set[str] = set()
        rows: list[tuple[Any, ...]] = []
        for number, group in enumerate(self._groups):
            own: dict[Key, Draft] = {}
            before = len(rows)
            try:
                for draft in group:
                    key = draft.identity
                    known = self._known.get(key)
                    earlier = known.draft if known is not None else taken.get(key) or own.get(key)
                    if earlier is None:
                        own[key] = draft
                        rows.append(_row(draft))
                    elif (conflict := draft.conflict(earlier)) is not None:
                        raise conflict
                if self._rooms is not None:
                    added = {draft.room for draft in own.values()} - self._rooms - rooms
                    if added and len(rooms) + len(added) > self._room_for:
                        raise TooManyTopics(f"the log keeps {self._max_rooms} topics (max_rooms)", limit="max_rooms")
                    rooms |= added
            except PartylineError as refusal:
                self._refused[number] = refusal
                del rows[before:]
                continue
            taken.update(own)
        self.fresh = list(taken.values())
        self.columns = list(map(list, zip(*rows, strict=True)))


def _row(draft: Draft) -> tuple[Any, ...]:
    """What `append` takes of a draft: room, user, ttl, identity, head, data. Raises InvalidValue."""
    try:
        room, user = draft.room, draft.user
        if len(room) * 4 > _MOST_ROOM or "\0" in room or (user is not None and "\0" in user):
            raise InvalidValue(
                f"topic {room[:60]!r} or user {(user or '')[:60]!r} cannot be in the log: a topic has "
                f"{_MOST_ROOM // 4} characters at most, and neither has the character NUL"
            )
        head = _encode((draft.id, draft.key, draft.sender, draft.durable, draft.publisher)).decode()
        if user is not None:
            user.encode()
        return room, user, draft.ttl, identity(draft), head, draft.data
    except (UnicodeEncodeError, msgspec.MsgspecError):
        raise InvalidValue("a topic, id, user, key or sender holds half a character (a lone surrogate)") from None
