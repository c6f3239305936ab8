"""The relay: registrations, the classic HTTP calls, and the WebSocket behind /ws/<id>."""
