"""The classic contract: registrations, their HTTP calls, and the WebSocket at /ws/<id>."""
