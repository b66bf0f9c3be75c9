"""The app on one page: every route, and the layers in front of them."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from eyespot._version import __version__
from eyespot.assembly import open_recognizer
from eyespot.errors import InvalidSetting
from eyespot.memory.rate_limiter import RateLimiter
from eyespot.recognizer import Recognizer
from eyespot.settings import Settings
from eyespot.web.api import (
    admin,
    body,
    catalogue,
    document,
    explain,
    health,
    infer,
    messages,
    openapi,
    openapi_v2,
    pages,
    predict,
    v2,
)
from eyespot.web.gate import problems
from eyespot.web.gate.addresses import read_networks
from eyespot.web.gate.auth import Auth, read_keys, require_admin
from eyespot.web.gate.body_limit import BodyLimit
from eyespot.web.gate.cors import Cors, read_origins
from eyespot.web.gate.request_log import RequestLog, begin_at_zero
from eyespot.web.gate.tracing import open_spans

OpenRecognizer = Callable[[Settings, Collection[str]], AbstractAsyncContextManager[Recognizer]]
"""Given the settings, and the names of API keys that share no cached answers."""

CHECKS: dict[str, Callable[[str | None], object]] = {
    "api_keys": read_keys,
    "rate_limit": lambda text: text and RateLimiter.open(text, "memory://"),
    "trusted_proxies": read_networks,
    "cors_origins": read_origins,
}
"""What reads the text of a setting, and raises `InvalidSetting`: `settings.load` tries all of them."""

_ADMIN = [Depends(require_admin)]
_OPTIONS: dict[str, Any] = {
    "title": "eyespot",
    "version": __version__,
    "description": "What is in this image? Offline, on a CPU.\n\n"
    "To begin, open *Recognise an image* and choose a file. If the server has keys, enter yours under *Authorize*. "
    "Errors are `application/problem+json` (RFC 9457) with a stable `code`.\n\n"
    "`HEAD` works wherever `GET` does, and `OPTIONS` answers CORS preflights only. A method that a path does not "
    "support is a 405, whose `Allow` header lists those it does.",
    "docs_url": None,  # Swagger UI comes from the package
    "redoc_url": None,
    "redirect_slashes": False,
    "telemetry": {"tracing": False, "metrics": False, "logs": False},  # OpenTelemetry may send to other hosts
}


class PlainRoute(APIRoute):
    """A route that FastAPI lists and documents, but whose endpoint is called directly with the `Request`.

    FastAPI's dependencies and exit stacks would cost 20 % of a cached answer.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if options.get("dependencies"):
            raise ValueError("a plain route would ignore its dependencies")
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] in (self.methods or ()):
            return Match.FULL, {"endpoint": self.endpoint, "route": self}  # most requests, without a regular expression
        return super().matches(scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class App(FastAPI):
    """FastAPI without its outermost layers, for errors, telemetry and body limits: the gate does their work."""

    def build_middleware_stack(self) -> ASGIApp:
        layer: Any = super().build_middleware_stack()
        while not isinstance(layer, RequestLog):
            layer = layer.app
        return layer


def _get(path: str, endpoint: Callable[..., Any], kind: type[APIRoute] = APIRoute, **options: Any) -> list[APIRoute]:
    """The route for GET, and the same for HEAD, which is left out of the OpenAPI schema."""
    return [
        kind(path, endpoint, methods=["GET"], **options),
        kind(path, endpoint, methods=["HEAD"], dependencies=options.get("dependencies"), include_in_schema=False),
    ]


def _routes() -> list[BaseRoute]:
    static = [
        Mount("/swagger", pages.Static(packages=[("fastapi_offline", "static")])),  # before the shorter path
        Mount("", pages.Static(directory=pages.STATIC)),
    ]
    return [
        PlainRoute("/predict", predict.predict, methods=["POST"], **openapi.PREDICT),
        PlainRoute("/predict", predict.predict, methods=["PUT"], include_in_schema=False),  # `curl -T` sends PUT
        PlainRoute("/explain", explain.explain, methods=["POST"], **openapi.EXPLAIN),
        PlainRoute("/explain", explain.explain, methods=["PUT"], include_in_schema=False),
        PlainRoute("/predict/batch", predict.predict_batch, methods=["POST"], **openapi.BATCH),
        *_get("/results/{sha256}", predict.result, PlainRoute, **openapi.RESULT),
        *_get("/labels", catalogue.labels, **openapi.LABELS),
        *_get("/model", catalogue.model, **openapi.MODEL),
        *_get("/livez", health.livez, **openapi.LIVEZ),
        *_get("/readyz", health.readyz, **openapi.READYZ),
        *_get("/metrics", health.metrics, **openapi.METRICS),
        *_get("/audit", admin.audit, dependencies=_ADMIN, **openapi.AUDIT),
        *_get("/uploads/{sha256}", admin.upload, dependencies=_ADMIN, **openapi.UPLOAD),
        APIRoute("/uploads/{sha256}", admin.forget, methods=["DELETE"], dependencies=_ADMIN, **openapi.FORGET),
        APIRoute("/admin/model", admin.switch, methods=["POST"], dependencies=_ADMIN, **openapi.SWITCH),
        *_inference(),
        *_get("/", pages.page, include_in_schema=False),
        *_get("/docs", pages.docs, include_in_schema=False),
        Mount("/static", routes=static, middleware=[Middleware(GZipMiddleware)]),
    ]


def _inference() -> list[APIRoute]:
    """The Open Inference Protocol. There is one version, so a path means the same with and without it."""
    model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    return [
        *_get("/v2", v2.server, **openapi_v2.SERVER),
        *_get("/v2/health/live", v2.live, **openapi_v2.LIVE),
        *_get("/v2/health/ready", v2.ready, **openapi_v2.READY),
        *_get(model, v2.metadata, **openapi_v2.METADATA),
        *_get(f"{model}/ready", v2.model_ready, **openapi_v2.MODEL_READY),
        PlainRoute(f"{model}/infer", infer.infer, methods=["POST"], **openapi_v2.INFER),
        *_get(version, v2.metadata, include_in_schema=False),
        *_get(f"{version}/ready", v2.model_ready, include_in_schema=False),
        PlainRoute(f"{version}/infer", infer.infer, methods=["POST"], include_in_schema=False),
    ]


def _is_watched(route: BaseRoute) -> bool:
    """Whether its metrics exist from the start: all would be a fifth more, most of them for metadata of `/v2`."""
    path = getattr(route, "path", "")
    return not path.startswith("/v2") or path.endswith("{name}/infer")


def _cors(text: str | None) -> list[Middleware]:
    origins = read_origins(text)
    options: dict[str, Any] = {
        "allow_origins": origins,
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": [
            *("Authorization", "X-API-Key", "Content-Type", "X-Request-ID", "traceparent", "tracestate"),
            messages.JSON_LENGTH_HEADER,
        ],
        "expose_headers": [
            *("X-Request-ID", "X-Cache", "Server-Timing", "Retry-After", "traceparent"),
            messages.JSON_LENGTH_HEADER,
        ],
    }
    return [Middleware(Cors, **options)] if origins else []


def create_app(settings: Settings, open_recognizer: OpenRecognizer = open_recognizer) -> FastAPI:
    """The app. Its lifespan opens the recognizer and puts it into `app.state`, with its pool and metrics for the gate.

    Raises `InvalidSetting` for a malformed API key, rate, network or origin, and EYESPOT_CACHE_SCOPE=key without keys.
    """
    keys = read_keys(settings.api_keys.get_secret_value() if settings.api_keys else None)
    if settings.cache_scope == "key" and not keys:
        raise InvalidSetting("EYESPOT_CACHE_SCOPE: 'key' needs API keys; set EYESPOT_API_KEYS too")
    separate_keys = [key.name for key in keys.values()] if settings.cache_scope == "key" else []
    trusted, cors = read_networks(settings.trusted_proxies), _cors(settings.cors_origins)
    # The cache's Redis counts for all replicas.
    limiter = RateLimiter.open(settings.rate_limit, settings.cache_url) if settings.rate_limit else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = app.state
        async with AsyncExitStack() as stack:
            if limiter:
                stack.push_async_callback(limiter.close)
            state.spans = open_spans()
            if state.spans:
                stack.push_async_callback(state.spans.close)
            recognizer = await stack.enter_async_context(open_recognizer(settings, separate_keys))
            state.recognizer, state.pool, state.metrics = recognizer, recognizer.pool, recognizer.metrics
            begin_at_zero(state.metrics, filter(_is_watched, app.routes), "/predict")
            yield

    app = App(
        **_OPTIONS,
        routes=_routes(),
        middleware=[  # the first is the outermost
            Middleware(RequestLog),
            *cors,
            Middleware(BodyLimit, limit_of=body.limit_of(settings.max_bytes, settings.batch_max_bytes)),
            Middleware(Auth, keys=keys, trusted=trusted, limiter=limiter),
        ],
        exception_handlers=problems.handlers(),
        lifespan=lifespan,
    )
    app.state.batch_max = settings.batch_max
    document.complete(app, needs_key=bool(keys))
    return app
