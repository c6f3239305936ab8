"""`POST /register` without ASGI: lets a user connect at /ws/<id>, with some topics."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from urllib.parse import quote, urlsplit

import msgspec

from partyline.errors import InvalidValue, PartylineError, RateLimited
from partyline.models import Position
from partyline.relay.classic.registry import Registry
from partyline.relay.requests import TopicName, UserId
from partyline.relay.services import Services
from partyline.server.exchange import Exchange, check_json
from partyline.topics import check_topic
from partyline.trust.keys import Principal
from partyline.trust.rate import PerAddress
from partyline.wire.json import decode, to_json
from partyline.wire.relay import check_list, user_text


class Register(msgspec.Struct):
    user_id: UserId
    topic: TopicName | None = None
    topics: list[TopicName] | None = None
    resume: bool = False


class Registering:
    """A `server.exchange.Direct`. Without `pings` nothing can be resumed."""

    body_setting = "max_body"

    def __init__(self, services: Services, registry: Registry, *, pings: bool) -> None:
        self.max_body = services.settings.max_body
        self._services = services
        self._settings = services.settings
        self._registry = registry
        self._pings = pings
        self._rate = services.settings.registrations_per_second or 0.0
        self._registrations = PerAddress(self._rate, max(1.0, self._rate * 10))
        self._keeping: set[asyncio.Task[None]] = set()

    def begin(self, exchange: Exchange) -> None:
        """Check the caller, its rate and the form, before the body is read."""
        address = exchange.peer.address
        exchange.context = self._services.access.authenticate(exchange.text(b"authorization"), address)
        if self._rate:
            bucket = self._registrations.bucket(address, time.monotonic())
            if not bucket.allow(time.monotonic()):
                self._services.hub.counters.hit("registrations_per_second")
                raise RateLimited("too many registrations from this address", retry_after=bucket.wait())
        check_json(exchange.text(b"content-type") or "")

    def respond(self, exchange: Exchange) -> None:
        """Register; if the registration can be resumed, its answer waits for the disk."""
        principal: Principal = exchange.context
        body = decode(exchange.body, Register)
        user = user_text(body.user_id)
        self._services.access.check(principal)
        principal.may_act_for(user)
        if body.resume:
            self._check_resume()
        topics = self._topics(body)
        for topic in topics:
            principal.may_subscribe(topic)
        start = Position(self._services.store.epoch, self._services.hub.fanned_out) if body.resume else None
        connection_id = self._registry.create(user, topics, principal.subscribe, start, principal.token)
        answer = to_json({"url": f"{self._base(exchange)}/ws/{connection_id}"})
        if body.resume:
            keeping = asyncio.get_running_loop().create_task(self._registry.kept(self._registry.find(connection_id)))
            self._keeping.add(keeping)
            keeping.add_done_callback(partial(self._kept, exchange, answer))
        else:
            exchange.json(answer)

    def _check_resume(self) -> None:
        if not self._settings.resume_window:
            raise InvalidValue(
                "resume: registrations end with their connection here (resume_window = 0); leave it out or false",
                code="not_supported",
                field="resume",
            )
        if not self._pings:
            raise InvalidValue(
                "resume: this server is mounted by ASGI, which carries no pings to confirm messages with; leave it out "
                "and resume over /v1/ws, or run it with `partyline serve`",
                code="not_supported",
                field="resume",
            )

    def _topics(self, body: Register) -> tuple[str, ...]:
        if body.topics == [] and body.topic is None:
            return ()
        named = [*([] if body.topic is None else [body.topic]), *(body.topics or ())]
        check_list(named, self._settings.topics_per_connection)
        return tuple(dict.fromkeys(check_topic(name) for name in named)) or self._settings.default_topics

    def _kept(self, exchange: Exchange, answer: bytes, keeping: asyncio.Task[None]) -> None:
        self._keeping.discard(keeping)
        try:
            keeping.result()
        except asyncio.CancelledError:
            return  # the server's loop is ending
        except PartylineError as error:
            exchange.refuse(error)
        except Exception:
            exchange.fail()
        else:
            exchange.json(answer)

    def _base(self, exchange: Exchange) -> str:
        """`ws://HOST`, or `wss` under TLS, with our mount path; `public_url` takes precedence over the request's
        Host."""
        if self._settings.public_url is not None:
            url = urlsplit(self._settings.public_url)
            return f"{'wss' if url.scheme in ('https', 'wss') else 'ws'}://{url.netloc}{url.path.rstrip('/')}"
        asker = exchange.peer
        return f"{'wss' if asker.scheme == 'https' else 'ws'}://{asker.host}{quote(exchange.mounted.rstrip('/'))}"
