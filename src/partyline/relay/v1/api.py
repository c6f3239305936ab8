"""v1 over HTTP: publish, batches, history, event streams, presence, topics, connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from partyline.errors import InvalidValue, NotFound, UpgradeRequired
from partyline.models import Draft, Position, Receipt
from partyline.relay.access import query_token
from partyline.relay.publishing import Publishing
from partyline.relay.requests import LABEL_SCHEMA, UserId, answer, peer, read
from partyline.relay.services import Services
from partyline.relay.v1.events import EventStream
from partyline.relay.v1.publishing import MAX_BATCH, Batch, NewMessage
from partyline.relay.v1.reading import check_limit, history_page, parse_after
from partyline.relay.v1.websocket import SUBPROTOCOL, V1WebSocket
from partyline.relay.values import (
    Connections,
    Published,
    PublishedBatch,
    Revoked,
    Status,
    TopicCount,
    TopicCounts,
    Users,
)
from partyline.server.exchange import Exchange, OverAsgi
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.server.writing import takes_bundles
from partyline.topics import check_topic, is_printable
from partyline.trust.keys import EVERYBODY, Principal
from partyline.trust.revocations import Kind
from partyline.trust.tokens import MAX_TOKEN_ID
from partyline.wire.relay import user_text
from partyline.wire.websocket.handshake import offered_subprotocols

_BEARER = "bearer."

TokenId: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={**LABEL_SCHEMA, "maxLength": MAX_TOKEN_ID})]


class Revocation(msgspec.Struct):
    """The body of POST /v1/revocations: one of the two."""

    sub: UserId | msgspec.UnsetType = msgspec.UNSET
    jti: TokenId | msgspec.UnsetType = msgspec.UNSET


ONE_OF_THE_TWO: Final = [
    {"required": ["sub"]},
    {"required": ["jti"]},
]  # for OpenAPI: no type expresses it


class Api:
    """The v1 calls over one hub."""

    def __init__(self, services: Services, site: Site) -> None:
        self._services = services
        self._site = site
        self._publishing = Publishing(services, NewMessage, _one, lambda receipts: Published.of(receipts[0]))
        self._batches = Publishing(services, Batch, _batch, _receipts, body_setting="max_batch_body")

    def attach(self, site: Site) -> None:
        """Answer publishes without ASGI if the server is ours."""
        site.direct.add("/v1/topics/{topic}/messages", self._publishing, "POST")
        site.direct.add("/v1/publish", self._batches, "POST")

    def routes(self) -> list[Route]:
        """The HTTP routes, for Starlette."""
        counters = self._site.counters
        publishing = OverAsgi(self._publishing, counters)
        return [
            # One route for both: the Allow of a 405 would name only half of the methods otherwise.
            Route("/v1/topics/{topic}/messages", _Either(self.history, publishing), methods=["GET", "POST"]),
            Route("/v1/topics/{topic}/events", self.events, methods=["GET"]),
            Route("/v1/topics/{topic}/presence", self.presence, methods=["GET"]),
            Route("/v1/topics", self.topics, methods=["GET"]),
            Route("/v1/publish", OverAsgi(self._batches, counters), methods=["POST"]),
            Route("/v1/connections", self.connections, methods=["GET"]),
            Route("/v1/connections/{id}", self.disconnect, methods=["DELETE"]),
            Route("/v1/revocations", self.revoke, methods=["POST"]),
            Route("/v1/ws", self.not_upgraded, methods=["GET"]),
        ]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """The endpoint at /v1/ws. A credential may come in Authorization, beside the subprotocol, or, if it is a
        short-lived token, in the query."""
        if upgrade.path != "/v1/ws":
            return None
        access = self._services.access
        offered = [value for name, value in upgrade.headers if name == b"sec-websocket-protocol"]
        authorization = next((v.decode("latin-1") for n, v in upgrade.headers if n == b"authorization"), None)
        for name in offered_subprotocols(offered):
            if name.startswith(_BEARER):
                authorization = f"Bearer {name[len(_BEARER) :]}"
        principal: Principal | None = EVERYBODY if access.open_mode else None
        if not access.open_mode and (authorization is not None or query_token(upgrade.query) is not None):
            principal = access.authenticate(authorization, upgrade.peer.address, upgrade.query)
        session = V1WebSocket(
            self._services, principal, upgrade.peer.address, takes_bundles=takes_bundles(upgrade.headers)
        )
        stranger = principal is None  # we inflate nothing for strangers, so compression is not negotiated
        deflate = self._services.settings.permessage_deflate and not stranger
        return Endpoint(session, subprotocols=(SUBPROTOCOL,), deflate=deflate, stranger=stranger)

    async def not_upgraded(self, request: Request) -> Response:
        raise UpgradeRequired("this is a WebSocket endpoint: connect to it with a WebSocket client")

    async def history(self, request: Request) -> Response:
        principal = self._services.access.principal(request)
        topic = check_topic(request.path_params["topic"])
        principal.may_subscribe(topic)
        after = parse_after(request.query_params.get("after", "earliest"))
        limit = check_limit(_integer(request.query_params.get("limit", "100"), "limit"))
        services = self._services
        return answer(await history_page(services.hub, services.store, topic, principal.user, after, limit))

    async def events(self, request: Request) -> Response:
        principal = self._services.access.principal(request, in_query=True)
        topic = check_topic(request.path_params["topic"])
        principal.may_subscribe(topic)
        # A browser without a Last-Event-ID sends an empty one; polyfills of EventSource send it in the query.
        named = request.headers.get("last-event-id") or request.query_params.get("lastEventId")
        after = named or request.query_params.get("after", "latest")
        try:
            parse_after(after)
        except InvalidValue:
            if not named:
                raise
            # A browser gives up for good on a 4xx, and cannot fix its Last-Event-ID: an epoch that no store has makes
            # it hear of a gap instead.
            after = str(Position("0" * 16, 0))
        drop = request.scope.get("partyline.abort")
        stream = EventStream(self._services, self._site, principal, peer(request).address, drop)
        return _Events(stream.stream(topic, after), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def presence(self, request: Request) -> Response:
        self._look(request, "presence")
        topic = check_topic(request.path_params["topic"])
        users = set(self._services.hub.presence.users(topic))
        missing: list[str] = []
        if self._services.others is not None:
            others, missing = await self._services.others.users(topic)
            users |= others
        return answer(Users(topic, sorted(users), missing))

    async def topics(self, request: Request) -> Response:
        self._look(request, "the list of topics")
        topics = self._services.topics()
        missing: list[str] = []
        if self._services.others is not None:
            others, missing = await self._services.others.topics()
            topics += others
        return answer(TopicCounts([TopicCount(name, topics[name]) for name in sorted(topics)], missing))

    async def connections(self, request: Request) -> Response:
        self._look(request, "the list of connections")
        listed = self._services.connections()
        missing: list[str] = []
        if self._services.others is not None:
            others, missing = await self._services.others.connections()
            listed += others
        return answer(Connections(listed, missing))

    async def disconnect(self, request: Request) -> Response:
        self._services.access.principal(request).must_be_admin("closing a connection")
        public_id, others = request.path_params["id"], self._services.others
        if self._services.disconnect(public_id) or (others is not None and await others.disconnect(public_id)):
            return answer(Status("disconnected"))
        raise NotFound("there is no connection with this public id", code="unknown_connection")

    async def revoke(self, request: Request) -> Response:
        access = self._services.access
        principal = access.principal(request)
        principal.must_be_admin("revoking")
        body = await read(request, Revocation, self._services.settings.max_body)
        access.check(principal)
        kind: Kind
        match (body.sub, body.jti):
            case (msgspec.UNSET, str(name)) if 0 < len(name) <= MAX_TOKEN_ID and is_printable(name):
                kind = "jti"
            case (msgspec.UNSET, str()):
                raise InvalidValue(f"jti: it must be 1-{MAX_TOKEN_ID} printable characters", field="jti")
            case (int() | float() | str() as user, msgspec.UNSET):
                kind, name = "sub", user_text(user, "sub")
            case _:
                raise InvalidValue("send either sub, a user's id, or jti, the id of one token", field="sub")
        at, ended = await access.revoker.revoke(kind, name)
        return answer(Revoked(at, ended, **{kind: name}))

    def _look(self, request: Request, what: str) -> None:
        """Lists need a key unless the server is for this machine only."""
        if not peer(request).local:
            self._services.access.principal(request).must_be_admin(what)


class _Either:
    """Serves a page of history, or a publish."""

    def __init__(self, get: Callable[[Request], Awaitable[Response]], post: ASGIApp) -> None:
        self._get = request_response(get)
        self._post = post

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._post if scope["method"] == "POST" else self._get)(scope, receive, send)


def _one(principal: Principal, exchange: Exchange, body: NewMessage) -> list[Draft]:
    named = exchange.text(b"idempotency-key")
    if named is not None and body.id is not None and named != body.id:
        raise InvalidValue("id: it differs from the Idempotency-Key header; send one of them", field="id")
    return [body.draft(principal, exchange.parameter, named)]


def _batch(principal: Principal, exchange: Exchange, body: Batch) -> list[Draft]:
    if not 1 <= len(body.messages) <= MAX_BATCH:
        raise InvalidValue(
            f"messages: {len(body.messages)} are not between 1 and {MAX_BATCH}", code="batch_size", field="messages"
        )
    return [message.draft(principal, message.topic) for message in body.messages]


def _receipts(receipts: Sequence[Receipt]) -> PublishedBatch:
    return PublishedBatch([Published.of(receipt) for receipt in receipts])


def _integer(text: str, field: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidValue(f"{field}: {text[:60]!r} is not a number", field=field)
    return int(text)


class _Events(StreamingResponse):
    """A stream that ends with its answer, even a failed one: otherwise an abandoned generator would live until the
    garbage collector finds it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(cast("AsyncGenerator[Any, None]", self.body_iterator)):
            await super().__call__(scope, receive, send)
