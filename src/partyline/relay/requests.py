"""What every HTTP call of the relay needs: its caller, its body as a value, its answer as JSON."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from partyline.errors import PartylineError, PayloadTooLarge
from partyline.hub.hub import Hub
from partyline.models import Draft, Receipt
from partyline.server.exchange import check_coding, check_json
from partyline.topics import MAX_LENGTH, TOKEN, UNPRINTABLE
from partyline.trust.perimeter import Peer
from partyline.wire.http.head import content_length
from partyline.wire.json import decode, to_json
from partyline.wire.relay import MAX_USER, MAX_USER_ID

_T = TypeVar("_T", bound=msgspec.Struct)

# For the OpenAPI document; the code that uses a value checks it, with better messages.
TOPIC_SCHEMA: Final = {
    "type": "string",
    "pattern": rf"^(?!\$){TOKEN}(\.{TOKEN})*$",
    "maxLength": MAX_LENGTH,
}
TopicName: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema=TOPIC_SCHEMA)]
LABEL_SCHEMA: Final = {"pattern": rf"^[^{UNPRINTABLE}]+$", "maxLength": MAX_USER}
Label: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema=LABEL_SCHEMA)]
_WHOLE: Final = {"minimum": 0, "maximum": MAX_USER_ID}
UserId: TypeAlias = (
    Annotated[int, msgspec.Meta(extra_json_schema=_WHOLE)]
    | Annotated[float, msgspec.Meta(extra_json_schema={**_WHOLE, "multipleOf": 1})]  # 7.0 is the integer 7 in JSON
    | Label
)


def peer(request: Request) -> Peer:
    """The client that the gate found for the request."""
    found: Peer = request.scope["partyline.peer"]
    return found


async def read(request: Request, kind: type[_T], limit: int, setting: str = "max_body") -> _T:
    """The JSON body of a request, at most `limit` bytes, the value of `setting`.

    Raises UnsupportedMediaType (415), PayloadTooLarge (413), MalformedRequest (400) or InvalidValue (422).
    """
    check_json(request.headers.get("content-type", ""))
    check_coding(request.headers.get("content-encoding", "").encode("latin-1"))
    # Checked before a byte of it is read: a client that waits for 100 Continue never sends it.
    if content_length(request.headers.get("content-length", "0").encode("latin-1")) > limit:
        raise _too_large(limit, setting)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit, setting)
    return decode(bytes(body), kind)


def _too_large(limit: int, setting: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes ({setting})", limit=setting)


def answer(value: msgspec.Struct | dict[str, Any]) -> Response:
    return Response(to_json(value), media_type="application/json")


async def published(hub: Hub, draft: Draft) -> Receipt:
    """Publish, and return the receipt. Raises the store's refusal.

    If cancelled, the message is published all the same.
    """
    answer: asyncio.Future[Receipt | PartylineError] = asyncio.get_running_loop().create_future()

    def done(outcome: Receipt | PartylineError) -> None:
        if not answer.done():
            answer.set_result(outcome)

    hub.publish(draft, done)
    outcome = await answer
    if isinstance(outcome, PartylineError):
        raise outcome
    return outcome
