"""The relay: topics over HTTP, WebSocket and server-sent events. `classic/` and `v1/` are its two contracts."""
