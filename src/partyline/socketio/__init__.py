"""Socket.IO: namespaces, rooms, typed handlers and acknowledgements over Engine.IO."""
