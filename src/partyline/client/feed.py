"""The messages of one subscription that its reader has not taken yet, and its position in the log."""

from __future__ import annotations

import asyncio
from collections import deque

from partyline.client.frames import After, Gap, Message
from partyline.errors import PartylineError
from partyline.models import Position
from partyline.topics import covers, overlap


class Feed:
    """A bounded queue that a link fills and a `Subscription` reads.

    When it is full, the link unsubscribes, and subscribes again after the last message in it once half of it was read.
    So a slow reader holds nobody up, and its durable messages only come later.
    """

    def __init__(self, topic: str, after: After, bound: int) -> None:
        self.topic = topic
        self.after = after
        self.bound = bound
        self.last: Position | None = None  # everything of the view up to here is in it, or was
        self.given = after if isinstance(after, Position) else None  # up to here its reader has everything
        self.items: deque[Message | Gap] = deque()
        self.ready = False  # the server has answered the newest `subscribe`; earlier messages are an older one's
        self.behind = False
        self.closed = False
        self.dropped = 0  # ephemeral messages that came while it was full
        self.error: PartylineError | None = None
        self.changed = asyncio.Event()

    @property
    def start(self) -> After:
        """Where to subscribe from now."""
        return self.after if self.last is None else self.last

    def covers(self, topic: str) -> bool:
        """Whether messages of `topic` belong in it."""
        return covers(self.topic, topic)

    def overlaps(self, name: str) -> bool:
        """Whether it and a subscription to `name` have a topic in common."""
        return overlap(self.topic, name)

    def begin(self, position: Position) -> None:
        """The server brings everything after `position`."""
        self.last = position
        if self.given is None:
            self.given = position
        self.wake()

    def put(self, message: Message) -> bool:
        """Take a message; False if it is full, and the message has to be requested again."""
        position, last = message.position, self.last
        if position and last and position.epoch == last.epoch and position.offset <= last.offset:
            return True  # it was here before
        if len(self.items) >= self.bound:
            if position is None:
                self.dropped += 1
                return True
            return False
        if position is not None:
            self.last = position
        self.items.append(message)
        self.wake()
        return True

    def gap(self, oldest: Position | None, position: Position) -> None:
        """Messages were missed; it goes on at `position`."""
        self.last = position
        self.items.append(Gap(self.topic, oldest, position))
        self.wake()

    def advance(self, position: Position) -> None:
        """There is nothing of its view between its last message and `position`."""
        if self.ready and not self.behind:
            self.last = position

    def fail(self, error: PartylineError) -> None:
        """It ends with an error, after what is in it."""
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Let readers that wait look again."""
        self.changed.set()
