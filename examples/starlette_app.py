"""Starlette with the relay below its own path: clients register at /live/register.

uvicorn starlette_app:app
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import partyline

relay = partyline.Application()


async def new_cat(request: Request) -> JSONResponse:
    position = await relay.publish("cats", await request.json())
    return JSONResponse({"position": str(position)})


app = Starlette(
    routes=[Route("/cats", new_cat, methods=["POST"]), Mount("/live", relay)],
    lifespan=relay.lifespan,
)
