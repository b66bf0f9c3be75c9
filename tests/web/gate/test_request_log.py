"""What the request log adds to every response, and what it counts."""

from collections.abc import Iterator

import pytest
from fastapi import Response
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from eyespot.errors import REFUSALS
from eyespot.telemetry import STEPS
from tests.requests import IMAGE, answered, metric
from tests.serving import Served, serve_fake, until
from tests.web.gate.helpers import app_with, get


@pytest.fixture
def served() -> Iterator[Served]:
    """A server that nobody has asked anything."""
    with serve_fake(cache_url="memory://") as served:
        yield served


def counts(served: Served) -> dict[tuple[str, ...], float]:
    """Every series that counts something, by its name and the values of its labels."""
    with served.client() as client:
        families = [*text_string_to_metric_families(client.get("/metrics").text)]
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("eyespot") and sample.name.endswith(("_total", "_count"))
    }


def test_every_response_forbids_sniffing() -> None:
    app = app_with()
    app.router.routes.insert(
        0, Route("/status/{of:int}", lambda request: Response(status_code=request.path_params["of"]))
    )
    for status in (200, 204, 206, 304, 307, 400, 404, 499, 500, 503):
        reply = get(app, f"/status/{status}")
        assert (reply.status_code, reply.headers.get_list("x-content-type-options")) == (status, ["nosniff"])


def test_metrics_follow_the_naming_rules_of_prometheus(served: Served) -> None:
    with served.client() as client:
        text = client.get("/metrics").text
    assert len(text) < 60_000
    families = [*text_string_to_metric_families(text)]
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation, family.name
        assert family.type != "unknown", family.name
        named_total = {sample.name.endswith("_total") for sample in family.samples}
        assert named_total == {family.type == "counter"}, family.name
        assert family.name.endswith("_seconds") or family.type != "histogram", family.name


def test_rates_begin_at_zero(served: Served) -> None:
    before = counts(served)
    assert not any(before.values())
    for name, values in {
        "eyespot_step_duration_seconds_count": STEPS,
        "eyespot_cache_requests_total": ("hit", "miss", "joined"),
        "eyespot_refusals_total": REFUSALS,
        "eyespot_audit_rows_total": ("written", "lost"),
    }.items():
        assert {series[1] for series in before if series[0] == name} == set(values)
    with served.client() as client:
        for content in (IMAGE, IMAGE, b"hello"):
            client.post("/predict", content=content)
        client.put("/predict", content=IMAGE)
        client.post("/predict/batch", files=[("file", ("x", IMAGE))])
        client.delete(f"/uploads/{'0' * 64}")
        for path in ("/labels", "/model", "/livez", "/readyz", "/docs", "/static/main.js", "/no/such/path"):
            client.get(path)
    assert counts(served).keys() - before.keys() == {
        ("eyespot_request_duration_seconds_count", "DELETE", "/uploads/{sha256}", "403")  # there is no admin key
    }


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("PUT", "/predict", ("/predict", 200, "PUT")),
        ("HEAD", "/labels", ("/labels", 200, "HEAD")),
        ("OPTIONS", "/labels", ("/labels", 405, "OPTIONS")),
        ("PROPFIND", "/predict", ("/predict", 405, "other")),
        ("GET", "/results/1234", ("/results/{sha256}", 422, "GET")),
        ("GET", "/static/page.css", ("/static", 200, "GET")),
        ("GET", "/static/swagger/swagger-ui.css", ("/static", 200, "GET")),
        ("GET", "/static/missing.js", ("/static", 404, "GET")),
        ("GET", "/openapi.json", ("/openapi.json", 200, "GET")),
        ("GET", "/no/such/path", ("other", 404, "GET")),
    ],
)
def test_a_request_is_counted_for_its_route(fake: Served, method: str, path: str, labels: tuple[str, int, str]) -> None:
    before = answered(fake, *labels)
    with fake.client() as client:
        client.request(method, path, content=IMAGE if method == "PUT" else None)
    until(lambda: answered(fake, *labels) == before + 1)  # a file's response ends before its request does


def test_a_request_that_is_refused_before_routing_is_counted_for_its_route() -> None:
    with serve_fake(api_keys="camera:click-clack") as served, served.client() as client:
        for method, path in (("POST", "/predict"), ("GET", "/results/1234"), ("POST", "/no/such/path")):
            assert client.request(method, path).status_code == 401
        assert answered(served, "/predict", 401) == 1
        assert answered(served, "/results/{sha256}", 401, "GET") == 1
        assert answered(served, "other", 401) == 1


def test_asking_whether_an_image_is_known_or_the_server_ready_is_not_a_refusal(served: Served) -> None:
    assert served.recognizer
    with served.client() as client:
        assert client.get(f"/results/{'0' * 64}").json()["code"] == "not-found"
        served.recognizer.pool.draining = True
        assert client.get("/readyz").json()["code"] == "draining"
        served.recognizer.pool.draining = False
        assert client.get("/no/such/path").status_code == 404
    assert metric(served, 'eyespot_refusals_total{code="not-found"}') == 1
    assert metric(served, 'eyespot_refusals_total{code="draining"}') == 0
