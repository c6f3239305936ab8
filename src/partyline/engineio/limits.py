"""What the settings say about sessions of Engine.IO and Socket.IO."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Default limits of one client, in seconds and bytes. docs/reference/limits.md lists each."""

    upgrade_timeout: float = 10.0
    connect_timeout: float = 45.0
    max_attachments: int = 10
    max_pending_events: int = 64
    max_pending_bytes: int = 1024 * 1024
    rooms_per_connection: int = 1_000
