"""The shell: listeners, HTTP, WebSockets, limits and deadlines."""
