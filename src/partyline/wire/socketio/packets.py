"""Socket.IO packets as values, and their JSON form (Socket.IO 5 and 4, which differ only in CONNECT and its refusal).

A packet is one text message, `<type>[<attachments>-][<namespace>,][<ack id>][<JSON>]`, and one binary message for each
attachment. Reading finds namespace, id and event name and checks that the rest is JSON; arguments stay as they came
until somebody asks for them. Long because reading and writing share one grammar and belong side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from partyline.errors import CONTAINED, InvalidPacket, InvalidValue, PartylineError, PayloadTooLarge
from partyline.wire.json import MAX_DEPTH, check_depth, mend_surrogates
from partyline.wire.socketio.attachments import PLAIN, Body, put_in, take_out
from partyline.wire.socketio.values import UNWRITABLE, places, plain

CONNECT: Final = 0
DISCONNECT: Final = 1
EVENT: Final = 2
ACK: Final = 3
CONNECT_ERROR: Final = 4

# A peer's event may not have these names: libraries on either side raise them themselves.
RESERVED: Final = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
MAX_NAMESPACE: Final = 1_024  # characters

Messages: TypeAlias = tuple[str | bytes, ...]
"""A packet as Engine.IO messages, in order, with nothing in between."""

Whole: TypeAlias = Callable[[str], tuple[Any, ...]]
"""Reads the JSON array of an event as its handler wants it: the name, then the arguments. Raises msgspec's errors."""

Wanted: TypeAlias = Callable[[str, str], Whole | None]
"""Given a namespace and an event's name: the decoder that its handler wants, if any."""

_HEAD = re.compile(r"([0-6])(?:([0-9]{1,10})-)?(?:(/[^,]*)(?:,|\Z))?([0-9]{1,16})?")
_read_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_json = msgspec.json.Decoder().decode
_write_json = msgspec.json.Encoder().encode


class Connect(msgspec.Struct, eq=False):
    """A client asks for a namespace. `auth` is the object that it sent, or in Socket.IO 4 the namespace's query."""

    namespace: str
    auth: dict[str, Any] | None


class Disconnect(msgspec.Struct, eq=False):
    """A client leaves a namespace."""

    namespace: str


class ConnectError(msgspec.Struct, eq=False):
    """A server refuses a namespace. A client may not send it."""

    namespace: str
    data: Any


class Event(msgspec.Struct, eq=False):
    """An event with its arguments. `id` is None if no acknowledgement is wanted.

    `raws` is the name and the arguments as undecoded JSON, for decoders with types of their own. It is None with
    attachments and in MessagePack: then call `arguments`. If the handler `Wanted` a decoder, `wanted` is that decoder
    and `values` what it has read.
    """

    namespace: str
    name: str
    id: int | None
    raws: list[msgspec.Raw] | None
    _rest: Callable[[], list[Any]] | str | None = None
    wanted: Whole | None = None
    values: tuple[Any, ...] = ()

    def arguments(self) -> list[Any]:
        """The arguments, decoded anew at each call. Raises InvalidPacket if one cannot be a value here."""
        if self.raws is not None:
            return _decoded(self.raws[1:])
        assert self._rest is not None
        values: list[Any] = _json(self._rest) if isinstance(self._rest, str) else self._rest()
        return values[1:]


class Ack(msgspec.Struct, eq=False):
    """The acknowledgement of the event with this `id`. `raws` and `arguments` are as in Event, without a name."""

    namespace: str
    id: int
    raws: list[msgspec.Raw] | None
    _rest: Callable[[], list[Any]] | None = None

    def arguments(self) -> list[Any]:
        """The arguments, decoded anew at each call. Raises InvalidPacket if one cannot be a value here."""
        if self.raws is not None:
            return _decoded(self.raws)
        assert self._rest is not None
        return self._rest()


Packet: TypeAlias = Connect | Disconnect | Event | Ack | ConnectError


class Reader(Protocol):
    """Reads one connection's messages."""

    def receive(self, message: str | bytes, wanted: Wanted | None = None) -> Packet | None:
        """The packet that a message completes; None while attachments are missing.

        An event without attachments is read by the decoder `wanted` for it, if it fits: then its JSON is read once.

        Raises InvalidPacket, or PayloadTooLarge if a packet with its attachments is larger than allowed: the
        connection has to be closed, and the reader cannot be used any more.
        """


class Parser(Protocol):
    """One way to write packets. Raises InvalidValue for an argument that cannot be written so.

    `text` says that the data of a body is text.
    """

    text: bool

    def reader(self, protocol: int, *, max_attachments: int = 10, max_total: int = 1_000_000) -> Reader:
        """A reader for a connection that speaks Socket.IO 5 or 4. `max_total` is in bytes, for a packet in all."""

    def namespace(self, message: str | bytes) -> str | None:
        """The namespace of a message of ours that begins an event or an acknowledgement; None for other messages."""

    def connect(self, namespace: str, sid: str | None = None, pid: str | None = None) -> Messages:
        """The answer to CONNECT. In Socket.IO 4 it has no `sid`; it has a `pid` if recovery is on."""

    def ask(self, namespace: str, auth: dict[str, Any] | None) -> Messages:
        """A client's CONNECT, in Socket.IO 5."""

    def connect_error(self, namespace: str, message: str, data: Any = None, *, protocol: int = 5) -> Messages:
        """The refusal of a CONNECT. In Socket.IO 4 it is `data`, or the bare message."""

    def disconnect(self, namespace: str) -> Messages: ...

    def event(
        self,
        namespace: str,
        name: str,
        arguments: Sequence[Any],
        id: int | None = None,  # noqa: A002 - the protocol's word
        offset: str | None = None,
    ) -> Messages:
        """An event. `offset` is the place in the log that a client with recovery remembers: the last argument."""

    def body(self, name: str, arguments: Sequence[Any]) -> Body:
        """What the packets of an event have in common."""

    def packet(
        self,
        namespace: str,
        body: Body,
        id: int | None = None,  # noqa: A002 - the protocol's word
        offset: str | None = None,
    ) -> Messages:
        """The same as `event`, from a body."""

    def values(self, body: Body) -> list[Any]:
        """The name and the arguments in a body. Raises InvalidPacket if it is damaged."""

    def ack(self, namespace: str, id: int, arguments: Sequence[Any]) -> Messages: ...  # noqa: A002


class JsonReader:
    """Reads packets in JSON; holds an unfinished one."""

    __slots__ = (
        "_attachments",
        "_max_attachments",
        "_max_total",
        "_missing",
        "_protocol",
        "_room",
        "_unfinished",
        "_values",
    )

    def __init__(self, protocol: int, *, max_attachments: int = 10, max_total: int = 1_000_000) -> None:
        self._protocol = protocol
        self._max_attachments = max_attachments
        self._max_total = max_total
        self._unfinished: Event | Ack | None = None
        self._values: list[Any] = []
        self._attachments: list[bytes] = []
        self._missing = 0
        self._room = 0  # bytes that are left for attachments

    def receive(self, message: str | bytes, wanted: Wanted | None = None) -> Packet | None:
        if isinstance(message, bytes):
            return self._attachment(message)
        if self._unfinished is not None:
            raise InvalidPacket("a packet came before the attachments of the last one were there")
        if len(message) > self._max_total:
            raise _too_large(self._max_total)
        if message[:1] == "2":  # most messages: an event of the main namespace
            at = message.find("[", 1, 18)
            number = message[1:at]
            if at == 1 or (at > 1 and number.isascii() and number.isdigit()):
                return _event("/", int(number) if number else None, message[at:], wanted)
        return self._general(message, wanted)

    def _general(self, message: str, wanted: Wanted | None) -> Packet | None:
        head = _HEAD.match(message)
        if head is None:
            raise InvalidPacket("a Socket.IO packet begins with a digit from 0 to 6")
        kind, count, named, number = head.groups()
        namespace = named or "/"
        text = message[head.end() :]
        if (count is not None) is not (kind in "56"):
            raise InvalidPacket("binary packets announce their attachments, and others have none")
        if kind == "0":
            return self._connect(namespace, number, text)
        if len(namespace) > MAX_NAMESPACE:
            raise InvalidPacket(f"a namespace is longer than {MAX_NAMESPACE} characters")
        identifier = None if number is None else int(number)
        if kind == "2":
            return _event(namespace, identifier, text, wanted)
        if kind in "36" and identifier is None:
            raise InvalidPacket("an acknowledgement has no id")
        if kind == "3":
            return Ack(namespace, identifier, _raws(_safe(text)))  # type: ignore[arg-type]
        if count is not None:
            self._begin(kind, namespace, identifier, int(count), text)
            self._room = self._max_total - len(message)
            return None
        if number is not None:
            raise InvalidPacket("this packet cannot have an id")
        if kind == "1":
            if text:
                raise InvalidPacket("a DISCONNECT carries nothing")
            return Disconnect(namespace)
        data = _json(text)
        if not isinstance(data, str | dict):
            raise InvalidPacket("a CONNECT_ERROR carries a text or an object")
        return ConnectError(namespace, data)

    def _connect(self, namespace: str, number: str | None, text: str) -> Connect:
        auth = _json(text) if text else None
        if number is not None or not (auth is None or isinstance(auth, dict)) or text == "null":
            raise InvalidPacket("a CONNECT carries an object or nothing")
        if self._protocol == 4:
            namespace, asked, query = namespace.partition("?")
            if asked:
                auth = _read_query(query)
        if len(namespace) > MAX_NAMESPACE:
            raise InvalidPacket(f"a namespace is longer than {MAX_NAMESPACE} characters")
        return Connect(namespace, auth)

    def _begin(self, kind: str, namespace: str, identifier: int | None, count: int, text: str) -> None:
        """A packet whose attachments follow. It is decoded now: placeholders may be anywhere in it."""
        if not 1 <= count <= self._max_attachments:
            raise InvalidPacket(
                f"a packet announces {count} attachments, and may have 1 to {self._max_attachments} (max_attachments)",
                limit="max_attachments",
            )
        raws = _raws(_safe(text))
        values = self._values = _decoded(raws)

        def rest() -> list[Any]:
            return values

        if kind == "5":
            self._unfinished = Event(namespace, _name(text, raws), identifier, None, rest)
        else:
            assert identifier is not None
            self._unfinished = Ack(namespace, identifier, None, rest)
        self._missing = count

    def _attachment(self, data: bytes) -> Packet | None:
        if self._unfinished is None:
            raise InvalidPacket("a binary message came that no packet announced")
        attachments = self._attachments
        attachments.append(data)
        self._room -= len(data)
        if self._room < 0:
            raise _too_large(self._max_total)
        self._missing -= 1
        if self._missing:
            return None
        put_in(self._values, attachments)
        packet, self._unfinished = self._unfinished, None
        self._attachments = []
        self._values = []
        return packet


class JsonParser:
    """Packets in JSON, Socket.IO's default."""

    __slots__ = ()

    text = True

    def reader(self, protocol: int, *, max_attachments: int = 10, max_total: int = 1_000_000) -> JsonReader:
        return JsonReader(protocol, max_attachments=max_attachments, max_total=max_total)

    def namespace(self, message: str | bytes) -> str | None:
        head = _HEAD.match(message) if isinstance(message, str) else None
        return (head[3] or "/") if head is not None and head[1] in "2356" else None

    def connect(self, namespace: str, sid: str | None = None, pid: str | None = None) -> Messages:
        return (_head("0", namespace) + ("" if sid is None else _text(connect_data(sid, pid))),)

    def ask(self, namespace: str, auth: dict[str, Any] | None) -> Messages:
        return (_head("0", namespace) + ("" if auth is None else _text(auth)),)

    def connect_error(self, namespace: str, message: str, data: Any = None, *, protocol: int = 5) -> Messages:
        return (_head("4", namespace) + _text(connect_error_data(message, data, protocol)),)

    def disconnect(self, namespace: str) -> Messages:
        return (_head("1", namespace),)

    def event(
        self,
        namespace: str,
        name: str,
        arguments: Sequence[Any],
        id: int | None = None,  # noqa: A002 - the protocol's word
        offset: str | None = None,
    ) -> Messages:
        return _write("2", "5", namespace, id, event_values(name, arguments, offset))

    def body(self, name: str, arguments: Sequence[Any]) -> Body:
        text, attachments = _encoded(event_values(name, arguments, None), event=True)
        return Body(text, tuple(attachments))

    def packet(
        self,
        namespace: str,
        body: Body,
        id: int | None = None,  # noqa: A002 - the protocol's word
        offset: str | None = None,
    ) -> Messages:
        assert isinstance(body.data, str)
        text = body.data if offset is None else f'{body.data[:-1]},"{offset}"]'
        attachments = body.attachments
        if namespace == "/" and id is None and not attachments:
            return ("2" + text,)  # the common way
        if attachments:
            return (_head(f"5{len(attachments)}-", namespace, id) + text, *attachments)
        return (_head("2", namespace, id) + text,)

    def values(self, body: Body) -> list[Any]:
        assert isinstance(body.data, str)
        values: list[Any] = _json(body.data)
        if body.attachments:
            put_in(values, body.attachments)
        return values

    def ack(self, namespace: str, id: int, arguments: Sequence[Any]) -> Messages:  # noqa: A002
        return _write("3", "6", namespace, id, arguments)


JSON: Final = JsonParser()


# Of every parser


def event_values(name: str, arguments: Sequence[Any], offset: str | None) -> list[Any]:
    """The array that an event carries. Raises InvalidValue for a name that peers refuse."""
    if not isinstance(name, str):
        raise InvalidValue(f"event: {repr(name)[:40]} is not a text, as the name of an event is", field="event")
    if name in RESERVED:
        raise InvalidValue(f"{name!r} is a name that Socket.IO keeps for itself: choose another", field="event")
    return [name, *arguments] if offset is None else [name, *arguments, offset]


def connect_data(sid: str, pid: str | None) -> dict[str, str]:
    return {"sid": sid} if pid is None else {"sid": sid, "pid": pid}


def connect_error_data(message: str, data: Any, protocol: int) -> Any:
    if protocol == 4:
        return message if data is None else data
    return {"message": message} if data is None else {"message": message, "data": data}


def check_name(name: Any) -> str:
    """An event's name as text; a number's digits are its name. Raises InvalidPacket."""
    if isinstance(name, int | float) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str):
        raise InvalidPacket("an event begins with its name, a text or a number")
    if name in RESERVED:
        raise InvalidPacket(f"an event has the reserved name {name!r}")
    return name


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a packet with its attachments is larger than {limit} bytes", limit="max_message")


# Reading JSON


def whole(*kinds: Any) -> Whole:
    """A decoder for an event whose arguments are of these types."""
    return msgspec.json.Decoder(GenericAlias(tuple, (str, *kinds))).decode


def _event(namespace: str, identifier: int | None, text: str, wanted: Wanted | None) -> Event:
    """An event without attachments. Raises InvalidPacket."""
    text = _safe(text)
    if wanted is not None and text.startswith('["') and "\\" not in (name := text[2 : text.find('"', 2)]):
        reads = wanted(namespace, name)
        if reads is not None:
            try:
                return Event(namespace, name, identifier, None, text, reads, reads(text))
            except CONTAINED:
                pass  # it is read piece by piece, to find the argument that does not fit or is refused
    raws = _raws(text)
    return Event(namespace, _name(text, raws), identifier, raws)


def _safe(text: str) -> str:
    """The same JSON without lone surrogates. Raises InvalidPacket if it nests too deep."""
    return _mended(text) if "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH else text


def _raws(text: str) -> list[msgspec.Raw]:
    """The items of a safe JSON array, checked but not decoded. Raises InvalidPacket."""
    try:
        return _read_raws(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidPacket(f"a packet carries no JSON array: {error}") from None


def _json(text: str) -> Any:
    try:
        return _read_json(_mended(text))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidPacket(f"a packet carries no JSON: {error}") from None


def _mended(text: str) -> str:
    """Lone surrogates replaced, nesting checked."""
    try:
        data = text.encode()
        check_depth(data)
    except UnicodeError as error:
        raise InvalidPacket(f"a packet is not text: {error}") from None
    except PartylineError as error:
        raise InvalidPacket(error.message, limit=error.limit) from None
    return mend_surrogates(data).decode()


def _decoded(raws: list[msgspec.Raw]) -> list[Any]:
    try:
        return [_read_json(raw) for raw in raws]
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidPacket(f"an argument is not a value here: {error}") from None


def _name(text: str, raws: list[msgspec.Raw]) -> str:
    """The first item of an array that was read: the text between the quotes, unless it has escapes."""
    if text.startswith('["'):
        name = text[2 : text.find('"', 2)]
        if "\\" not in name:
            if name in RESERVED:
                raise InvalidPacket(f"an event has the reserved name {name!r}")
            return name
    if not raws:
        raise InvalidPacket("an event has no name")
    return check_name(_decoded(raws[:1])[0])


def _read_query(query: str) -> dict[str, Any]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=64))
    except ValueError:
        raise InvalidPacket("a CONNECT carries more than 64 parameters") from None


# Writing JSON


def _head(kind: str, namespace: str, identifier: int | None = None) -> str:
    head = kind if namespace == "/" else f"{kind}{namespace},"
    return head if identifier is None else f"{head}{identifier}"


def _text(value: Any) -> str:
    try:
        return _write_json(value).decode()
    except UNWRITABLE:
        return _write_json(*plain([value], ["the data"])).decode()


def _write(kind: str, binary: str, namespace: str, identifier: int | None, values: Sequence[Any]) -> Messages:
    text, attachments = _encoded(values, event=kind == "2")
    if attachments:
        return (_head(f"{binary}{len(attachments)}-", namespace, identifier) + text, *attachments)
    return (_head(kind, namespace, identifier) + text,)


def _encoded(values: Sequence[Any], *, event: bool) -> tuple[str, list[bytes]]:
    if len(values) == 1 and type(values[0]) is msgspec.Raw:  # JSON already: the answer of /relay
        return f"[{bytes(values[0]).decode()}]", []
    try:
        if PLAIN.issuperset(map(type, values)):
            return _write_json(values).decode(), []
        taken, attachments = take_out(values)
        return _write_json(taken).decode(), attachments
    except UNWRITABLE:
        taken, attachments = take_out(plain(values, places(len(values), event=event)))
        return _write_json(taken).decode(), attachments
