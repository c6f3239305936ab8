"""Publishing over HTTP without ASGI: from a body to an answer after its commit, with no task in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from partyline.errors import PartylineError
from partyline.models import Draft, Receipt
from partyline.relay.services import Services
from partyline.server.exchange import Exchange, check_json
from partyline.trust.keys import Principal
from partyline.wire.json import decode, to_json

_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(slots=True)
class Publishing(Generic[_T]):
    """A call that publishes. A `server.exchange.Direct`.

    `drafts` makes the drafts from the principal, the request and its body, which is a `kind`; `answer` makes the answer
    from the receipts.
    """

    services: Services
    kind: type[_T]
    drafts: Callable[[Principal, Exchange, _T], Sequence[Draft]]
    answer: Callable[[Sequence[Receipt]], Any]
    body_setting: str = "max_body"

    max_body: int = 0

    def __post_init__(self) -> None:
        self.max_body = getattr(self.services.settings, self.body_setting)

    def begin(self, exchange: Exchange) -> None:
        """Check the caller and the form, before the body is read."""
        authorization = exchange.text(b"authorization")
        exchange.context = self.services.access.authenticate(authorization, exchange.peer.address)
        check_json(exchange.text(b"content-type") or "")

    def respond(self, exchange: Exchange) -> None:
        """Publish it; the answer follows the last commit."""
        principal: Principal = exchange.context
        body = decode(exchange.body, self.kind)
        self.services.access.check(principal)
        drafts = self.drafts(principal, exchange, body)
        if len(drafts) == 1:
            self.services.hub.publish(drafts[0], lambda outcome: self._finish(exchange, (outcome,)))
        else:
            self._publish_all(exchange, drafts)

    def _publish_all(self, exchange: Exchange, drafts: Sequence[Draft]) -> None:
        outcomes: list[Receipt | PartylineError] = []
        places: dict[int, Receipt | PartylineError] = {}

        def settle(at: int, outcome: Receipt | PartylineError) -> None:
            places[at] = outcome
            if len(places) == len(drafts):
                outcomes.extend(places[place] for place in range(len(drafts)))
                self._finish(exchange, outcomes)

        self.services.hub.publish_all([(draft, partial(settle, at)) for at, draft in enumerate(drafts)])

    def _finish(self, exchange: Exchange, outcomes: Sequence[Receipt | PartylineError]) -> None:
        receipts = [outcome for outcome in outcomes if not isinstance(outcome, PartylineError)]
        if len(receipts) < len(outcomes):
            exchange.refuse(next(outcome for outcome in outcomes if isinstance(outcome, PartylineError)))
        else:
            exchange.json(to_json(self.answer(receipts)))
