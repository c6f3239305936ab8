"""A FastAPI application that publishes from its own endpoint, with the relay mounted beside it.

uvicorn fastapi_app:app              any ASGI server
partyline serve fastapi_app:app      the same on Partyline's own server: faster

Then: curl -X POST localhost:8000/cats -H 'Content-Type: application/json' -d '{"name": "Tom"}'
"""

from fastapi import FastAPI
from pydantic import BaseModel

import partyline

relay = partyline.Application()
app = FastAPI(lifespan=relay.lifespan)


class Cat(BaseModel):
    name: str


@app.post("/cats")
async def new_cat(cat: Cat) -> dict[str, str | None]:
    position = await relay.publish("cats", {"name": cat.name})
    return {"position": str(position)}


app.mount("/", relay)
