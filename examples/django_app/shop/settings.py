import os
import secrets

SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_urlsafe()
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = "shop.urls"

MIDDLEWARE = [
    # The first: what the others do belongs to the request.
    "rprof.middleware.django.RprofMiddleware",
    "django.middleware.common.CommonMiddleware",
]
RPROF = {"slow_after": 0.5}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"rprof": {"handlers": ["console"], "level": "WARNING"}},
}
