"""v1: one session for many topics, over WebSocket, server-sent events and Socket.IO, and the calls over HTTP."""
