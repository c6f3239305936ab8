"""A line to a Partyline server: publish, subscribe, look back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any, Final, Generic, Literal, Self, TypeVar, cast, overload
from uuid import uuid4

import msgspec

from partyline.client.feed import Feed
from partyline.client.frames import After, Gap, HistoryPage, Message, message_of, position_of
from partyline.client.link import Link, Options, State
from partyline.errors import InvalidValue, NotRecovered
from partyline.models import Position, Receipt

_TOPICS: Final = 900  # of one connection, below the server's default of 1,000


_Item = TypeVar("_Item", Message, Message | Gap)


class Subscription(Generic[_Item]):
    """The messages of a topic or a pattern, each once and in order: `async for message in subscription`.

    After a lost connection it goes on by itself, after the last message that it gave out. It ends with `aclose`, with
    its line, or when nobody holds it any more.
    """

    def __init__(self, link: Link, feed: Feed, *, gaps: bool) -> None:
        self._link = link
        self._feed = feed
        self._gaps = gaps

    @property
    def topic(self) -> str:
        """The topic or pattern."""
        return self._feed.topic

    @property
    def position(self) -> Position | None:
        """Where to subscribe again for everything that it has not given out; None before anything is known."""
        feed = self._feed
        return feed.given if feed.items else feed.last or feed.given

    @property
    def dropped(self) -> int:
        """Ephemeral messages that came while its buffer was full."""
        return self._feed.dropped

    async def ready(self) -> Self:
        """Return once the server has answered: everything published from now on comes. Raises the server's error.

        Cancelling it loses nothing.
        """
        feed = self._feed
        while not feed.ready and not feed.items:
            if feed.error is not None:
                raise feed.error
            if feed.closed:
                break
            await self._changed()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        """The next message (or Gap, with `gaps`). Cancelling it loses nothing. Several tasks may share the messages:
        each goes to one of them.

        Raises NotRecovered if messages were missed, once, and then goes on; the server's error if it refuses the
        subscription; Disconnected where the line has given up.
        """
        feed = self._feed
        while not feed.items:
            if feed.error is not None:
                raise feed.error
            if feed.closed:
                raise StopAsyncIteration
            await self._changed()
        item = feed.items.popleft()
        feed.given = item.position or feed.given
        if feed.behind and len(feed.items) <= feed.bound // 2:
            self._link.caught_up(feed)
        if isinstance(item, Gap) and not self._gaps:
            oldest = None if item.oldest is None else str(item.oldest)
            raise NotRecovered(
                f"messages of {item.topic!r} were missed: the server keeps nothing before {oldest}, and it goes on at "
                f"{item.position}",
                topic=item.topic,
                oldest=oldest,
            )
        found: Any = item  # `gaps` says which of the two it may be
        return found  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """End it; messages that it still holds can be read."""
        self._link.unsubscribe(self._feed)
        self._feed.wake()

    async def _changed(self) -> None:
        self._feed.changed.clear()
        await self._feed.changed.wait()

    async def __aenter__(self) -> Self:
        return await self.ready()

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # After a `break` out of `async for` over a subscription that nobody else holds, messages would go on coming.
        if not self._feed.closed:
            with contextlib.suppress(RuntimeError):  # the loop may be closed, and the line with it
                self._link.unsubscribe(self._feed)


class Line:
    """Connections to one server that come back by themselves. Made by `connect`; used by one event loop."""

    def __init__(self, options: Options, *, in_flight: int) -> None:
        self._on_state = options.on_state
        self._told: State | None = None
        self._options = replace(options, on_state=self._changed)
        self._links = [Link(self._options)]
        self._in_flight = asyncio.Semaphore(in_flight)

    @property
    def state(self) -> State:
        """The state of all its connections: `OPEN` if every one is open, `CLOSED` if the line is over."""
        first = self._links[0].state
        if first is State.CLOSED:
            return first
        states = {first, *(link.state for link in self._links[1:] if link.feeds)}
        return next((state for state in (State.WAITING, State.CONNECTING) if state in states), first)

    @property
    def closed(self) -> bool:
        """Whether it is over, by `aclose` or by an error that no retry can fix."""
        return self.state is State.CLOSED

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        user: int | str | None = None,
        id: str | None = None,  # noqa: A002 - the contract's word
        key: str | None = None,
        ttl: float | None = None,
        durable: bool | None = None,
    ) -> Receipt:
        """Publish `data`, anything that msgspec can write as JSON; its receipt once the server has kept it.

        `user` narrows it to one user's connections, `key` is for conflation, `ttl` is its life in seconds, and
        `durable=False` says that it need not be kept. A message without an answer when the connection was lost is sent
        again with the same `id`, which is drawn here if none is given: it is stored once. One with `durable=False` is
        not sent again: Disconnected is raised. (If only the server's rules make a topic ephemeral, such a message may
        come twice.)

        Raises the server's error (PayloadTooLarge for a message above the server's limit); Disconnected if the line is
        closed or has given up; TypeError for data that is not JSON. If cancelled, it may have been published: with an
        `id` of your own it can be published again.
        """
        async with self._in_flight:
            frame = await self._links[0].ask(
                "publish",
                again=durable is not False,
                topic=topic,
                data=msgspec.Raw(msgspec.json.encode(data)),
                user_id=user,
                message_id=id if id is not None else uuid4().hex,
                key=key,
                ttl=ttl,
                durable=durable,
            )
        position = None if frame.position is None else position_of(frame.position)
        return Receipt(frame.topic, frame.message_id, position, frame.duplicate)

    @overload
    def subscribe(
        self, topic: str, *, after: After | str | None = ..., gaps: Literal[False] = ..., buffer: int = ...
    ) -> Subscription[Message]: ...

    @overload
    def subscribe(
        self, topic: str, *, after: After | str | None = ..., gaps: Literal[True], buffer: int = ...
    ) -> Subscription[Message | Gap]: ...

    def subscribe(
        self, topic: str, *, after: After | str | None = "latest", gaps: bool = False, buffer: int = 1_000
    ) -> Subscription[Message] | Subscription[Message | Gap]:
        """Subscribe to a topic or a pattern, after a position, from the `earliest` message, or now (`latest` or None).

        At most `buffer` messages wait for the reader. A reader that is too slow gets the rest from the log; ephemeral
        messages that come meanwhile are dropped and counted in `dropped`. With `gaps` a `Gap` stands where messages
        were missed; without it NotRecovered is raised there. Raises InvalidValue for an invalid `after`.
        """
        after = "latest" if after is None else after
        known = isinstance(after, Position) or after in ("earliest", "latest")
        start = cast("After", after if known else Position.parse(str(after)))
        if buffer < 1:
            raise InvalidValue(f"buffer: {buffer} must be 1 or more", field="buffer")
        feed = Feed(topic, start, buffer)
        link = self._link_for(topic)
        link.subscribe(feed)
        return Subscription(link, feed, gaps=gaps)

    async def history(self, topic: str, *, after: After | str | None = None, limit: int = 100) -> HistoryPage:
        """A page of a topic's log: at most `limit` (1 to 1,000) messages after a position, or the oldest ones.

        Raises the server's error, Disconnected. Cancelling it loses nothing.
        """
        frame = await self._links[0].ask(
            "history", again=True, topic=topic, after=None if after is None else str(after), limit=limit
        )
        return HistoryPage(
            [message_of(frame.topic, body) for body in frame.messages],
            position_of(frame.next),
            frame.more,
            frame.recovered,
        )

    async def presence(self, topic: str) -> list[str]:
        """The users that are subscribed to a topic. Raises the server's error, Disconnected."""
        return (await self._links[0].ask("presence", again=True, topic=topic)).users

    async def aclose(self) -> None:
        """Close all connections. Publishes without an answer raise Disconnected, subscriptions end.

        Returns when the server has ended them, too, or after two seconds. If cancelled, they are closed all the same.
        """
        for link in self._links:
            link.end()
        await asyncio.gather(*(link.close() for link in self._links))

    def _link_for(self, topic: str) -> Link:
        """A connection on which nothing overlaps with `topic`.

        A server sends a message once per connection, however many subscriptions cover it: two that overlap and begin at
        different positions could not both get all of their messages.
        """
        first, *others = self._links
        self._links = [first, *(link for link in others if link.state is not State.CLOSED)]
        for link in self._links:
            if len(link.feeds) < _TOPICS and not any(feed.overlaps(topic) for feed in link.feeds):
                return link
        link = Link(self._options)
        link.start()
        self._links.append(link)
        return link

    def _changed(self, _: State, reason: str) -> None:
        state = self.state
        if state is not self._told:
            self._told = state
            if self._on_state is not None:
                self._on_state(state, reason)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()
