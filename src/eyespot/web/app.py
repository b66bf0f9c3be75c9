"""The app on one page: every route, and the layers in front of them."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from eyespot import __version__
from eyespot.assembly import open_recognizer
from eyespot.errors import InvalidSetting
from eyespot.memory.rate_limiter import RateLimiter
from eyespot.recognizer import Recognizer
from eyespot.settings import Settings
from eyespot.types import AuditPage
from eyespot.web.api import admin, body, catalogue, health, openapi, pages, predict, results
from eyespot.web.gate import problems
from eyespot.web.gate.addresses import read_networks
from eyespot.web.gate.auth import Auth, read_keys, require_admin
from eyespot.web.gate.body_limit import BodyLimit
from eyespot.web.gate.cors import read_origins
from eyespot.web.gate.request_log import RequestLog

OpenRecognizer = Callable[[Settings, Collection[str]], AbstractAsyncContextManager[Recognizer]]


class PlainRoute(APIRoute):
    """A route in FastAPI's table and documents whose endpoint takes the request and nothing else.

    FastAPI's dependencies and exit stacks would take a fifth of the time of a cached answer.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def _routes() -> list[BaseRoute]:
    return [
        PlainRoute("/predict", predict.predict, methods=["POST"], **openapi.PREDICT),
        PlainRoute("/predict", predict.predict, methods=["PUT"], include_in_schema=False),  # curl -T
        PlainRoute(body.BATCH_PATH, predict.predict_batch, methods=["POST"], **openapi.BATCH),
        *_get("/results/{sha256}", results.result, PlainRoute, **openapi.RESULT),
        *_get("/labels", catalogue.labels, **openapi.LABELS),
        *_get("/model", catalogue.model, **openapi.MODEL),
        *_get("/livez", health.livez, **openapi.LIVEZ),
        *_get("/readyz", health.readyz, **openapi.READYZ),
        *_get("/metrics", health.metrics, **openapi.METRICS),
        *_get("/audit", admin.audit, dependencies=_ADMIN, response_model=AuditPage, **openapi.AUDIT),
        *_get("/uploads/{sha256}", admin.upload, dependencies=_ADMIN, **openapi.UPLOAD),
        APIRoute("/uploads/{sha256}", admin.forget, methods=["DELETE"], dependencies=_ADMIN, **openapi.FORGET),
        *_get("/", pages.page, include_in_schema=False),
        *_get("/docs", pages.docs, include_in_schema=False),
        Mount("/static/swagger", StaticFiles(packages=[("fastapi_offline", "static")])),
        Mount("/static", StaticFiles(directory=pages.STATIC)),
    ]


_ADMIN = [Depends(require_admin)]


def _get(path: str, endpoint: Callable[..., Any], kind: type[APIRoute] = APIRoute, **options: Any) -> list[APIRoute]:
    """The route for GET, and the same for HEAD, which the documents leave out."""
    options = {"dependencies": [], "include_in_schema": True, **options}
    head = {"dependencies": options["dependencies"], "include_in_schema": False}
    return [kind(path, endpoint, methods=["GET"], **options), kind(path, endpoint, methods=["HEAD"], **head)]


def create_app(settings: Settings, open_recognizer: OpenRecognizer = open_recognizer) -> FastAPI:
    """The app. Its lifespan opens the recognizer and puts it into `app.state`, with its pool and its metrics.

    Raises:
        InvalidSetting: an API key, rate, network or origin is malformed, or keys are needed and there are none.
    """
    keys = read_keys(settings.api_keys.get_secret_value() if settings.api_keys else None)
    if settings.cache_scope == "key" and not keys:
        raise InvalidSetting("EYESPOT_CACHE_SCOPE=key needs EYESPOT_API_KEYS, and none are set")
    separate = [key.name for key in keys.values()] if settings.cache_scope == "key" else []
    limiter = RateLimiter.open(settings.rate_limit, settings.cache_url) if settings.rate_limit else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_recognizer(settings, separate) as recognizer:
                state = app.state
                state.recognizer, state.pool, state.metrics = recognizer, recognizer.pool, recognizer.metrics
                yield
        finally:
            if limiter:
                await limiter.close()

    routes = _routes()
    layers = [
        Middleware(RequestLog, paths=[route.path for route in routes if isinstance(route, APIRoute)]),
        *_cors(settings),
        Middleware(BodyLimit, limit_of=body.limit_of(settings.max_bytes, settings.batch_max_bytes)),
        Middleware(Auth, keys=keys, trusted=read_networks(settings.trusted_proxies), limiter=limiter),
    ]
    app = FastAPI(
        title="eyespot",
        version=__version__,
        description="What is in this image? Offline, on a CPU.",
        routes=routes,
        middleware=layers,
        exception_handlers=problems.handlers(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # OpenTelemetry's, which may send to other hosts
    )
    app.state.batch_max = settings.batch_max
    openapi.describe(app)
    return app


def _cors(settings: Settings) -> list[Middleware]:
    origins = read_origins(settings.cors_origins)
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Cache", "Server-Timing", "Retry-After"],
        )
    ]
