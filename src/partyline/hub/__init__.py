"""The core: rooms, fan-out, outboxes, presence, timers. It knows no client's wire format and no network."""
