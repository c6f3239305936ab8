"""The minimal settings that Django needs."""

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for trying out")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "urls"
USE_TZ = True
