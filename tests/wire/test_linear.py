"""The cost of what strangers send is linear: eight times the length takes eight times the time (hostile 46).

`READERS` has a row for each function of `READING` that reads a text of a peer, a server or a setting; a new one must
get a row here or a place in `NO_READERS`.
"""

from __future__ import annotations

import ast
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import partyline
from partyline import config, log, notation, topics
from partyline.chat import rooms, words
from partyline.cli import shown
from partyline.client import frames as client
from partyline.hub.rooms import Patterns
from partyline.models import Position
from partyline.relay.access import query_token
from partyline.relay.classic.registry import id_hash
from partyline.server.exchange import check_json
from partyline.topics import check_pattern, check_subscription, check_topic, is_printable
from partyline.trust import addresses, perimeter, tokens
from partyline.trust.keys import key_hash
from partyline.wire import json as wire_json
from partyline.wire import lanes, relay
from partyline.wire import sse as events
from partyline.wire.cluster import streams
from partyline.wire.cluster.classic import Classic
from partyline.wire.cluster.python import Python
from partyline.wire.cluster.shapes import UNREADABLE
from partyline.wire.cluster.sharded import Sharded
from partyline.wire.cluster.streams import Streams
from partyline.wire.engineio import handshake as engineio_handshake
from partyline.wire.engineio import packets as engineio_packets
from partyline.wire.engineio import payloads
from partyline.wire.http.head import complete_lines, content_length, path_text
from partyline.wire.socketio.msgpack import MsgpackReader
from partyline.wire.socketio.packets import JsonReader
from partyline.wire.socketio.values import check_integers
from partyline.wire.websocket import frames, handshake, masking
from partyline.wire.websocket.codec import Codec, Limits
from partyline.wire.websocket.deflate import Deflate, InflatedTooLarge, InflateError, Inflater, deflate
from tests.linear import is_linear

PACKAGE = Path(partyline.__file__).parent
WIDE = Limits(1 << 30, 1 << 30, 1 << 30)
KEY = b"\x01\x02\x03\x04"


def websocket(piece: bytes) -> object:
    """Frames of a client, read by a server and by a client, whole and a unit at a time."""
    reader = Codec(WIDE, deflate=Deflate())
    reader.keep(piece)
    while reader.unread:
        reader.receive(b"", 32)
    Codec(WIDE, client=True).receive(piece)
    return Codec(WIDE).receive(frames.frame(frames.TEXT, piece, key=KEY))


def inflated(piece: bytes) -> object:
    with contextlib.suppress(InflateError, InflatedTooLarge):
        Inflater(1 << 20).inflate(piece, final=True)
    return Inflater(1 << 30).inflate(deflate(piece), final=True)


def cluster(read: Callable[[str, bytes], object], data: bytes) -> object:
    """What another server has published: read, or refused."""
    with contextlib.suppress(*UNREADABLE):
        return read("/", data)
    return None


def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda piece: read(piece.decode("latin-1"))


READERS: dict[str, Callable[[bytes], object]] = {
    "json.decode": lambda piece: wire_json.decode(piece, msgspec.Raw),
    "json.check_depth": wire_json.check_depth,
    "json.mend_surrogates": wire_json.mend_surrogates,
    "lanes.replace_lone": lanes.replace_lone,
    "lanes.nests_deeper": lambda piece: lanes.nests_deeper(bytes(byte for byte in piece if byte in b'[]{}"'), 64),
    "json.compact": lambda piece: wire_json.compact(b'"' + piece.replace(b'"', b"").replace(b"\\", b"") + b'"'),
    "json.read": wire_json.read,
    "json.read numbers": lambda piece: wire_json.read(b"[" + b"1" * len(piece) + b"]"),
    "relay.decode_command": text(lambda value: relay.decode_command('{"type":"publish","topic":"' + value)),
    "relay.decode_command data": text(
        lambda value: relay.decode_command('{"type":"publish","topic":"a","data":' + value + "}")
    ),
    "relay.find_id": text(relay.find_id),
    "relay.user_text": text(relay.user_text),
    "relay.check_list": lambda piece: relay.check_list(piece.decode("latin-1").split(","), 10),
    "sse.event": lambda piece: events.event(piece),
    "engineio.read_request": lambda piece: engineio_handshake.read_request(
        piece, method="GET", upgrade=False, version_3=True, jsonp=True
    ),
    "engineio.read_text": text(lambda value: engineio_packets.read_text("b" + value, 4)),
    "engineio.read_text 3": text(lambda value: engineio_packets.read_text("b4" + value, 3)),
    "engineio.read_binary": lambda piece: engineio_packets.read_binary(piece, 3),
    "engineio.from_base64": text(engineio_packets.from_base64),
    "engineio.to_base64": lambda piece: engineio_packets.to_base64(piece, 4),
    "engineio.payloads.read": lambda piece: payloads.read(piece, 4),
    "engineio.payloads.read 3": lambda piece: payloads.read(piece, 3),
    "engineio.payloads.read octets": lambda piece: payloads.read(piece, 3, octets=True),
    "engineio.payloads.read_form": lambda piece: payloads.read_form(b"d=" + piece, 4),
    "socketio.JsonReader.receive": text(lambda value: JsonReader(10).receive("2" + value)),
    "socketio.JsonReader.receive event": text(lambda value: JsonReader(10).receive('2["' + value + '"]')),
    "socketio.JsonReader.receive attachments": text(lambda value: JsonReader(10).receive("51-" + value)),
    "socketio.MsgpackReader.receive": lambda piece: MsgpackReader().receive(b"\x84" + piece),
    "cluster.Classic.read_event": lambda piece: cluster(Classic("us").read_event, b"\x93\xa1x" + piece),
    "cluster.Classic.read_request": lambda piece: cluster(Classic("us").read_request, b'{"type":6,"data":' + piece),
    "cluster.Classic.read_request packed": lambda piece: cluster(Classic("us").read_request, b"\x81\xa4data" + piece),
    "cluster.Classic.read_answer": lambda piece: cluster(Classic("us").read_answer, b'{"requestId":"' + piece + b'"}'),
    "cluster.sharded.read": lambda piece: cluster(Sharded("us").read, b'{"uid":"x","nsp":"/","type":3,"data":' + piece),
    "cluster.sharded.read packed": lambda piece: cluster(Sharded("us").read, b"\x84" + piece),
    "cluster.Streams.read_entry": lambda piece: cluster(
        lambda _, data: Streams("us").read_entry([b"nsp", b"/", b"type", b"3", b"data", data]), piece
    ),
    "cluster.streams.read_session": lambda piece: cluster(lambda _, data: streams.read_session(data), piece),
    "cluster.Python.read": lambda piece: cluster(Python("us").read, b'{"method":"emit","data":' + piece),
    "websocket.Connection.receive": websocket,
    "websocket.Inflater.inflate": inflated,
    "websocket.handshake.offered_subprotocols": lambda piece: handshake.offered_subprotocols([piece]),
    "websocket.handshake.negotiate": lambda piece: handshake.negotiate([piece]),
    "websocket.handshake.parse_extensions": handshake.parse_extensions,
    "websocket.handshake.accept": lambda piece: handshake.accept(
        "GET", "1.1", [(b"upgrade", piece), (b"connection", piece), (b"sec-websocket-key", piece)]
    ),
    "websocket.frames.messages": lambda piece: list(frames.messages(frames.text_frame(piece) * 2)),
    "websocket.masking.mask": lambda piece: masking.mask(piece, KEY),
    "topics.check_topic": text(check_topic),
    "topics.check_pattern": text(check_pattern),
    "topics.check_subscription": text(check_subscription),
    "topics.is_printable": text(is_printable),
    "topics.is_pattern": text(topics.is_pattern),
    "topics.covers": text(lambda value: topics.covers("a.*.>", value)),
    "topics.covers pattern": text(lambda value: topics.covers(value, "a.b")),
    "topics.any_covers": text(lambda value: topics.any_covers(("a.b", "a.*.>"), value)),
    "topics.contains": text(lambda value: topics.contains("a.*.>", value)),
    "topics.contains wide": text(lambda value: topics.contains(value, value)),
    "topics.any_contains": text(lambda value: topics.any_contains(("a.b", "a.*.>"), value)),
    "topics.matcher": text(lambda value: topics.matcher(("a.b", "a.*.>"))(value)),
    "topics.overlap": text(lambda value: topics.overlap(value, value)),
    "models.Position.parse": text(Position.parse),
    "chat.words.text": text(words.text),
    "chat.words.name": text(lambda value: words.name(value, 40, "name")),
    "chat.words.name marks": lambda piece: words.name("a" + "\u0301\u0323" * len(piece), 40, "name"),
    "chat.words.message_id": text(words.message_id),
    "chat.words.seen": text(words.seen),
    "chat.rooms.room_of": text(rooms.room_of),
    "chat.rooms.person": text(rooms.person),
    "trust.addresses.plain": text(addresses.plain),
    "trust.addresses.node": text(addresses.node),
    "trust.addresses.network": text(addresses.network),
    "trust.addresses.is_loopback": text(addresses.is_loopback),
    "trust.addresses.source": text(addresses.source),
    "trust.keys.key_hash": text(key_hash),
    "trust.perimeter.canonical_origin": text(perimeter.canonical_origin),
    "trust.perimeter.canonical_origin host": text(lambda value: perimeter.canonical_origin("http://" + value)),
    "trust.perimeter.allowed_origin": text(perimeter.allowed_origin),
    "trust.perimeter.allowed_host": text(perimeter.allowed_host),
    "trust.perimeter.trusted_network": text(perimeter.trusted_network),
    "trust.tokens.looks_like_token": text(tokens.looks_like_token),
    "trust.tokens.key_set": lambda piece: tokens.key_set("RS256", b'{"keys":[' + piece),
    "relay.access.query_token": lambda piece: query_token(b"token=" + piece),
    "server.exchange.check_json": text(check_json),
    "relay.registry.id_hash": text(id_hash),
    "http.head.content_length": content_length,
    "http.head.path_text": path_text,
    "http.head.complete_lines": complete_lines,
    "socketio.values.check_integers": lambda piece: check_integers([piece.decode("latin-1"), list(piece)], "here"),
    "notation.duration": text(notation.duration),
    "config.checked": text(lambda value: config.checked("max_body", value)),
    "config.checked list": text(lambda value: config.checked("default_topics", value)),
    "client.frames.read": text(client.read),
    "client.frames.error_of": text(lambda value: client.error_of(value, value)),
    "cli.shown.plain": text(shown.plain),
    "cli.shown.printable_json": text(shown.printable_json),
    "log.redact_text": text(log.redact_text),
}

PIECES = [
    *(b"a", b" ", b"\\", b'"', b"[", b"[],", b"{", b":", b",", b"0", b"1:", b"-", b"b", b"\x1e", b"\x00", b"\xff"),
    *(
        b"\\\\",
        b"\\u",
        b"\\ud800",
        b"\\ud83d\\ude00",
        b'"[",',
        b'"",',
        b'\\"',
        b"[" * 60 + b"]" * 60,
        b"a.",
        b"*.",
        b">.",
    ),
    *(b"a, ", b"a;", b'a="b";', b"%41", b"a=1&", b"\r\n", b"4a\x1e", b"2:4a", b"\x81\xa1a", b"\xc4\x00", b"\x91"),
    frames.frame(frames.PING, b"", key=KEY),
    frames.frame(frames.TEXT, b"", fin=False, key=KEY) + frames.frame(frames.CONTINUATION, b"x", key=KEY),
    frames.frame(frames.TEXT, deflate(b"x" * 1_000), rsv1=True, key=KEY),
]


# `make test` measures one reader of each kind: a parser of texts, one of bytes, a decoder, a check of one value.
QUICK = ("json.check_depth", "engineio.payloads.read", "socketio.JsonReader.receive", "topics.check_subscription")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.alone) for name in READERS],
)
def test_46_what_is_read_costs_what_it_weighs(name: str) -> None:
    """hostile 46: a text eight times as long costs at most a little more than eight times as much, whatever it is made
    of."""
    for piece in PIECES:
        assert is_linear(READERS[name], piece, 64_000, 128_000, 256_000), piece


# Functions that only write our own data, read files of whoever runs the server, or look at a bounded number of
# characters.
NO_READERS = {
    *("json.refusal", "json.to_json", "relay.envelope", "relay.entry", "relay.publish_reply"),
    *("relay.framed", "engineio.handshake.refusal", "engineio.handshake.open_packet", "engineio.packets.message"),
    *("packets.whole", "packets.event_values", "packets.connect_data", "packets.connect_error_data", "masking.rotate"),
    *(
        "frames.frame",
        "frames.text_frame",
        "frames.close_payload",
        "frames.utf8",
        "handshake.accept_value",
        "deflate.deflate",
    ),
    *("tokens.secret_key", "tokens.public_key", "tokens.signing_key", "config.option", "notation.written"),
    *("shapes.short", "shapes.sockets", "sharded.channel", "streams.session_key", "streams.offset_number"),
    *("log.redact", "log.get", "log.configure", "log.name_process", "frames.command", "frames.message_of"),
}
READING = (
    *("config.py", "entries.py", "log.py", "models.py", "notation.py", "topics.py", "cli/shown.py", "client/frames.py"),
    *("relay/access.py", "relay/requests.py", "relay/classic/registry.py", "relay/v1/reading.py"),
    *("chat/*.py", "trust/*.py", "wire/*.py", "wire/*/*.py"),
)
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for kind in READING for path in PACKAGE.glob(kind))


def readers_in(path: Path) -> set[str]:
    """The public functions of a module that take text or bytes, and those methods called `receive` or `inflate`."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            kinds = [ast.unparse(one.annotation) for one in node.args.args if one.annotation is not None]
            if any(kind in ("str", "bytes", "str | bytes", "Iterable[bytes]", "Headers") for kind in kinds):
                found.add(node.name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_reader_has_a_row(module: str) -> None:
    """Each function of these modules that takes a peer's text is in the table above, or among those that only write."""
    rows = {name.partition(" ")[0].rpartition(".")[2] for name in READERS}
    ours = {name.rpartition(".")[2] for name in NO_READERS}
    assert readers_in(PACKAGE / module) <= rows | ours


@pytest.mark.alone
def test_48_a_match_does_not_depend_on_what_others_subscribed() -> None:
    """hostile 48: matching a topic of few tokens costs the same beside ten thousand patterns of others."""
    topic = "orders.eu.1"
    alone, crowded = Patterns(), Patterns()
    for patterns in (alone, crowded):
        patterns.add("orders.*.1")
    for number in range(10_000):
        tokens = [f"t{number % 97}", *("*" if number >> bit & 1 and bit < 4 else f"x{number}" for bit in range(10))]
        crowded.add(check_subscription(".".join(tokens)))

    def matched(patterns: Patterns) -> Any:
        patterns._matched.clear()
        return patterns.matching(topic)

    assert matched(alone) == matched(crowded) == ("orders.*.1",)
    least = min(_seconds(matched, alone) for _ in range(5))
    assert min(_seconds(matched, crowded) for _ in range(5)) < 3 * least


def _seconds(matched: Callable[[Patterns], Any], patterns: Patterns) -> float:
    began = time.thread_time()
    for _ in range(1_000):
        matched(patterns)
    return time.thread_time() - began
