"""A small app behind the gate, and requests to it."""

import asyncio
from types import SimpleNamespace

import httpx
from fastapi import Depends, FastAPI, Request

from eyespot.errors import RateLimited
from eyespot.telemetry import Metrics
from eyespot.web.gate import problems
from eyespot.web.gate.addresses import read_networks
from eyespot.web.gate.auth import Auth, read_keys, require_admin
from eyespot.web.gate.request_log import RequestLog

CLIENT = "203.0.113.9"
SECRET = "correct-horse"
KEYS = f"alice:{SECRET},root:battery-staple:admin"
OPEN_PATHS = [
    "/",
    "/docs",
    "/openapi.json",
    "/favicon.ico",
    "/static/a.js",
    "/livez",
    "/readyz",
    "/metrics",
    "/v2/health/live",
]


class FakeLimiter:
    """Lets each client pass `limit` times."""

    def __init__(self, limit: int) -> None:
        self.largest_cost = limit
        self.charged: dict[str, int] = {}

    async def charge(self, client: str, cost: int = 1, *, charged: int = 0) -> None:
        self.charged[client] = self.charged.get(client, 0) + cost - charged
        if self.charged[client] > self.largest_cost:
            raise RateLimited(f"Not more than {self.largest_cost}.", limit=self.largest_cost, retry_after=7)


def app_with(keys: str | None = None, limiter: FakeLimiter | None = None, trusted: str = "") -> FastAPI:
    """An app that answers every path with what the gate made of the request."""
    app = FastAPI(openapi_url=None, exception_handlers=problems.handlers())
    app.state.metrics, app.state.pool, app.state.spans = Metrics(), SimpleNamespace(draining=False), None
    app.add_middleware(Auth, keys=read_keys(keys), trusted=read_networks(trusted), limiter=limiter)
    app.add_middleware(RequestLog)

    @app.get("/admin", dependencies=[Depends(require_admin)])
    async def admin() -> str:
        return "done"

    @app.get("/batch/{images}")
    async def batch(request: Request, images: int) -> str:
        await request.state.charge_rate_limit(images)
        return "done"

    @app.get("/{path:path}")
    async def everything(request: Request) -> dict[str, object]:
        state = request.state
        return {"address": state.trace.address, "key": state.trace.key, "admin": state.admin, "facts": state.facts}

    return app


def get(app: FastAPI, path: str = "/predict", peer: str = CLIENT, **headers: str) -> httpx.Response:
    """The response to a request from that peer; `x_api_key="…"` is the header X-API-Key."""
    return get_with(
        app, path, peer, [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    )


def get_with(
    app: FastAPI, path: str = "/predict", peer: str = CLIENT, headers: list[tuple[bytes, bytes]] | None = None
) -> httpx.Response:
    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(peer, 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://eyespot") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(scenario())
