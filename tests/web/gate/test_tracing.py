"""W3C Trace Context, and the spans that a collector receives."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from eyespot.errors import InvalidSetting
from eyespot.telemetry import STEPS
from eyespot.web.gate.tracing import open_spans
from tests.collector import Collector, attributes, collecting
from tests.requests import IMAGE, image, predict
from tests.serving import serve_fake, serve_process, until
from tests.web.gate.helpers import app_with, get_with

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which servers of this process export."""
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        yield collector


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (TRACEPARENT, TRACEPARENT),
        (f" {TRACEPARENT}\t", TRACEPARENT),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"cc-{TRACE}-{PARENT}-01", TRACEPARENT),  # of a later version what is known is read
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", TRACEPARENT),
        (f"cc-{TRACE}-{PARENT}-01.what", None),
        (f"00-{TRACE}-{PARENT}-01-", None),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"0-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE[1:]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}0-01", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"00-{TRACE}-{PARENT}-0x", None),
        (f"00_{TRACE}_{PARENT}_01", None),
        (f"{TRACEPARENT},{TRACEPARENT}", None),
        ("", None),
    ],
)
def test_a_valid_traceparent_is_returned_and_logged_and_any_other_ignored(
    given: str, returned: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "eyespot")
    reply = get_with(app_with(), headers=[(b"traceparent", given.encode())])
    assert reply.headers.get("traceparent") == returned
    (line,) = caplog.records
    assert vars(line)["facts"].get("trace_id") == (TRACE if returned else None)


def test_of_two_traceparents_none_is_read() -> None:
    reply = get_with(app_with(), headers=[(b"traceparent", TRACEPARENT.encode())] * 2)
    assert "traceparent" not in reply.headers


def test_pages_of_other_origins_may_send_and_read_it() -> None:
    asks = {"origin": "https://example.org", "access-control-request-method": "POST"}
    asks["access-control-request-headers"] = "traceparent,tracestate"
    with serve_fake(cors_origins="https://example.org") as served, served.client() as client:
        assert client.options("/predict", headers=asks).status_code == 200
        reply = client.get("/labels", headers={"origin": "https://example.org"})
        assert "traceparent" in reply.headers["access-control-expose-headers"]


def check_steps(collector: Collector, parent: Span, *steps: str) -> None:
    """Each begins where the one before has ended, and all lie within the parent."""
    below = [span for span in collector.below(parent) if span.name != "image"]
    assert [span.name for span in below] == list(steps)
    edges = [edge for span in below for edge in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert edges == sorted(edges)
    assert edges[1:-1:2] == edges[2::2]
    assert parent.start_time_unix_nano <= edges[0]
    assert edges[-1] <= parent.end_time_unix_nano
    assert {span.trace_id for span in below} == {parent.trace_id}


def test_a_request_is_a_span_with_its_eight_steps(collector: Collector, tmp_path: Path) -> None:
    began = time.time_ns()
    with serve_fake(cache_url="memory://", audit_url="sqlite", data_dir=tmp_path) as served, served.client() as client:
        headers = {"traceparent": TRACEPARENT, "X-Request-ID": "mine"}
        reply = client.post("/predict?top_k=1", content=IMAGE, headers=headers)
        client.post("/predict", content=IMAGE)
    request, hit = (span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER)
    assert (request.name, request.trace_id.hex(), request.parent_span_id.hex()) == ("POST /predict", TRACE, PARENT)
    assert reply.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "url.scheme": "http",
        "eyespot.request_id": "mine",
        "eyespot.model": "fake",
        "eyespot.cache": "miss",
    }
    check_steps(collector, request, *STEPS)
    assert began <= request.start_time_unix_nano <= request.end_time_unix_nano <= time.time_ns()
    check_steps(collector, hit, "admit", "read", "cache", "audit", "respond")
    assert hit.trace_id != request.trace_id
    assert not hit.parent_span_id
    assert attributes(hit)["eyespot.cache"] == "hit"
    assert collector.service["service.name"] == "eyespot"


def test_each_image_of_a_batch_is_a_span_with_its_steps(collector: Collector) -> None:
    images = (IMAGE, b"no image", image(1))
    with serve_fake() as served, served.client() as client:
        client.post("/predict/batch", files=[("file", ("x", data)) for data in images])
    batch = collector.named("POST /predict/batch")
    assert attributes(batch)["eyespot.images"] == 3
    check_steps(collector, batch, "admit", "read")
    spans = {attributes(span)["eyespot.index"]: span for span in collector.below(batch) if span.name == "image"}
    assert sorted(spans) == [0, 1, 2]
    assert attributes(spans[1])["error.type"] == "unsupported-format"
    for index in (0, 2):
        assert attributes(spans[index]) == {"eyespot.index": index, "eyespot.cache": "miss"}
        check_steps(collector, spans[index], "queue", "decode", "infer")
        assert spans[index].end_time_unix_nano == collector.below(spans[index])[-1].end_time_unix_nano


def test_errors_name_their_problem_and_only_a_servers_own_are_errors_of_the_span(collector: Collector) -> None:
    with serve_fake() as served:
        predict(served, b"no image")
    with serve_fake(raises=RuntimeError("broken")) as served:
        predict(served)
    refused, failed = (span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER)
    assert attributes(refused)["error.type"] == "unsupported-format"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert attributes(failed)["error.type"] == "internal"
    assert failed.status.code == Status.STATUS_CODE_ERROR


def test_a_long_path_is_cut(collector: Collector) -> None:
    with serve_fake() as served, served.client() as client:
        client.get(f"/{'x' * 60_000}")
    assert len(attributes(collector.named("GET other"))["url.path"]) == 200


def test_probes_and_what_is_not_sampled_are_not_exported(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_fake() as served, served.client() as client:
        for path in ("/livez", "/readyz", "/metrics", "/v2/models/fake/ready", "/v2/models/fake/versions/x/ready"):
            assert "traceparent" not in client.get(path).headers
        unsampled = client.get("/labels", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with serve_fake() as served, served.client() as client:
        unwanted = client.get("/labels")
    assert not collector.asked.is_set()
    assert not caplog.records  # an error after the response
    for reply in (unsampled, unwanted):
        assert reply.status_code == 200
        assert int(reply.headers["traceparent"][-2:], 16) & 1 == 0
    assert unsampled.headers["traceparent"][3:35] == TRACE


def test_the_names_of_the_service_and_headers_are_the_operators(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=eyes,deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=birds")
    with serve_fake() as served:
        predict(served)
    assert (collector.service["service.name"], collector.service["deployment.environment.name"]) == ("eyes", "test")
    assert collector.headers["x-tenant"] == "birds"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "retina")
    with serve_fake() as served:
        predict(served)
    assert collector.service["service.name"] == "retina"


def export_failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"eyespot"}
    found = (record for record in caplog.records if record.message == "opentelemetry_warned")
    return [vars(record)["facts"]["reason"] for record in found]


@pytest.mark.needs("make test-all")
def test_a_collector_that_hangs_holds_neither_a_request_nor_the_exit(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
    collector.go.clear()
    with serve_fake() as served:
        predict(served)
        assert collector.asked.wait(30)
        assert predict(served).status_code == 200
    assert not export_failures(caplog)  # the export still waits, and the server has ended
    collector.go.set()
    until(lambda: not any(thread.name.startswith("Otel") for thread in threading.enumerate()))  # or it logs elsewhere


def test_a_collector_that_fails_costs_one_warning_a_minute(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    collector.status = 500
    with serve_fake() as served:
        for _ in range(5):
            seen = len(collector.spans)
            assert predict(served).status_code == 200
            until(lambda seen=seen: len(collector.spans) > seen)  # type: ignore[misc]
        until(lambda: bool(export_failures(caplog)))
    (reason,) = export_failures(caplog)
    assert "500" in reason


def test_a_collector_that_is_away_and_a_full_queue_cost_one_warning_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with collecting() as collector:
        pass
    monkeypatch.setenv(ENDPOINT, collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")  # no second try, for which the end would wait
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    with serve_fake() as served:
        for _ in range(5):
            assert predict(served).status_code == 200
        until(lambda: len(export_failures(caplog)) > 1)
    assert len(export_failures(caplog)) == 2


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({ENDPOINT: "collector:4318"}, f"{ENDPOINT}: 'collector:4318' is not a URL such as http://localhost:4318"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "4318"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: '4318' is not a URL such as http://localhost:4318",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: unset it; eyespot supports http/protobuf only, usually on port 4318",
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "0"},
            "OpenTelemetry refuses an OTEL_* variable: max_queue_size must be a positive integer.",
        ),
    ],
)
def test_variables_that_cannot_be_followed_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    for name, value in {ENDPOINT: "http://localhost:4318", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as refused:
        open_spans()
    assert str(refused.value) == told


def test_the_missing_extra_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://localhost:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "eyespot.web.gate.spans", raising=False)
    with pytest.raises(InvalidSetting, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT needs `pip install 'eyespot\[otel\]'`$"):
        open_spans()


@pytest.mark.parametrize(
    "variables", [{}, {ENDPOINT: ""}, {ENDPOINT: "http://localhost:4318", "OTEL_SDK_DISABLED": "true"}]
)
def test_nothing_is_exported_unless_an_endpoint_is_set(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_spans() is None


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize("exports", [True, False])
def test_a_process_exports_until_its_end_and_otherwise_does_not_even_import(
    packaged: dict[str, str], exports: bool
) -> None:
    with collecting() as collector:
        variables = {"PYTHONPROFILEIMPORTTIME": "1", **({ENDPOINT: collector.url} if exports else {})}
        with serve_process(**packaged, **variables) as served:
            assert predict(served).status_code == 200
            assert served.process
            served.process.terminate()
            assert served.process.wait(30) == 0
        imported = {event["text"].split("|")[-1].strip() for event in served.events if event["event"] == "text"}
    assert "eyespot.web.app" in imported
    assert {"opentelemetry.sdk.trace" in imported, "requests" in imported} == {exports}
    assert [span.name for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER] == ["POST /predict"] * exports
