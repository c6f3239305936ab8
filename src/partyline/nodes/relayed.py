"""What the relay shows of all nodes: who is in a topic, the topics, the connections.

Presence is owned by nodes. Only topics that somebody watches travel: the node of a watcher asks the others to follow a
topic, gets a snapshot from each, and then each change, numbered; after a gap it asks again. The people of a node that
is gone are gone at once.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from partyline.hub.company import Company
from partyline.hub.hub import Hub
from partyline.relay.services import Services
from partyline.relay.values import ConnectionOf

_FOLLOW: Final = "presence"
_CHANGE: Final = "presence changed"
_USERS: Final = "users"
_TOPICS: Final = "topics"
_CONNECTIONS: Final = "connections"
_DISCONNECT: Final = "disconnect"


class Follow(msgspec.Struct, frozen=True, array_like=True):
    """Say who is in a topic, and every change of it from now on, or not any more."""

    topic: str
    on: bool


class Change(msgspec.Struct, frozen=True, array_like=True):
    """The change with this number: `users` have come, or have left. Number 0 is a snapshot."""

    topic: str
    number: int
    users: list[str]
    joined: bool = True


_encode: Final = msgspec.msgpack.Encoder().encode


class Relayed:
    """`relay.services.OtherNodes`."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._hub: Hub
        self._services: Services
        self._followers: dict[str, dict[str, int]] = {}  # nodes that follow a topic here, and the last number of each
        self._heard: dict[tuple[str, str], int] = {}  # the last number of a topic on a node

    def attach(self, services: Services) -> None:
        """The server is built."""
        self._services, self._hub = services, services.hub
        presence = self._hub.presence
        presence.watched, presence.changed = self._watched, self._changed
        company = self._company
        company.hear(_FOLLOW, self._follow)
        company.hear(_CHANGE, self._take)
        company.answer(_USERS, self._tell_users)
        company.answer(_TOPICS, self._tell_topics)
        company.answer(_CONNECTIONS, self._tell_connections)
        company.answer(_DISCONNECT, self._disconnect)
        company.came.append(self._came)
        company.went.append(self._went)
        company.cluster.missed = self._missed

    # relay.services.OtherNodes

    async def users(self, topic: str) -> tuple[set[str], list[str]]:
        answers, missing = await self._company.ask_all(_USERS, topic.encode())
        return {user for answer in answers.values() for user in msgspec.msgpack.decode(answer, type=list[str])}, missing

    async def topics(self) -> tuple[Counter[str], list[str]]:
        answers, missing = await self._company.ask_all(_TOPICS)
        found: Counter[str] = Counter()
        for answer in answers.values():
            found.update(msgspec.msgpack.decode(answer, type=dict[str, int]))
        return found, missing

    async def connections(self) -> tuple[list[ConnectionOf], list[str]]:
        answers, missing = await self._company.ask_all(_CONNECTIONS)
        found: list[ConnectionOf] = []
        for answer in answers.values():
            found += msgspec.msgpack.decode(answer, type=list[ConnectionOf])
        return found, missing

    async def disconnect(self, public_id: str) -> bool:
        answers, _ = await self._company.ask_all(_DISCONNECT, public_id.encode())
        return any(answers.values())

    # Answers

    async def _tell_users(self, node: str, topic: bytes) -> bytes:
        return _encode(self._hub.presence.here(topic.decode()))

    async def _tell_topics(self, node: str, data: bytes) -> bytes:
        return _encode(dict(self._services.topics()))

    async def _tell_connections(self, node: str, data: bytes) -> bytes:
        return _encode(self._services.connections())

    async def _disconnect(self, node: str, public_id: bytes) -> bytes:
        return b"1" if self._services.disconnect(public_id.decode()) else b""

    # Watched here

    def _watched(self, topic: str, on: bool) -> None:
        """Somebody here watches a topic, or nobody any more."""
        self._company.say(_FOLLOW, _encode(Follow(topic, on)))
        if not on:
            self._heard = {key: number for key, number in self._heard.items() if key[0] != topic}

    def _came(self, node: str) -> None:
        for topic in tuple(self._hub.presence.watched_rooms()):
            self._company.say(_FOLLOW, _encode(Follow(topic, on=True)), node)

    def _missed(self) -> None:
        """Something that the others have said is lost: ask again for all."""
        self._came("")

    def _take(self, node: str, data: bytes) -> None:
        change = msgspec.msgpack.decode(data, type=Change)
        presence, key = self._hub.presence, (change.topic, node)
        if change.topic not in presence.watched_rooms():
            self._company.say(_FOLLOW, _encode(Follow(change.topic, on=False)), node)
            return
        if change.number == 0:
            presence.elsewhere(change.topic, node, set(change.users))
        elif self._heard.get(key, -1) + 1 == change.number:
            there = presence.there(change.topic, node)
            presence.elsewhere(
                change.topic, node, there | set(change.users) if change.joined else there - set(change.users)
            )
        else:  # something is missing: begin again
            self._heard.pop(key, None)
            self._company.say(_FOLLOW, _encode(Follow(change.topic, on=True)), node)
            return
        self._heard[key] = change.number

    def _went(self, node: str) -> None:
        self._heard = {key: number for key, number in self._heard.items() if key[1] != node}
        for topic in tuple(self._followers):
            self._unfollow(topic, node)
        for topic in tuple(self._hub.presence.watched_rooms()):
            self._hub.presence.elsewhere(topic, node, set())

    # Followed by others

    def _follow(self, node: str, data: bytes) -> None:
        follow = msgspec.msgpack.decode(data, type=Follow)
        if not follow.on:
            self._unfollow(follow.topic, node)
            return
        if follow.topic not in self._followers:
            self._followers[follow.topic] = {}
            self._hub.presence.follow(follow.topic)
        self._followers[follow.topic][node] = 0
        users = self._hub.presence.here(follow.topic)
        self._company.say(_CHANGE, _encode(Change(follow.topic, 0, users)), node)

    def _unfollow(self, topic: str, node: str) -> None:
        followers = self._followers.get(topic, {})
        if followers.pop(node, None) is not None and not followers:
            del self._followers[topic]
            self._hub.presence.unfollow(topic)

    def _changed(self, topic: str, user: str, joined: bool) -> None:
        """A user has come or left here."""
        followers = self._followers.get(topic, {})
        for node in followers:
            followers[node] += 1
            self._company.say(_CHANGE, _encode(Change(topic, followers[node], [user], joined)), node)
