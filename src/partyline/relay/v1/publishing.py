"""The messages that v1 accepts, by every way in."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from partyline.errors import InvalidValue
from partyline.hub.delivery import message_id as new_id
from partyline.models import Draft
from partyline.relay.requests import Label, TopicName, UserId
from partyline.topics import check_topic, is_printable
from partyline.trust.keys import Principal
from partyline.wire.json import compact
from partyline.wire.relay import user_text

MAX_BATCH: Final = 1_000
MAX_TTL: Final = 366 * 86_400  # seconds

Seconds: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": MAX_TTL})]


class NewMessage(msgspec.Struct):
    """The body of POST /v1/topics/{topic}/messages."""

    data: msgspec.Raw
    user_id: UserId | None = None
    id: Label | None = None
    key: Label | None = None
    ttl: Seconds | None = None
    durable: bool | None = None

    def draft(self, principal: Principal, topic: str, named: str | None = None) -> Draft:
        """The draft for the hub. `named` is the id if the body has none. Raises InvalidValue or Forbidden."""
        return make_draft(
            principal,
            topic,
            bytes(self.data),
            user_id=self.user_id,
            message_id=self.id if self.id is not None else named,
            key=self.key,
            ttl=self.ttl,
            durable=self.durable,
        )


class BatchMessage(NewMessage, kw_only=True):
    """One of a batch."""

    topic: TopicName


class Batch(msgspec.Struct):
    """The body of POST /v1/publish: all or nothing."""

    messages: Annotated[list[BatchMessage], msgspec.Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_BATCH})]


def make_draft(
    principal: Principal,
    topic: str,
    data: bytes,
    *,
    user_id: float | str | None = None,
    message_id: str | None = None,
    key: str | None = None,
    ttl: float | None = None,
    durable: bool | None = None,
) -> Draft:
    """The checked draft of a v1 publish. Raises InvalidValue or Forbidden."""
    principal.may_publish(check_topic(topic))
    for name, value in (("id", message_id), ("key", key)):
        if value is not None and not (0 < len(value) <= 128 and is_printable(value)):
            raise InvalidValue(f"{name}: {value[:60]!r} is not 1-128 printable characters", field=name)
    if ttl is not None and not 0 < ttl <= MAX_TTL:
        raise InvalidValue(f"ttl: {ttl:g} is not a number of seconds between 0 and a year", field="ttl")
    return Draft(
        topic,
        compact(data),
        message_id if message_id is not None else new_id(),
        user=None if user_id is None else user_text(user_id),
        key=key,
        sender=principal.user,
        chosen_id=message_id is not None,
        publisher=principal.name if principal.user is None else f"user {principal.user}",
        ttl=ttl,
        durable=durable,
    )
