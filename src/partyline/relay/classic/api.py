"""The classic calls over HTTP: register, unregister, add and remove topics, publish, health."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from partyline.errors import InvalidValue, RateLimited, UpgradeRequired
from partyline.hub.delivery import message_id
from partyline.models import Draft, Position, Receipt
from partyline.relay.classic.registry import Registry
from partyline.relay.classic.resuming import ResumingSession
from partyline.relay.classic.session import ClassicSession
from partyline.relay.publishing import Publishing
from partyline.relay.requests import TopicName, UserId, answer, peer, read
from partyline.relay.services import Services
from partyline.server.exchange import Exchange, OverAsgi
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.topics import check_topic
from partyline.trust.keys import Principal
from partyline.trust.rate import PerAddress
from partyline.wire.json import compact
from partyline.wire.relay import check_list, user_text

_WS = "/ws/"


class Register(msgspec.Struct):
    user_id: UserId
    topic: TopicName | None = None
    topics: list[TopicName] | None = None
    resume: bool = False


class TopicChange(msgspec.Struct):
    topic: TopicName
    client_id: str


class Publish(msgspec.Struct):
    topic: TopicName
    message: msgspec.Raw
    user_id: UserId | None = None


class Relay:
    """The classic relay over one hub. Without `pings` the server cannot send any, and what cannot be confirmed cannot
    be resumed."""

    def __init__(self, services: Services, registry: Registry, *, pings: bool = True) -> None:
        self._services = services
        self._settings = services.settings
        self._registry = registry
        self._pings = pings
        rate = services.settings.registrations_per_second or 0.0
        self._registrations = PerAddress(rate, max(1.0, rate * 10))
        self._publishing = Publishing(services, Publish, _drafts, _published)

    def attach(self, site: Site) -> None:
        """Answer publishes without ASGI where the server is ours."""
        site.direct.add("/publish", self._publishing, "POST")

    def routes(self) -> list[Route]:
        """The HTTP routes, for Starlette."""
        return [
            Route("/publish", OverAsgi(self._publishing, self._services.hub.counters), methods=["POST"]),
            Route("/register", self.register, methods=["POST"]),
            Route("/register/{id}", self.unregister, methods=["DELETE"]),
            Route("/add_topic", self.add_topic, methods=["POST"]),
            Route("/remove_topic", self.remove_topic, methods=["DELETE"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/ws/{id}", self.not_upgraded, methods=["GET"]),
        ]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """The endpoint at /ws/<id>. Raises NotFound for an id that is not registered."""
        if not upgrade.path.startswith(_WS):
            return None
        registration = self._registry.find(upgrade.path[len(_WS) :])
        kind = ClassicSession if registration.confirmed is None else ResumingSession
        return Endpoint(kind(self._services, registration), deflate=self._settings.permessage_deflate)

    async def health(self, request: Request) -> Response:
        if (refusal := self._services.store.refusal) is not None:
            raise refusal
        return answer({"status": "ok"})

    async def register(self, request: Request) -> Response:
        principal = self._services.access.principal(request)
        if self._settings.registrations_per_second:
            address = peer(request).address
            bucket = self._registrations.bucket(address, time.monotonic())
            if not bucket.allow(time.monotonic()):
                self._services.hub.counters.hit("registrations_per_second")
                raise RateLimited("too many registrations from this address", retry_after=bucket.wait())
        body = await read(request, Register, self._settings.max_body)
        user = user_text(body.user_id)
        self._services.access.check(principal)
        principal.may_act_for(user)
        if body.resume and not self._settings.resume_window:
            raise InvalidValue(
                "resume: registrations end with their connection here (resume_window = 0); leave it out or false",
                code="not_supported",
                field="resume",
            )
        if body.resume and not self._pings:
            raise InvalidValue(
                "resume: this server is mounted by ASGI, which carries no pings to confirm messages with; leave it out "
                "and resume over /v1/ws, or run it with `partyline serve`",
                code="not_supported",
                field="resume",
            )
        named = [*([] if body.topic is None else [body.topic]), *(body.topics or ())]
        check_list(named, self._settings.topics_per_connection)
        topics = tuple(dict.fromkeys(check_topic(name) for name in named)) or self._settings.default_topics
        if body.topics == [] and body.topic is None:
            topics = ()
        for topic in topics:
            principal.may_subscribe(topic)
        start = Position(self._services.store.epoch, self._services.hub.fanned_out) if body.resume else None
        connection_id = self._registry.create(user, topics, principal.subscribe, start, principal.token)
        if body.resume:
            await self._registry.kept(self._registry.find(connection_id))
        return answer({"url": f"{self._base(request)}/ws/{connection_id}"})

    async def unregister(self, request: Request) -> Response:
        principal = self._services.access.principal(request)
        registration = self._registry.find(request.path_params["id"])
        principal.may_act_for(registration.user)
        self._registry.remove(registration)
        if registration.connection is not None:
            registration.connection.close(4001, "unregistered")
        return answer({"status": "unregistered"})

    async def add_topic(self, request: Request) -> Response:
        return await self._change_topic(request, add=True)

    async def remove_topic(self, request: Request) -> Response:
        return await self._change_topic(request, add=False)

    async def _change_topic(self, request: Request, *, add: bool) -> Response:
        principal = self._services.access.principal(request)
        body = await read(request, TopicChange, self._settings.max_body)
        topic = check_topic(body.topic)
        self._services.access.check(principal)
        registration = self._registry.find(body.client_id)
        principal.may_act_for(registration.user)
        principal.may_subscribe(topic)
        topics = dict.fromkeys(registration.topics)
        if add:
            self._registry.check_grants(registration, [topic])
            topics[topic] = None
            check_list(tuple(topics), self._settings.topics_per_connection)
        else:
            topics.pop(topic, None)
        self._registry.set_topics(registration, tuple(topics))
        return answer({"topics": list(topics)})

    async def not_upgraded(self, request: Request) -> Response:
        self._registry.find(request.path_params["id"])
        raise UpgradeRequired("this is a WebSocket endpoint: connect to it with a WebSocket client")

    def _base(self, request: Request) -> str:
        """`ws://HOST`, or `wss` under TLS, and where we are mounted; `public_url` before the request's Host."""
        if self._settings.public_url is not None:
            url = urlsplit(self._settings.public_url)
            return f"{'wss' if url.scheme in ('https', 'wss') else 'ws'}://{url.netloc}{url.path.rstrip('/')}"
        asker, mounted = peer(request), quote(request.scope.get("root_path", "").rstrip("/"))
        return f"{'wss' if asker.scheme == 'https' else 'ws'}://{asker.host}{mounted}"


def _drafts(principal: Principal, exchange: Exchange, body: Publish) -> list[Draft]:
    topic = check_topic(body.topic)
    principal.may_publish(topic)
    user = None if body.user_id is None else user_text(body.user_id)
    return [Draft(topic, compact(bytes(body.message)), message_id(), user, sender=principal.user, chosen_id=False)]


def _published(receipts: Sequence[Receipt]) -> dict[str, Any]:
    (receipt,) = receipts
    at = receipt.position
    position = None if at is None else f"{at.epoch}-{at.offset}"
    return {"topic": receipt.room, "position": position, "id": receipt.id}
