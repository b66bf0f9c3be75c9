"""Both clients against servers: when they retry, whom they ask, with which key, through what."""

import asyncio
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

import eyespot
from eyespot import errors
from eyespot.client import AsyncClient, Client
from eyespot.errors import (
    NotEyespot,
    Overloaded,
    RateLimited,
    Refusal,
    ServerSilent,
    ServerUnavailable,
    Unauthorized,
)
from eyespot.types import Readiness
from eyespot.web.gate.problems import document
from tests.client.conftest import Connect
from tests.client.scripts import (
    ENTRY,
    LABEL,
    RECOGNITION,
    HurriedClient,
    Script,
    Scripted,
    address,
    breaks,
    hangs,
    leaves,
    nobody,
    refuses,
    says,
    serve_scripts,
)
from tests.requests import IMAGE
from tests.serving import serve_fake, serve_files, until

# When it is retried.


@pytest.mark.parametrize("refusal", [Overloaded(), RateLimited(), errors.Draining()], ids=lambda kind: kind.code)
def test_an_overload_is_retried(connect: Connect, script: Script, refusal: Refusal) -> None:
    script.answers = [*[refuses(refusal, Retry_After="1")] * 3, says(200, RECOGNITION)]
    assert connect(script.url).predict(IMAGE).predictions[0].label == "class 3"
    assert [request.size for request in script.requests] == [len(IMAGE)] * 4


def test_a_load_balancer_without_a_server_is_retried(connect: Connect, script: Script) -> None:
    script.answers = [says(502, b"<html>Bad gateway</html>")] * 3 + [says(200, [LABEL])]
    assert len(connect(script.url).labels()) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 413, 415, 418, 422, 431, 500, 501, 504])
def test_any_other_refusal_is_final(connect: Connect, script: Script, status: int) -> None:
    problem = json.loads(document(errors.Internal(), "request-1"))
    script.answers = [
        says(status, {**problem, "status": status, "code": "any"}, Retry_After="1"),
        says(200, [LABEL]),
    ]
    with pytest.raises(Refusal):
        connect(script.url).labels()
    assert len(script.requests) == 1


def test_the_pause_is_what_the_server_asks_for(connect: Connect, script: Script) -> None:
    in_half_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    script.answers = [
        *(refuses(Overloaded(), Retry_After=after) for after in ("3", "7", in_half_a_minute)),
        says(200, [LABEL]),
    ]
    client = connect(script.url)
    client.labels()
    assert 3 <= client.pauses[0] < 4
    assert 7 <= client.pauses[1] < 8
    assert 0 < client.pauses[2] < 31


@pytest.mark.parametrize("headers", [{"Retry_After": "3"}, {}], ids=["asked for", "our own"])
def test_no_two_clients_come_back_together(script: Script, headers: dict[str, str]) -> None:
    script.answers = [refuses(Overloaded(), **headers)] * 10 + [says(200, [LABEL])]
    with HurriedClient(script.url) as client:
        client.labels()
        assert len(set(client.pauses)) == 10


@pytest.mark.parametrize("after", [None, "0", "Sun, 06 Nov 1994 08:49:37 GMT", "-5", "soon", "1.5"])
def test_without_retry_after_the_pauses_double_up_to_eight_seconds(
    connect: Connect, script: Script, after: str | None
) -> None:
    headers = {"Retry_After": after} if after else {}
    script.answers = [refuses(Overloaded(), **headers)] * 9 + [says(200, [LABEL])]
    client = connect(script.url)
    client.labels()
    for pause, most in zip(client.pauses, (0.25, 0.5, 1, 2, 4, 8, 8, 8, 8), strict=True):
        assert most / 2 <= pause <= most


@pytest.mark.parametrize("after", ["10", "9" * 400, "9" * 5000])
def test_a_pause_longer_than_retry_seconds_is_not_waited_for(connect: Connect, script: Script, after: str) -> None:
    script.answers = [refuses(Overloaded("Full."), Retry_After=after)]
    client = connect(script.url, retry_seconds=5)
    with pytest.raises(Overloaded, match="Full") as caught:
        client.labels()
    assert caught.value.retry_after >= 10
    assert len(script.requests) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_request_is_given_up_after_retry_seconds(script: Script, kind: Any) -> None:
    script.answers = [refuses(Overloaded("Full."))]
    with pytest.raises(Overloaded, match="Full"):
        asyncio.run(_labels(kind(script.url, retry_seconds=0.3)))
    assert len(script.requests) < 10


async def _labels(client: Client | AsyncClient) -> Any:
    if isinstance(client, AsyncClient):
        async with client:
            return await client.labels()
    with client:
        return client.labels()


def test_health_is_not_retried(connect: Connect, script: Script) -> None:
    script.answers = [refuses(Overloaded(), Retry_After="1"), says(200, {"ready": True})]
    assert connect(script.url).health() == Readiness(False)
    assert len(script.requests) == 1


# Servers that do not answer.


@pytest.mark.parametrize("call", ["labels", "health"])
def test_a_server_that_hangs_is_silent_and_not_retried(connect: Connect, script: Script, call: str) -> None:
    script.answers = [hangs(script)]
    client = connect(script.url, timeout=1)
    with pytest.raises(ServerSilent, match="did not answer in time") as caught:
        getattr(client, call)()
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
    assert len(script.requests) == 1


def test_a_broken_connection_is_retried(connect: Connect, script: Script) -> None:
    script.answers = [breaks, says(200, [LABEL])]
    assert connect(script.url).labels() == [ENTRY]


def test_a_connection_that_always_breaks_is_given_up(connect: Connect, script: Script) -> None:
    script.answers = [breaks]
    with pytest.raises(ServerUnavailable, match=re.escape(script.url)) as caught:
        connect(script.url, retry_seconds=5).labels()
    assert isinstance(caught.value.__cause__, httpx.RemoteProtocolError)
    assert len(script.requests) > 4


def test_a_server_that_nobody_starts_is_waited_for_until_the_end(connect: Connect) -> None:
    with nobody() as bound:
        url = address(bound)
        client = connect(url, retry_seconds=30)
        with pytest.raises(ServerUnavailable, match=f"No eyespot answers at {url}: "):
            client.labels()
        assert sum(client.pauses) == pytest.approx(30)
        waits = len(client.pauses)
        with pytest.raises(ServerUnavailable):
            client.health()
        assert len(client.pauses) == waits


def test_a_server_that_is_started_meanwhile_answers(connect: Connect) -> None:
    with nobody() as bound:
        client = connect(address(bound), retry_seconds=10**6)

        def start() -> None:
            until(lambda: len(client.pauses) >= 3)
            bound.listen()
            connection, _ = bound.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")

        starting = threading.Thread(target=start)
        starting.start()
        assert client.labels() == []
        starting.join()


@pytest.mark.parametrize("url", [f"http://{'.'.join(['a' * 60] * 5)}", "https://"], ids=["no such host", "no TLS"])
def test_what_no_waiting_mends_fails_at_once(connect: Connect, script: Script, url: str) -> None:
    client = connect(script.url.replace("http://", url) if url == "https://" else url)
    with pytest.raises(ServerUnavailable, match="No eyespot answers at"):
        client.labels()
    assert client.pauses == []


def test_a_connection_that_ends_in_the_tls_handshake_is_retried(connect: Connect) -> None:
    class Ending(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)

    with serve_files(Ending) as url:
        client = connect(url.replace("http:", "https:"), retry_seconds=1)
        with pytest.raises(ServerUnavailable):
            client.labels()
        assert client.pauses


def test_a_connection_that_the_server_closed_is_opened_again(connect: Connect, script: Script) -> None:
    script.answers = [leaves]
    client = connect(script.url)
    assert [client.labels() for _ in range(3)] == [[ENTRY]] * 3


def test_closing_ends_the_wait_for_a_retry(script: Script) -> None:
    waiting, told = threading.Event(), list[Exception]()

    class Patient(Client):
        async def _wait(self, seconds: float) -> None:
            waiting.set()
            await super()._wait(seconds)

    def ask() -> None:
        try:
            client.labels()
        except ServerUnavailable as error:
            told.append(error)

    script.answers = [refuses(Overloaded(), Retry_After="300")]
    client = Patient(script.url, retry_seconds=1000)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert waiting.wait(30)
    client.close()
    thread.join(30)
    assert [str(error) for error in told] == ["The client was closed."]


def test_a_client_that_was_closed_says_so(connect: Connect, script: Script) -> None:
    client = connect(script.url)
    client.close()
    with pytest.raises(ServerUnavailable, match=r"^The client was closed\.$"):
        client.labels()
    assert script.requests == []


# URLs, keys and proxies.


def test_the_environment_has_url_and_key(connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESPOT_URL", f"{script.url}/theirs\n")
    monkeypatch.setenv("EYESPOT_API_KEY", "of-the-environment\n")
    script.answers = [says(200, [LABEL])]
    connect().labels()
    connect(f"{script.url}/ours", api_key="of-the-argument").labels()
    assert [(request.path.split("?")[0], request.headers["authorization"]) for request in script.requests] == [
        ("/theirs/labels", "Bearer of-the-environment"),
        ("/ours/labels", "Bearer of-the-argument"),
    ]


def test_without_a_key_none_is_sent(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    connect(script.url).labels()
    assert "authorization" not in script.requests[0].headers
    assert script.requests[0].headers["user-agent"] == f"eyespot/{eyespot.__version__}"


@pytest.mark.parametrize("key", ["clé-secrète", "hunter2\nhunter3"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(connect: Connect, key: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        connect("127.0.0.1", api_key=key)
    assert "hunter2" not in str(caught.value)


def test_a_valid_key_is_accepted(connect: Connect) -> None:
    with serve_fake(api_keys="ours:hunter22") as served:
        right, wrong = connect(served, api_key="hunter22"), connect(served, api_key="hunter23")
        assert right.predict(IMAGE).predictions
        with pytest.raises(Unauthorized, match="Invalid API key"):
            wrong.predict(IMAGE)
        right.close()
        wrong.close()


@pytest.mark.parametrize("ending", ["", "/", "/prefix", "/prefix/", "/a/b", "/prefix?a=1#b"])
def test_the_path_of_the_url_is_kept(connect: Connect, script: Script, ending: str) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url.removeprefix("http://") + ending, ask_first=0).predict(IMAGE)  # a URL needs no scheme either
    prefix = re.sub(r"/?(\?.*)?$", "", ending)
    assert script.requests[0].path.startswith(f"{prefix}/results/")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host", "http://", "http://:80", "http://host:port", "http://host:99999", "http://[::1", "//host"),
        *("http://a..b", f"http://{'a' * 64}.example", "http://me:hunter2@host:port", "http://ho\x00st"),
        *("http://me:hunter2/more@host", "http://me:hunter2#more@host", "http://me:hunter2?more@host"),
    ],
)
def test_an_invalid_url_is_refused_at_once(connect: Connect, url: str) -> None:
    with pytest.raises(ServerUnavailable, match="is not a valid URL") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_a_password_in_the_address_is_sent_and_not_shown(connect: Connect, script: Script) -> None:
    script.answers = [says(200, b"<html>Hello</html>")]
    with pytest.raises(NotEyespot) as answered:
        connect(script.url.replace("//", "//me:hunter2@")).labels()
    assert script.requests[0].headers["authorization"].startswith("Basic ")
    with nobody() as bound, pytest.raises(ServerUnavailable) as unanswered:
        connect(address(bound).replace("//", "//me:hunter2@")).labels()
    assert "hunter2" not in f"{answered.value} {unanswered.value}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("proxy", ["HTTP_PROXY=http://127.0.0.1:1", "ALL_PROXY=socks5://127.0.0.1:1"])
def test_this_machine_needs_no_proxy(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch, host: str, proxy: str
) -> None:
    monkeypatch.setenv(*proxy.split("=", 1))
    monkeypatch.setenv(proxy.split("=", 1)[0].lower(), proxy.split("=", 1)[1])
    script.answers = [says(200, [LABEL])]
    assert connect(script.url.replace("127.0.0.1", host)).labels()


def test_this_machine_is_asked_without_a_proxy_over_https_too(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", script.url)
    with nobody() as bound, pytest.raises(ServerUnavailable) as caught:
        connect(address(bound).replace("http:", "https:")).health()
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_another_machine_is_reached_through_the_proxy(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", script.url)
    script.answers = [says(200, [LABEL])]
    assert connect("http://eyespot.invalid").labels()
    assert script.requests[0].path.startswith("http://eyespot.invalid/labels")


def test_a_proxy_of_the_caller_is_used_for_this_machine_too(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    assert connect("http://127.0.0.1:1", proxy=script.url).labels()
    assert script.requests[0].path == "http://127.0.0.1:1/labels?q=&lang=en"


def test_headers_of_the_caller_are_sent(connect: Connect, script: Script) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url, api_key="ours", headers={"X-Tenant": "a", "authorization": "Basic eA=="}).predict(IMAGE)
    sent = script.requests[0].headers
    assert (sent["x-tenant"], sent["authorization"]) == ("a", "Basic eA==")
    assert sent["content-type"] == "application/octet-stream"


def test_a_transport_of_the_caller_is_used(connect: Connect) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{**LABEL, "label": request.url.path}]))
    assert connect("https://eyespot.invalid/prefix", transport=transport).labels()[0].label == "/prefix/labels"


def test_an_http_client_of_the_caller_is_used_and_stays_open(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    seen = list[httpx.URL]()
    http_client = getattr(httpx, connect.kind)(
        base_url="http://eyespot.invalid", headers={"X-Tenant": "a"}, transport=Recording(seen)
    )
    client = connect(f"{script.url}/prefix", api_key="ours", http_client=http_client)
    assert client.labels()
    client.close()
    assert not http_client.is_closed
    assert seen == [f"{script.url}/prefix/labels?q=&lang=en"]
    assert script.requests == []


class Recording(httpx.MockTransport):
    """Notes the address of each request, and answers without a server."""

    def __init__(self, seen: list[httpx.URL]) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            assert (request.headers["X-Tenant"], request.headers["Authorization"]) == ("a", "Bearer ours")
            seen.append(request.url)
            return httpx.Response(200, json=[LABEL])

        super().__init__(answer)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself, followed by its key."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=eyespot"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path.with_name("key.pem"), "-out", path]
    subprocess.run([*words.split(), *names], check=True, capture_output=True, timeout=60)
    path.write_bytes(path.read_bytes() + path.with_name("key.pem").read_bytes())
    return path


@pytest.fixture(scope="module")
def secure(certificate: Path) -> Iterator[Scripted]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serve_scripts(context) as scripted:
        scripted.script.answers = [says(200, [LABEL])]
        yield scripted


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("kind", [str, Path, lambda path: ssl.create_default_context(cafile=path), lambda _: False])
def test_a_certificate_authority_of_the_caller_is_trusted(
    connect: Connect, secure: Scripted, certificate: Path, kind: Callable[[Path], Any]
) -> None:
    assert connect(secure.url, verify=kind(certificate)).labels() == [ENTRY]


@pytest.mark.needs("openssl")
def test_a_certificate_of_nobody_known_fails_at_once(connect: Connect, secure: Scripted) -> None:
    client = connect(secure.url)
    with pytest.raises(ServerUnavailable, match="certificate verify failed"):
        client.labels()
    assert client.pauses == []
