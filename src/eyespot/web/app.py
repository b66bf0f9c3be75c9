"""The FastAPI app: routes, problems and middleware around a recognizer that lives as long as the app does."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware

from eyespot import __version__
from eyespot.assembly import open_recognizer
from eyespot.errors import InvalidSetting
from eyespot.memory.rate_limiter import RateLimiter
from eyespot.recognizer import Recognizer
from eyespot.settings import Settings
from eyespot.web import STATIC, admin, batches, bodies, problems
from eyespot.web.access import Admission, Keys, cors_origins
from eyespot.web.addresses import trusted_networks
from eyespot.web.middleware import BoundedBody, RequestLog, ShortWay
from eyespot.web.routes import router

OpenRecognizer = Callable[[Settings, Collection[str]], AbstractAsyncContextManager[Recognizer]]


def create_app(settings: Settings, open_recognizer: OpenRecognizer = open_recognizer) -> FastAPI:
    """The app for these settings. Its lifespan opens the recognizer, and puts it in `app.state.recognizer`.

    Raises:
        InvalidSetting: a key, a rate, a network or an origin is none, or keys are needed and there are none.
    """
    keys = Keys.read(settings.api_keys.get_secret_value() if settings.api_keys else None)
    if settings.cache_scope == "key" and not keys:
        raise InvalidSetting("EYESPOT_CACHE_SCOPE=key needs EYESPOT_API_KEYS, and none are set")
    apart = keys.names if settings.cache_scope == "key" else []
    trusted = trusted_networks(settings.trusted_proxies)
    origins = cors_origins(settings.cors_origins)
    limiter = RateLimiter.open(settings.rate_limit, settings.cache_url) if settings.rate_limit else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_recognizer(settings, apart) as recognizer:
                app.state.recognizer = recognizer
                yield
        except BaseException as error:
            app.state.start_error = error  # ASGI hands on no more than its text
            raise
        finally:
            if limiter:
                await limiter.close()

    app = FastAPI(
        title="eyespot",
        version=__version__,
        description="What is in this image? Offline, on a CPU.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # OpenTelemetry's, which may send to other hosts
    )
    app.state.batch_max = settings.batch_max
    routers = (router, batches.router, admin.router)
    for one in routers:
        app.include_router(one)
    app.mount("/static/swagger", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.mount("/static", StaticFiles(directory=STATIC))
    problems.install(app)
    routes = [route for one in routers for route in one.routes if isinstance(route, APIRoute)]
    app.add_middleware(ShortWay, routes=[route for route in routes if route.path == "/predict"])
    app.add_middleware(Admission, keys=keys, trusted=trusted, limiter=limiter)
    app.add_middleware(
        BoundedBody,
        bound=partial(bodies.bound, settings.max_bytes, settings.batch_max_bytes),
        max_bytes=settings.max_bytes,
        batch_max_bytes=settings.batch_max_bytes,
    )
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Cache", "Server-Timing", "Retry-After"],
        )
    # The last one added is the outermost.
    app.add_middleware(RequestLog, paths=frozenset(route.path for route in routes))
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Add to the OpenAPI document what no route returns or takes by itself: problems and keys."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"].update(problems.schemas())
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{}, {"bearer": []}, {"header": []}]  # none, where no keys are configured
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
