"""The shell: uvicorn with our listeners, limits and deadlines, and our WebSocket in place of its own."""
