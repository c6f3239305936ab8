"""Connection state recovery (being built)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from partyline.models import Audience
from partyline.socketio.dialects import Emission

if TYPE_CHECKING:
    from partyline.socketio.socket import Socket


class RecoveryLog:
    waiting: deque[Any]

    def emit(self, emission: Emission, audience: Audience) -> None:
        raise NotImplementedError

    def behind(self, action: Callable[[], object]) -> None:
        raise NotImplementedError

    def changed(self, socket: Socket) -> None:
        raise NotImplementedError

    def entered(self, socket: Socket) -> None:
        raise NotImplementedError

    def left(self, socket: Socket, reason: str) -> None:
        raise NotImplementedError

    async def restore(self, auth: dict[str, Any]) -> Any:
        raise NotImplementedError

    async def replay(self, session: Any, socket: Socket) -> None:
        raise NotImplementedError
