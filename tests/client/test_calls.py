"""Both clients against servers: what they return and raise, when they retry, whom they ask."""

import asyncio
import itertools
import json
import re
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import eyespot
from eyespot import errors
from eyespot.client import AsyncClient, Client
from eyespot.errors import (
    REFUSALS,
    InvalidParameter,
    NoAnswer,
    NotEyespot,
    Overloaded,
    RateLimited,
    Refusal,
    ServerSilent,
    ServerUnavailable,
    Unauthorized,
)
from eyespot.types import Check, ImageInfo, Label, ModelCard, ModelInfo, Prediction, Readiness, Recognition
from eyespot.web.gate.problems import document
from tests import makers
from tests.client.conftest import Connect
from tests.client.scripts import (
    LABEL,
    RECOGNITION,
    HurriedClient,
    Script,
    address,
    breaks,
    hangs,
    leaves,
    nobody,
    refuses,
    says,
)
from tests.requests import IMAGE, image
from tests.serving import Served, serve_fake, until


def asked(served: Served) -> dict[tuple[str, int], int]:
    """How many requests of each route and status a server has answered."""
    with served.client() as client:
        text = client.get("/metrics").text
    found = re.findall(r'^eyespot_requests_total{route="(.+?)",status="(\d+)"} (\d+)', text, re.MULTILINE)
    return {(route, int(status)): int(count) for route, status, count in found if route != "/metrics"}


# What is sent.


def test_every_image_source_is_sent(connect: Connect, served: Served, tmp_path: Path) -> None:
    photograph = makers.photograph()
    data = makers.encode(photograph, "PNG", compress_level=1)
    (tmp_path / "cat.png").write_bytes(data)
    client = connect(served)
    answers = [client.predict(source) for source in (data, tmp_path / "cat.png", photograph, np.asarray(photograph))]
    assert len({answer.image.sha256 for answer in answers}) == 1


@pytest.mark.parametrize("source", [None, "none.jpg", b""], ids=["no source", "no file", "no bytes"])
def test_an_invalid_image_is_not_sent(connect: Connect, script: Script, source: Any) -> None:
    with pytest.raises((TypeError, FileNotFoundError, errors.NoImage)):
        connect(script.url).predict(source)
    assert script.requests == []


# What comes back.


def test_the_options_are_sent(connect: Connect, script: Script) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url).predict(IMAGE, top_k=7, min_confidence=0.25, lang="zh")
    url = httpx.URL(script.requests[0].path)
    assert (url.path, dict(url.params)) == ("/predict", {"top_k": "7", "min_confidence": "0.25", "lang": "zh"})
    assert script.requests[0].size == len(IMAGE)


def test_labels_have_a_language(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    assert connect(script.url).labels("zh") == [Label(**LABEL)]
    assert script.requests[0].path == "/labels?lang=zh"


def test_answers_are_the_dataclasses_of_types(connect: Connect, served: Served) -> None:
    client = connect(served)
    recognition = client.predict(IMAGE, top_k=2)
    assert type(recognition) is Recognition
    assert [type(prediction) for prediction in recognition.predictions] == [Prediction] * 2
    assert (type(recognition.image), type(recognition.model)) == (ImageInfo, ModelInfo)
    assert client.labels()[3] == Label(3, "n00000003", "class 3")
    assert type(client.model()) is ModelCard
    assert client.model().limits.max_bytes == 5 * 1024 * 1024


def test_health_is_readiness_with_checks(connect: Connect, served: Served) -> None:
    health = connect(served).health()
    assert health.ready is True
    assert Check("draining", True, "no") in health.checks


def test_a_server_that_drains_is_not_ready(connect: Connect, served: Served) -> None:
    assert served.recognizer
    served.recognizer.pool.draining = True
    health = connect(served).health()
    served.recognizer.pool.draining = False
    assert (type(health), health.ready) == (Readiness, False)
    assert Check("draining", False, "stopping") in health.checks


# What is raised.


@pytest.mark.parametrize("code", REFUSALS)
def test_every_refusal_is_raised_as_the_server_raised_it(connect: Connect, script: Script, code: str) -> None:
    kind = REFUSALS[code]
    script.answers = [refuses(kind("This is why.", limit=7, value="much"), Retry_After="3")]
    with pytest.raises(kind) as caught:
        connect(script.url, retry_seconds=0).labels()
    refusal = caught.value
    assert type(refusal) is kind
    assert (str(refusal), refusal.detail, refusal.status) == ("This is why.", "This is why.", kind.status)
    assert (refusal.code, refusal.title) == (kind.code, kind.title)
    assert (refusal.limit, refusal.value, refusal.retry_after) == (7, "much", 3)
    assert refusal.__notes__ == ["request id request-1"]
    assert len(script.requests) == 1


def test_a_refusal_of_a_newer_server_is_a_refusal(connect: Connect, script: Script) -> None:
    problem = json.loads(document(errors.BrokenImage("Too odd."), "request-1"))
    script.answers = [says(499, {**problem, "code": "too-odd", "status": 499, "title": "Odd"})]
    with pytest.raises(Refusal, match="Too odd") as caught:
        connect(script.url).predict(IMAGE)
    assert type(caught.value) is Refusal
    assert (caught.value.code, caught.value.status, caught.value.title) == ("too-odd", 499, "Odd")
    assert not hasattr(Refusal, "status")  # the class is as it was


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((200, NotEyespot), (301, NotEyespot), (404, NotEyespot), (500, NotEyespot)),
        *((429, ServerUnavailable), (502, ServerUnavailable), (503, ServerUnavailable), (504, ServerUnavailable)),
    ],
)
@pytest.mark.parametrize("call", ["labels", "health"])
def test_a_page_of_another_server_is_not_an_answer(
    connect: Connect, script: Script, status: int, kind: type[NoAnswer], call: str
) -> None:
    script.answers = [says(status, b"<html>Hello</html>", Location="https://elsewhere/")]
    with pytest.raises(NoAnswer, match="did not answer as eyespot does") as caught:
        getattr(connect(script.url, retry_seconds=0), call)()
    assert type(caught.value) is kind
    assert ("https://elsewhere/" in str(caught.value)) == (status == 301)
    assert script.url in str(caught.value)


@pytest.mark.parametrize("body", [b"[]", b"null", b"{}", b'{"predictions": 3}', b"\xff", b""])
def test_an_answer_of_another_form_is_not_an_answer(connect: Connect, script: Script, body: bytes) -> None:
    script.answers = [says(200, body)]
    with pytest.raises(NotEyespot):
        connect(script.url).predict(IMAGE)


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
    with pytest.raises(Overloaded, match="Full"):  # it really waits
        asyncio.run(_labels(kind(script.url, retry_seconds=0.3)))
    assert len(script.requests) <= 3  # a fourth would come after at least 0.125 + 0.25 + 0.5 seconds


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
    client = connect(script.url, timeout=0.2)
    with pytest.raises(ServerSilent, match="did not answer in time") as caught:
        getattr(client, call)()
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
    assert len(script.requests) == 1


def test_a_broken_connection_is_retried(connect: Connect, script: Script) -> None:
    script.answers = [breaks, says(200, [LABEL])]
    assert connect(script.url).labels() == [Label(**LABEL)]


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


def test_a_connection_that_the_server_closed_is_opened_again(connect: Connect, script: Script) -> None:
    script.answers = [leaves]
    client = connect(script.url)
    assert [client.labels() for _ in range(3)] == [[Label(**LABEL)]] * 3


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


# Asking for the sha256 first.


def test_a_large_image_in_the_cache_is_not_uploaded(connect: Connect, caching: Served) -> None:
    unknown = image(new_number())
    first = connect(caching, ask_first=None).predict(unknown)
    before = Counter(asked(caching))
    known = connect(caching, ask_first=len(unknown) - 1).predict(unknown, top_k=1)
    assert (known.cached, known.image, known.predictions) == (True, first.image, first.predictions[:1])
    assert Counter(asked(caching)) - before == {("/results/{sha256}", 200): 1}


def test_a_large_image_outside_the_cache_is_uploaded(connect: Connect, caching: Served) -> None:
    before = Counter(asked(caching))
    answer = connect(caching, ask_first=0).predict(image(new_number()))
    assert answer.cached is False
    assert Counter(asked(caching)) - before == {("/results/{sha256}", 404): 1, ("/predict", 200): 1}


@pytest.mark.parametrize("ask_first", [None, 200_000, len(IMAGE) + 4])
def test_a_small_image_is_uploaded_at_once(connect: Connect, caching: Served, ask_first: int | None) -> None:
    before = Counter(asked(caching))
    connect(caching, ask_first=ask_first).predict(image(new_number()))
    assert Counter(asked(caching)) - before == {("/predict", 200): 1}


_numbers = itertools.count()


def new_number() -> int:
    """Of an image that no server has seen."""
    return next(_numbers)


def test_the_options_are_sent_with_the_sha256(connect: Connect, script: Script) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url, ask_first=0).predict(IMAGE, top_k=7, lang="zh")
    (request,) = script.requests
    assert (request.method, request.size) == ("GET", 0)
    assert re.match(r"/results/[0-9a-f]{64}\?top_k=7&min_confidence=0&lang=zh$", request.path)


def test_a_refusal_of_the_sha256_is_a_refusal(connect: Connect, script: Script) -> None:
    script.answers = [refuses(Unauthorized())]
    with pytest.raises(Unauthorized):
        connect(script.url, ask_first=0).predict(IMAGE)
    assert len(script.requests) == 1


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


def test_an_invalid_option_is_refused_by_the_server(connect: Connect, served: Served) -> None:
    with pytest.raises(InvalidParameter, match="top_k"):
        connect(served).predict(IMAGE, top_k=0)
