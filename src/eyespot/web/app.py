"""The FastAPI app: routes, problems and middleware around a recognizer that lives as long as the app does."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from eyespot import __version__
from eyespot.assembly import open_recognizer
from eyespot.recognizer import Recognizer
from eyespot.settings import Settings
from eyespot.web import STATIC, images, problems
from eyespot.web.middleware import BoundedBody, RequestContext, ShortWay
from eyespot.web.routes import router

OpenRecognizer = Callable[[Settings], AbstractAsyncContextManager[Recognizer]]


def create_app(settings: Settings, open_recognizer: OpenRecognizer = open_recognizer) -> FastAPI:
    """The app for these settings. Its lifespan opens the recognizer, and puts it in `app.state.recognizer`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_recognizer(settings) as recognizer:
                app.state.recognizer = recognizer
                yield
        except BaseException as error:
            app.state.start_error = error  # ASGI hands on no more than its text
            raise

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
    app.include_router(router)
    app.mount("/static/swagger", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.mount("/static", StaticFiles(directory=STATIC))
    problems.install(app)
    busy = [route for route in router.routes if isinstance(route, APIRoute) and route.path == "/predict"]
    app.add_middleware(ShortWay, routes=busy)
    app.add_middleware(BoundedBody, limit=partial(images.body_limit, settings.max_bytes), max_bytes=settings.max_bytes)
    app.add_middleware(RequestContext)  # the last one added is the outermost
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Add the schema of problems, which no route returns by itself, to the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"].update(problems.schemas())
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
