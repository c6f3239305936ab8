"""What a message in a stream survives: read from the stream's replicas and from the server's monitoring port.

An ordinary account of NATS does not see the sync setting of JetStream, so where `?monitor=8222` is not given, less is
assumed.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from partyline.adapters.nats.address import Address
from partyline.errors import StoreUnavailable
from partyline.interfaces import Durability

_MANY: Final = 3  # replicas of which any one may be lost
_PATIENCE: Final = 1.0
_MOST: Final = 1024 * 1024


async def durability(address: Address, monitor: int, info: dict[str, Any]) -> Durability:
    """`info` is what JetStream says of the stream. Raises StoreUnavailable if the monitoring port does not answer."""
    config = info["config"]
    if config["storage"] != "file":
        return Durability.NOTHING
    if config["num_replicas"] >= _MANY:
        return Durability.MACHINE
    if not monitor:
        return Durability.WINDOW
    for host, _ in address.hosts:
        try:
            async with asyncio.timeout(_PATIENCE):
                told = await _varz(host, monitor)
        except (OSError, ValueError, TimeoutError, msgspec.MsgspecError):
            continue
        always = told.get("jetstream", {}).get("config", {}).get("sync_always", False)
        return Durability.POWER_CUT if always else Durability.WINDOW
    raise StoreUnavailable(f"the monitoring port {monitor} of NATS does not answer")


async def _varz(host: str, port: int) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /varz HTTP/1.0\r\nHost: %b\r\n\r\n" % host.encode())
        answer = await reader.read(_MOST)
        while more := await reader.read(_MOST):
            answer += more
            if len(answer) > _MOST:
                raise ValueError("not an answer of NATS")
    finally:
        writer.close()
    told: dict[str, Any] = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
    return told
