"""The classic calls over HTTP: register, unregister, add and remove topics, publish, health."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from partyline.errors import BusUnavailable, UpgradeRequired
from partyline.hub.delivery import message_id
from partyline.interfaces import Follows
from partyline.models import Draft, Receipt
from partyline.notation import engine
from partyline.relay.classic.registering import Registering
from partyline.relay.classic.registry import Registry
from partyline.relay.classic.resuming import ResumingSession
from partyline.relay.classic.session import ClassicSession
from partyline.relay.publishing import Publishing
from partyline.relay.requests import TopicName, UserId, answer, read
from partyline.relay.services import Services
from partyline.relay.values import Health, Status, TopicsOf
from partyline.server.exchange import Exchange, OverAsgi
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.topics import check_topic
from partyline.trust.keys import Principal
from partyline.wire.json import compact
from partyline.wire.relay import check_list, user_text

_WS = "/ws/"


class TopicChange(msgspec.Struct):
    topic: TopicName
    client_id: str


class Publish(msgspec.Struct):
    topic: TopicName
    message: msgspec.Raw
    user_id: UserId | None = None


class Relay:
    """The classic relay over one hub. Without `pings` the server cannot send any: nothing can be confirmed, or
    resumed."""

    def __init__(self, services: Services, registry: Registry, *, pings: bool = True) -> None:
        self._services = services
        self._settings = services.settings
        self._registry = registry
        self._registering = Registering(services, registry, pings=pings)
        self._publishing = Publishing(services, Publish, _drafts, _published)

    def attach(self, site: Site) -> None:
        """Answer the most frequent calls without ASGI if the server is ours."""
        site.direct.add("/publish", self._publishing, "POST")
        site.direct.add("/register", self._registering, "POST")
        if self._registry.is_shared:
            site.fetch = self._fetch

    def routes(self) -> list[Route]:
        """The HTTP routes, for Starlette."""
        counters = self._services.hub.counters
        return [
            Route("/publish", OverAsgi(self._publishing, counters), methods=["POST"]),
            Route("/register", OverAsgi(self._registering, counters), methods=["POST"]),
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

    def _fetch(self, path: str) -> asyncio.Future[None] | None:
        """As `server.site.Site.fetch`."""
        return self._registry.fetch(path[len(_WS) :]) if path.startswith(_WS) else None

    async def health(self, request: Request) -> Response:
        if (refusal := self._services.store.refusal) is not None:
            raise refusal
        hub, store = self._services.hub, self._services.store
        if hub.bus is not None and not hub.bus.connected:
            raise BusUnavailable("the bus cannot be reached: what is not kept stays on this server")
        health = Health("ok")
        if isinstance(store, Follows):
            health.durability, health.log = str(store.durability), engine(self._settings.log)
        if hub.bus is not None:
            health.bus = engine(self._settings.bus or self._settings.log)
            health.nodes = 1 + len(hub.others())
        return answer(health)

    async def unregister(self, request: Request) -> Response:
        principal = self._services.access.principal(request)
        registration = self._registry.find(request.path_params["id"])
        principal.may_act_for(registration.user)
        self._registry.remove(registration)
        if registration.connection is not None:
            registration.connection.close(4001, "unregistered")
        return answer(Status("unregistered"))

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
        return answer(TopicsOf(list(topics)))

    async def not_upgraded(self, request: Request) -> Response:
        self._registry.find(request.path_params["id"])
        raise UpgradeRequired("this is a WebSocket endpoint: connect to it with a WebSocket client")


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
