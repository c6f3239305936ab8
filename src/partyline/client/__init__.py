"""The asyncio client of v1: one line, which reconnects by itself, for publishing and many subscriptions."""

from partyline.client.connecting import connect
from partyline.client.frames import Gap, HistoryPage, Message
from partyline.client.line import Line, Subscription
from partyline.client.link import State

__all__ = ["Gap", "HistoryPage", "Line", "Message", "State", "Subscription", "connect"]
