"""What the request log adds to every response."""

from fastapi import Response
from starlette.routing import Route

from tests.web.gate.helpers import app_with, get


def test_every_response_forbids_sniffing() -> None:
    app = app_with()
    app.router.routes.insert(
        0, Route("/status/{of:int}", lambda request: Response(status_code=request.path_params["of"]))
    )
    for status in (200, 204, 206, 304, 307, 400, 404, 499, 500, 503):
        reply = get(app, f"/status/{status}")
        assert (reply.status_code, reply.headers.get_list("x-content-type-options")) == (status, ["nosniff"])
