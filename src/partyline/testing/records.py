"""The content of a log, kept as simply as possible, for the fakes of `partyline.testing`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from partyline.errors import Conflict
from partyline.interfaces import Outcome, Refused, Stored, Stretch, View
from partyline.models import Draft, Message, Page


class Records:
    """Messages in the order of their offsets, and their ids."""

    def __init__(self) -> None:
        self.head = 0
        self.oldest = 1  # nothing from here on was pruned
        self.messages: list[Message] = []
        self._ids: dict[tuple[str, str, str], Message] = {}

    def copy(self) -> Records:
        """Another log with the same content."""
        other = Records()
        other.head, other.oldest = self.head, self.oldest
        other.messages, other._ids = list(self.messages), dict(self._ids)
        return other

    def place(self, drafts: Sequence[Draft], now: float, gap: Callable[[], int] = lambda: 1) -> list[Outcome]:
        """Keep drafts together, or refuse them. `gap` returns how much higher the next offset is."""
        own: dict[tuple[str, str, str], Draft] = {}
        for draft in drafts:
            known = self._ids.get(draft.identity)
            earlier = known.draft if known is not None else own.setdefault(draft.identity, draft)
            if (earlier.data, earlier.user, earlier.key) != (draft.data, draft.user, draft.key):
                error = Conflict("this id has another body", code="id_conflict", field="id")
                return [Refused(each, error) for each in drafts]
        outcomes: list[Outcome] = []
        for draft in drafts:
            known = self._ids.get(draft.identity)
            if known is None:
                message = Message(draft, self.head + gap(), now)
                self.add(message)
                outcomes.append(Stored(draft, message))
            else:
                outcomes.append(Stored(draft, known, duplicate=True))
        return outcomes

    def add(self, message: Message) -> None:
        """Keep a message that already has its number."""
        assert message.offset is not None
        self.head = message.offset
        self.messages.append(message)
        self._ids[message.draft.identity] = message

    def prune(self, below: int) -> None:
        """Lose the messages with lower offsets; their ids are remembered."""
        self.oldest = max(self.oldest, below)
        self.messages = [message for message in self.messages if (message.offset or 0) >= below]

    def roll_back(self, head: int) -> None:
        """Lose the messages with higher offsets, as if they had never existed: their offsets are given again."""
        self.messages = [message for message in self.messages if (message.offset or 0) <= head]
        self._ids = {identity: one for identity, one in self._ids.items() if (one.offset or 0) <= head}
        self.head = min(self.head, head)
        self.oldest = min(self.oldest, self.head + 1)

    def at(self, offset: int) -> Message | None:
        """The message with this offset."""
        return next((message for message in self.messages if message.offset == offset), None)

    def stretch(self, after: int, limit: int) -> Stretch:
        """As `SharedLog.tail`."""
        found = [message for message in self.messages if (message.offset or 0) > after]
        return Stretch(found[:limit], self.oldest)

    def page(self, view: View, after: int, limit: int, now: float, head: int | None = None) -> Page:
        """As `Store.read`, up to the offset `head`."""
        head = self.head if head is None else head
        found: list[Message] = []
        last = head
        for message in self.messages:
            offset = message.offset or 0
            if offset > head or offset <= after or not view.sees(message.draft) or message.expired(now):
                continue
            if len(found) == limit:
                last = offset - 1
                break
            found.append(message)
        last = max(last, after)
        return Page(tuple(found), last, last < head, self.oldest)

    def newest(self, room: str, before: int, limit: int, now: float) -> Sequence[Message]:
        """As `Store.newest`."""
        found = [
            message
            for message in self.messages
            if message.room == room and (message.offset or 0) < before and not message.expired(now)
        ]
        return found[-limit:]
