"""What all tables of transitions have in common: each maps a state and a step to the next state."""

from __future__ import annotations

from enum import Enum


class Key(Enum):
    """A state or a step. Members are singletons, and are hashed as such: Enum's own hash is a call of Python."""

    __hash__ = object.__hash__
