"""Connections and dialects that keep what they are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from partyline.hub.history import Start
from partyline.interfaces import Dialect
from partyline.models import Message, Payload


class Tagged:
    """A dialect that writes its tag before the data and counts how often it was asked to."""

    def __init__(self, tag: bytes = b"") -> None:
        self.tag = tag
        self.encoded = 0

    def encode(self, message: Message) -> bytes:
        self.encoded += 1
        return self.tag + message.draft.data


class Member:
    """An `interfaces.Member` without a socket: `inbox` holds the payloads offered, `closed` its close codes."""

    def __init__(self, user: str | None = None, dialect: Dialect | None = None) -> None:
        self.user = user
        self.dialect: Dialect = dialect or Tagged()
        self.rooms: tuple[str, ...] | set[str] = ()
        self.inbox: list[Payload] = []
        self.closed: list[int] = []

    @property
    def got(self) -> list[bytes]:
        """The bytes of what was offered, in order."""
        return [payload.data for payload in self.inbox]

    def offer(self, payload: Payload) -> None:
        self.inbox.append(payload)

    def send(self, data: bytes) -> None:
        self.inbox.append(Payload(data))

    def send_text(self, text: str) -> None:
        self.send(text.encode())

    def close(self, code: int, reason: str = "") -> None:
        self.closed.append(code)


class Taking:
    """A `hub.history.Sink` made of functions. `starts` are the places where it was told to begin, `gaps` those where it
    went on."""

    def __init__(
        self, deliver: Callable[[Message], Awaitable[None]], attach: Callable[[], object] = lambda: None
    ) -> None:
        self.deliver = deliver
        self._attach = attach
        self.starts: list[Start] = []
        self.gaps: list[Start] = []

    def began(self, start: Start) -> None:
        self.starts.append(start)

    def gap(self, start: Start) -> None:
        self.gaps.append(start)

    def attach(self) -> None:
        self._attach()
