"""The proxies of the manual, as it configures them, before a server: what arrives on either side."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from eyespot.vision.engines import Features, Logits, Pixels
from tests import makers
from tests.services import Service, free_port, which
from tests.serving import ROOT, FakeEngine, Served, serve_fake, until

ADMIN = {"X-API-Key": "open-sesame"}
FORGED = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2, 127.0.0.1"), ("Forwarded", "for=192.0.2.3")]
# Where each listens in the manual, and what is around a part of a configuration.
LISTEN = {"nginx": "listen 80;", "caddy": "eyespot.example.org {", "haproxy": "bind :80"}
AROUND = {
    "nginx": "daemon off; user root; pid nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n{} }}",
    "caddy": "{{\nadmin off\n}}\n{}",
    "haproxy": "{}",
}


class Proxy(Service):
    """One of the three with its snippet of the manual, before the server at that port."""

    def __init__(self, folder: Path, kind: str, server: int) -> None:
        super().__init__(folder, free_port())
        self._kind = kind
        text = (ROOT / "openapi.md").read_text()
        (snippet,) = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
        address = f"127.0.0.1:{self.port}"
        mine = {"nginx": f"listen {address};", "caddy": f"http://{address} {{", "haproxy": f"bind {address}"}[kind]
        for said, here in ((LISTEN[kind], mine), ("127.0.0.1:8000", f"127.0.0.1:{server}")):
            assert snippet.count(said) == 1, said
            snippet = snippet.replace(said, here)
        self._config = folder / kind
        self._config.write_text(AROUND[kind].format(snippet))

    def command(self) -> list[str]:
        program = which(self._kind)
        assert program
        arguments = {
            "nginx": ["-p", str(self.folder), "-e", "stderr", "-c", str(self._config)],
            "caddy": ["run", "--adapter", "caddyfile", "--config", str(self._config)],
            "haproxy": ["-db", "-f", str(self._config)],
        }
        return [program, *arguments[self._kind]]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}


class StepwiseEngine(FakeEngine):
    """Computes an image for each step that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = threading.Semaphore(100)

    def infer(self, pixels: Pixels, **options: Any) -> tuple[Logits, Features | None]:
        assert self.steps.acquire(timeout=60)
        return super().infer(pixels, **options)


@pytest.fixture
def engine() -> StepwiseEngine:
    return StepwiseEngine()


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.needs(kind)) for kind in LISTEN])
def proxied(request: pytest.FixtureRequest, engine: StepwiseEngine, tmp_path: Path) -> Iterator[Served]:
    """The server, at the address of the proxy."""
    settings = {"api_keys": "boss:open-sesame:admin", "trusted_proxies": "127.0.0.1", "audit_url": "sqlite"}
    with serve_fake(engine, **settings, data_dir=tmp_path) as served:
        proxy = Proxy(tmp_path, request.param, served.port)
        proxy.start()
        try:
            found = Served(f"http://127.0.0.1:{proxy.port}")
            until(lambda: livez(found) == 200)
            yield found
        finally:
            proxy.close()


def livez(served: Served) -> int:
    with served.client() as client:
        return client.get("/livez").status_code


def test_an_image_of_the_largest_size_passes_and_a_larger_one_meets_eyespots_own_refusal(proxied: Served) -> None:
    image = makers.jpeg()
    with proxied.client(headers=ADMIN) as client:
        assert client.post("/predict", content=image.ljust(5 * 1024 * 1024, b"\0")).status_code == 200
        form = client.post("/predict", files={"file": image.ljust(5 * 1024 * 1024, b"\0")})
        assert form.status_code == 200
        refused = client.post("/predict", content=image.ljust(20 * 1024 * 1024, b"\0"))
    assert refused.status_code == 413
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "image-too-large"
    assert refused.json()["request_id"] == refused.headers["X-Request-ID"]


def test_the_address_that_the_proxy_saw_is_recorded_whatever_the_client_claims(proxied: Served) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.5")
    with proxied.client(transport=transport, headers=[*ADMIN.items(), *FORGED]) as client:
        assert client.post("/predict", content=makers.jpeg()).status_code == 200
        (row,) = client.get("/audit").json()["rows"]
    assert row["address"] == "127.0.0.5"


def test_a_line_arrives_while_the_next_image_is_computed(proxied: Served, engine: StepwiseEngine) -> None:
    engine.steps = threading.Semaphore(0)
    files = [
        ("file", (f"{number}", data)) for number, data in enumerate([b"no image", makers.jpeg(), makers.jpeg("coffee")])
    ]
    headers = {**ADMIN, "Accept": "application/x-ndjson"}
    with (
        proxied.client(headers=headers) as client,
        client.stream("POST", "/predict/batch", files=files) as reply,
    ):
        assert reply.status_code == 200
        lines = reply.iter_lines()
        assert "unsupported-format" in next(lines)  # or a timeout
        for _ in range(2):
            engine.steps.release()
            assert "predictions" in next(lines)


def test_the_metrics_are_not_for_everybody(proxied: Served) -> None:
    with proxied.client() as client:
        assert client.get("/metrics").status_code in (403, 404)
        assert client.get("/livez").status_code == 200
