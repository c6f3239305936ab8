"""Django and the relay as one ASGI application: clients register at /live/register, everything else is Django's.

uvicorn asgi:application             in this folder
partyline serve asgi:application     Partyline's own server, with the relay at /register as well
"""

import os

from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.routing import Mount

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
django = get_asgi_application()

from live import relay  # noqa: E402 - models, which it may need one day, want Django set up

application = Starlette(routes=[Mount("/live", relay), Mount("/", django)], lifespan=relay.lifespan)
