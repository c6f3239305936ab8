"""One stream of JetStream: how it is made, asked and written to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from partyline.adapters.nats.line import GONE, LOST, Arrived, Line, headers
from partyline.errors import StoreUnavailable

NEWEST: Final = (2, 12)  # the first version with atomic batches
OTHER: Final = (10071, 10164)
"""Errors: the last message of a subject is not the one that was named, or another one is just being kept."""
_NO_STREAM: Final = 10059
_NOT_FOUND: Final = 10037
_EXISTS: Final = 10058

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Declined(StoreUnavailable):
    """JetStream answers with an error; `number` is the one that it gives to its kind."""

    def __init__(self, what: str, error: Mapping[str, Any]) -> None:
        super().__init__(f"JetStream refuses {what}: {error.get('description', 'no reason given')}")
        self.number = int(error.get("err_code", 0))


class TooMany(StoreUnavailable):
    """More subjects match than JetStream looks up at once."""


class Kept(NamedTuple):
    """A message of a stream."""

    subject: bytes
    sequence: int
    data: bytes


class Found(NamedTuple):
    """Messages of a stream, how many more there are after them, and the sequence up to which was looked (0 if that is
    not known)."""

    kept: list[Kept]
    pending: int
    up_to: int


class Stream:
    """A stream, asked over a connection."""

    def __init__(self, line: Line, name: str) -> None:
        self.line = line
        self.name = name
        self._direct = f"$JS.API.DIRECT.GET.{name}".encode()

    async def api(self, what: str, request: Mapping[str, Any] | None = None, tail: str = "") -> dict[str, Any]:
        """Ask JetStream for something, such as STREAM.INFO. Raises StoreUnavailable, and Declined."""
        subject = f"$JS.API.{what}.{self.name}{tail}".encode()
        arrived = await self.line.ask(subject, _encode(request) if request else b"")
        if arrived.status == b"503":
            raise StoreUnavailable("JetStream does not answer: it is not enabled on this NATS, or has no leader now")
        answer: dict[str, Any] = _decode(arrived.data)
        if (error := answer.get("error")) is not None:
            raise Declined(what, error)
        return answer

    async def ensure(self, wanted: Mapping[str, Any], replicas: int) -> dict[str, Any]:
        """What JetStream says of the stream, which is made if it is not there.

        Raises StoreUnavailable if it is there and other than `wanted`.
        """
        try:
            info = await self.api("STREAM.INFO")
        except Declined as error:
            if error.number != _NO_STREAM:
                raise
            try:
                info = await self.api("STREAM.CREATE", {"name": self.name, **wanted, "num_replicas": replicas})
            except Declined as declined:
                if declined.number != _EXISTS:
                    raise
                info = await self.api("STREAM.INFO")  # another node was faster
        config = info["config"]
        for setting, value in wanted.items():
            if config.get(setting, False) != value:
                raise StoreUnavailable(
                    f"the stream {self.name} has {setting} = {config.get(setting, False)}, and needs {value}: change "
                    "it with `nats stream edit`, or name another prefix in the address"
                )
        return info

    async def publish(self, subject: bytes, data: bytes, head: bytes = b"") -> dict[str, Any]:
        """Keep one message; JetStream's acknowledgement. Raises StoreUnavailable, and Declined."""
        return acknowledged(await self.line.ask(subject, data, head))

    async def last(self, subject: str) -> Kept | None:
        """The last message of a subject, or of the subjects of a filter, as the stream's leader knows it."""
        return await self._one({"last_by_subj": subject})

    async def at(self, sequence: int) -> Kept | None:
        """The message with this sequence, as the stream's leader knows it."""
        return await self._one({"seq": sequence}) if sequence > 0 else None

    async def _one(self, request: Mapping[str, Any]) -> Kept | None:
        try:
            message = (await self.api("STREAM.MSG.GET", request))["message"]
        except Declined as error:
            if error.number == _NOT_FOUND:
                return None
            raise
        return Kept(message["subject"].encode(), message["seq"], _decode(_encode(message.get("data", "")), type=bytes))

    async def after(self, sequence: int, subject: str, count: int, size: int) -> Found:
        """The next messages of a filter after a sequence, as the nearest replica knows them."""
        request = {"seq": sequence + 1, "next_by_subj": subject, "batch": count, "max_bytes": size}
        return await self._fetch(request)

    async def lasts(self, subjects: Sequence[str]) -> Found:
        """The last message of each subject of these filters at one moment, as the nearest replica knows them.

        Raises TooMany.
        """
        return await self._fetch({"multi_last": subjects, "batch": 1024})

    async def _fetch(self, request: Mapping[str, Any]) -> Found:
        kept: list[Kept] = []
        done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()

        def heard(arrived: Arrived) -> None:
            if done.done():
                return
            status = arrived.status
            if arrived is GONE:
                done.set_exception(LOST)
            elif not status:
                fields = headers(arrived)
                kept.append(Kept(fields[b"Nats-Subject"], int(fields[b"Nats-Sequence"]), arrived.data))
            elif status == b"204":
                fields = headers(arrived)
                up_to = int(fields.get(b"Nats-UpTo-Sequence", b"0"))
                done.set_result(Found(kept, int(fields[b"Nats-Num-Pending"]), up_to))
            elif status == b"404":
                done.set_result(Found(kept, 0, 0))
            elif status == b"413":
                done.set_exception(TooMany("JetStream does not look up so many subjects at once"))
            else:
                said = arrived.head.partition(b"\r\n")[0].decode(errors="replace")
                done.set_exception(StoreUnavailable(f"JetStream cannot read the stream now: {said[9:]}"))

        inbox = self.line.inbox(heard)
        try:
            if not self.line.up:
                raise LOST
            self.line.publish(self._direct, _encode(request), inbox)
            return await done
        finally:
            self.line.forget(inbox)


def acknowledged(arrived: Arrived) -> dict[str, Any]:
    """What the acknowledgement of a message says. Raises StoreUnavailable, and Declined."""
    if arrived is GONE:
        raise LOST
    if arrived.status == b"503":
        raise StoreUnavailable("JetStream does not take messages now: the stream is gone, or has no leader")
    answer: dict[str, Any] = _decode(arrived.data)
    if (error := answer.get("error")) is not None:
        raise Declined("a message", error)
    return answer


def version(line: Line) -> tuple[int, int]:
    """Major and minor version of a server."""
    parts = str(line.info.get("version", "0.0")).split(".")
    return int(parts[0]), int(parts[1])


def seconds(text: str) -> float:
    """A time of JetStream as seconds since 1970."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")
