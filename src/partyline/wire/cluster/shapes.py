"""What the forms of Socket.IO's adapters share: audiences, sockets, and the limits on what is read."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from partyline.errors import InvalidValue, PartylineError
from partyline.wire.cluster.messages import Emit, Expel, Fetch, Move, NodeMessage, Sockets
from partyline.wire.json import decode

T = TypeVar("T")

Written = list[tuple[str, bytes]]
"""Channels, and what to publish on them."""
Heard = tuple[str, NodeMessage]
"""A sender and its message."""
Read = Callable[[str, bytes], Heard | None]
"""Reads a publication on a channel of a namespace. None if it is to be ignored; raises one of UNREADABLE."""

MOST: Final = 16 * 1024 * 1024
"""Bytes: anything longer is not read."""

UNREADABLE: Final = (msgspec.MsgspecError, PartylineError, ValueError, TypeError, RecursionError, OverflowError)
"""What the decoders raise for a peer's bytes."""

_DEEPEST: Final = 64
_LONGEST: Final = 300_000.0  # milliseconds


class Form(Protocol):
    """One protocol of other Socket.IO servers over Redis."""

    sharded: bool = False
    """Whether it uses sharded channels (Redis 7)."""

    def always(self) -> dict[str, Read]:
        """The channels for all namespaces, with their readers."""
        return {}

    def subscriptions(self, namespace: str) -> tuple[dict[str, Read], dict[str, Read]]:
        """The patterns and the channels of a namespace, with their readers."""
        return {}, {}

    def counted(self, namespace: str) -> str:
        """The channel whose subscribers are the nodes that answer; empty if none does."""
        return ""

    def room(self, namespace: str, room: str) -> str:
        """The channel to subscribe to while a room has members; empty if it has none of its own."""
        return ""

    def write(self, message: NodeMessage, to: str = "") -> Written:
        """What to publish, and on which channels; nothing if it cannot say that. `to` is the node that an answer is
        for. Raises InvalidValue, and what encoders raise."""


class Flags(msgspec.Struct, gc=False):
    """How an event is sent; `timeout` is in milliseconds."""

    volatile: bool | None = None
    timeout: float | None = None


class Options(msgspec.Struct, gc=False):
    """An audience, as Socket.IO's adapters write it. Rooms may be numbers in JavaScript; here they are text."""

    rooms: list[str | int] = []
    excluded: list[str | int] = msgspec.field(name="except", default_factory=list)
    flags: Flags | None = None

    def names(self) -> tuple[list[str], list[str]]:
        """The rooms, and those left out."""
        return _texts(self.rooms), _texts(self.excluded)

    @property
    def seconds(self) -> float:
        """How long to wait for answers: Node's default if it is not said; five minutes at most."""
        wanted = self.flags.timeout if self.flags is not None else None
        return 5.0 if not wanted or not isfinite(wanted) else min(max(wanted, 0.0), _LONGEST) / 1000

    @property
    def volatile(self) -> bool:
        """Whether the event may be dropped."""
        return self.flags is not None and self.flags.volatile is True


class Packet(msgspec.Struct, gc=False):
    """An event: its name and arguments."""

    data: list[Any]
    nsp: str = "/"


class Peer(msgspec.Struct, gc=False):
    """A socket of another server."""

    id: str
    rooms: list[str | int] = []
    data: Any = None
    handshake: dict[str, Any] = {}


def options(message: Emit | Fetch | Move | Expel, flags: dict[str, Any] | None = None) -> dict[str, Any]:
    """An audience as Node writes it; requests of the classic form have no flags."""
    audience: dict[str, Any] = {"rooms": message.rooms, "except": message.excluded}
    if flags is not None:
        audience["flags"] = flags
    return audience


def flags(message: Emit) -> dict[str, Any]:
    """The flags of an event."""
    made: dict[str, Any] = {}
    if message.volatile:
        made["volatile"] = True
    if message.request is not None:
        made["timeout"] = round(message.seconds * 1000)
    return made


def peers(message: Sockets) -> list[dict[str, Any]]:
    """Our sockets, as Node writes its own."""
    handshakes = message.handshakes or [{}] * len(message.sockets)
    return [
        {"id": identifier, "handshake": handshake, "rooms": rooms, "data": data}
        for (identifier, rooms, data), handshake in zip(message.sockets, handshakes, strict=True)
    ]


def sockets(namespace: str, request: str, found: list[Peer]) -> Sockets:
    """Another server's sockets. Data that is not an object is left out: here it always is one."""
    return Sockets(
        namespace,
        request,
        [(one.id, [str(room) for room in one.rooms], one.data if isinstance(one.data, dict) else {}) for one in found],
        [one.handshake for one in found],
    )


def name(values: list[Any]) -> str:
    """The name of an event. Raises InvalidValue."""
    if not values or not isinstance(values[0], str):
        raise InvalidValue("an event must begin with its name")
    return values[0]


def packed(kind: type[T]) -> Callable[[bytes], T]:
    """Reads MessagePack: Dates become dates; extensions that JavaScript does not write are refused."""
    return msgspec.msgpack.Decoder(kind, ext_hook=_no_extension).decode


def written(kind: type[T]) -> Callable[[bytes], T]:
    """Reads JSON, at most 64 levels of it."""
    return lambda data: decode(data, kind)


def has_binary(value: Any) -> bool:
    """Whether there are bytes anywhere in plain or decoded values."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, bytes | bytearray | memoryview):
            return True
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
    return False


def buffers(value: Any) -> Any:
    """Turn bytes that JavaScript's JSON.stringify wrote as `{"type": "Buffer", "data": [...]}` back into bytes."""
    if isinstance(value, list):
        return [buffers(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 2 and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
            try:
                return bytes(value["data"])
            except (ValueError, TypeError):
                return value
        return {key: buffers(item) for key, item in value.items()}
    return value


def as_buffers(value: Any) -> Any:
    """Turn bytes in values into that form, for JSON."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"type": "Buffer", "data": list(bytes(value))}
    if isinstance(value, list | tuple):
        return [as_buffers(item) for item in value]
    if isinstance(value, dict):
        return {key: as_buffers(item) for key, item in value.items()}
    return value


def short(data: bytes) -> None:
    """Raises InvalidValue for data that is too long to be read."""
    if len(data) > MOST:
        raise InvalidValue(f"it is {len(data)} bytes long, but at most {MOST} are read")


def shallow(value: Any) -> None:
    """Raises InvalidValue for values nested deeper than clients may nest them: they could not be sent to anybody."""
    if type(value) is list:
        for one in value:
            if type(one) is dict or type(one) is list:
                break
        else:
            return  # as most are
    level = [value]
    for _ in range(_DEEPEST):
        holding = [one for one in level if type(one) is dict or type(one) is list]
        if not holding:
            return
        level = [inner for one in holding for inner in (one.values() if type(one) is dict else one)]
    raise InvalidValue(f"it nests deeper than {_DEEPEST} levels")


def _texts(rooms: list[str | int]) -> list[str]:
    for room in rooms:
        if type(room) is not str:
            return [str(one) for one in rooms]
    return cast("list[str]", rooms)


def _no_extension(code: int, data: memoryview) -> Any:
    if code == 0 and len(data) == 1:  # notepack's `undefined`, in older versions
        return None
    raise ValueError(f"MessagePack extension {code} is not supported")
