"""Two replicas behind a real balancer with the configuration that is deployed."""

import http.server
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from itertools import count

import httpx
import pytest
import yaml

from eyespot.memory.breaker import CircuitBreaker
from tests import makers
from tests.services import HaproxyServer, free_port, haproxy_server, postgres_server, redis_server
from tests.serving import ROOT, FakeEngine, Served, serve_fake, serve_files, serve_process, until

pytestmark = pytest.mark.needs("haproxy")

IMAGE = makers.jpeg()


@contextmanager
def balancer(*ports: int) -> Iterator[HaproxyServer]:
    """The balancer before the replicas on these two ports."""
    one, other = (f"127.0.0.1:{port}" for port in ports)
    with haproxy_server(ROOT / "deploy" / "haproxy.cfg", REPLICA_1=one, REPLICA_2=other) as server:
        yield server


class Replica(http.server.BaseHTTPRequestHandler):
    """Answers every request with the headers that came with it."""

    ready = 200
    checked: threading.Semaphore

    def do_GET(self) -> None:
        check = self.path == "/readyz"
        body = b"" if check else json.dumps(self.headers.items()).encode()  # a check is reset after the head
        self.send_response(self.ready if check else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if check:
            self.checked.release()

    def log_message(self, *_: object) -> None:
        pass


def replica(ready: int = 200) -> type[Replica]:
    return type("Kind", (Replica,), {"ready": ready, "checked": threading.Semaphore(0)})


def port_of(url: str) -> int:
    return httpx.URL(url).port or 80


def logged(server: HaproxyServer, what: str, times: int) -> list[str]:
    """So many lines of the balancer's log with that in them; they follow the answers."""
    deadline = time.monotonic() + 30
    while len(lines := [line for line in server.log.read_text().splitlines() if what in line]) < times:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    return lines


def test_requests_are_spread_over_both() -> None:
    engines = [FakeEngine(), FakeEngine()]
    with (
        serve_fake(engines[0]) as one,
        serve_fake(engines[1]) as other,
        balancer(one.port, other.port) as server,
        Served(server.url).client() as client,
    ):
        for turn in range(20):
            answer = client.post("/predict", content=IMAGE + turn.to_bytes(8))
            assert answer.status_code == 200
        assert sum(engine.calls for engine in engines) == 20
        assert min(engine.calls for engine in engines) >= 5


def test_only_the_address_that_the_balancer_saw_arrives() -> None:
    with ExitStack() as stack:
        ports = [port_of(stack.enter_context(serve_files(replica()))) for _ in range(2)]
        server = stack.enter_context(balancer(*ports))
        transport = httpx.HTTPTransport(local_address="127.0.0.5", trust_env=False)
        client = stack.enter_context(httpx.Client(base_url=server.url, transport=transport))
        claims = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2, 192.0.2.3")]
        arrived = client.get("/", headers=claims).json()
        assert [value for name, value in arrived if name.lower() == "x-forwarded-for"] == ["127.0.0.5"]


def test_a_request_has_one_id_on_both_sides() -> None:
    with serve_fake() as one, serve_fake() as other, balancer(one.port, other.port) as server:
        with Served(server.url).client() as client:
            made = client.get("/model").headers["X-Request-ID"]
            own = client.get("/model", headers={"X-Request-ID": "mine"}).headers["X-Request-ID"]
        assert own == "mine"
        told = logged(server, "GET /model", 2)
        assert [f"{{{name}}}" in line for name, line in zip((made, own), told, strict=True)] == [True, True]


def test_a_replica_that_is_not_ready_is_asked_nothing() -> None:
    good, bad = replica(), replica(503)
    with serve_files(good) as one, serve_files(bad) as other, balancer(port_of(one), port_of(other)) as server:
        for _ in range(2):  # the second check comes after what the first one said took effect
            assert bad.checked.acquire(timeout=30)
        with Served(server.url).client() as client:
            for _ in range(10):
                client.get("/")
        assert ["eyespot/replica-1" in line for line in logged(server, "GET / ", 10)] == [True] * 10


def test_a_request_that_cannot_be_handed_over_goes_to_the_other_replica() -> None:
    with serve_fake(queue=64) as one, balancer(one.port, free_port()) as server:
        for turn in range(10):  # from before the first check on
            with Served(server.url).client() as client:
                assert client.post("/predict", content=IMAGE + turn.to_bytes(8)).status_code == 200


def test_without_a_replica_there_is_a_problem_that_says_when_to_come_again() -> None:
    with balancer(free_port(), free_port()) as server, Served(server.url).client() as client:
        refused = client.post("/predict", content=IMAGE)
    assert refused.status_code == 503
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["code"] == "overloaded"
    assert refused.json()["request_id"] == refused.headers["X-Request-ID"]


def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    with serve_fake() as one, serve_fake() as other, balancer(one.port, other.port) as server:
        for _ in range(5):
            with Served(server.url).client() as client:
                refused = client.post("/predict", content=bytes(8 * 1024 * 1024))
            assert refused.json()["code"] == "image-too-large"


class Load:
    """Clients that send images until they are told to stop: half of them on connections that stay."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: Counter[str] = Counter()  # by the network that answered, or by what went wrong
        self._answered = threading.Condition()
        self._turns = count()
        self._stop = False

    @contextmanager
    def running(self, clients: int) -> Iterator["Load"]:
        with ThreadPoolExecutor(clients) as threads:
            running = [threads.submit(self._send, keep=number % 2 == 0) for number in range(clients)]
            try:
                yield self
            finally:
                self._stop = True
        for client in running:
            client.result()

    def _send(self, keep: bool) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stop:
            try:
                connection.request("POST", "/predict", IMAGE + next(self._turns).to_bytes(8))
                answer = connection.getresponse()
                content = answer.read()
                who = json.loads(content)["model"]["name"] if answer.status == 200 else f"{answer.status} {content!r}"
            except OSError as error:
                who = repr(error)
                connection.close()
            if not keep:
                connection.close()
            with self._answered:
                self.answers[who] += 1
                self._answered.notify_all()
        connection.close()

    def wait_for(self, who: str, times: int) -> None:
        """Until that network has answered so many times more."""
        with self._answered:
            wanted = self.answers[who] + times
            assert self._answered.wait_for(lambda: self.answers[who] >= wanted, 60), self.answers


@pytest.mark.needs("make test-all")
def test_a_replica_is_stopped_and_another_takes_its_place_under_load_and_no_request_is_lost(
    packaged: dict[str, str],
) -> None:
    port = free_port()
    settings = {**packaged, "EYESPOT_PORT": str(port), "EYESPOT_DRAIN_SECONDS": "1.5"}
    name = packaged["EYESPOT_MODEL"]
    with serve_fake(queue=64) as other, ExitStack() as stack:
        first = stack.enter_context(serve_process(**settings))
        server = stack.enter_context(balancer(port, other.port))
        load = stack.enter_context(Load(server.port).running(clients=6))
        load.wait_for(name, 10)
        assert first.process
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(30) == 0
        load.wait_for("fake", 30)
        stack.enter_context(serve_process(**settings))
        load.wait_for(name, 10)
        assert set(load.answers) == {name, "fake"}, load.answers


@pytest.mark.needs("make test-all")
def test_a_replica_that_kubernetes_stops_answers_what_is_still_sent_to_it(packaged: dict[str, str]) -> None:
    """With the manifest's numbers: nothing asks for `/readyz`, and endpoints are updated seconds after SIGTERM."""
    deployment = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    settings = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    name = packaged["EYESPOT_MODEL"]
    with serve_process(**packaged, **settings) as replica:
        assert replica.process
        with Load(replica.port).running(clients=6) as load:
            load.wait_for(name, 10)
            replica.process.send_signal(signal.SIGTERM)
            with replica.client() as client:
                until(lambda: client.get("/readyz").status_code == 503)
            load.wait_for(name, 60)
        assert set(load.answers) == {name}, load.answers
        assert replica.process.wait(pod["terminationGracePeriodSeconds"]) == 0


@pytest.mark.needs("redis-server")
@pytest.mark.needs("postgres")
def test_replicas_share_answers_limits_and_the_audit_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the profile of docker-compose.yml puts together, but for the containers."""
    # A Redis on busy cores is slow, not lost.
    monkeypatch.setattr(CircuitBreaker, "call", lambda _, operation: operation())
    engines = [FakeEngine(), FakeEngine()]
    with redis_server() as redis, postgres_server() as postgres, ExitStack() as stack:
        settings = {
            "cache_url": redis.url,
            "audit_url": postgres.url,
            "audit_required": True,
            "api_keys": "camera:click-clack,boss:open-sesame:admin",
            "rate_limit": "30/hour",
            "trusted_proxies": "127.0.0.1",
        }
        one, other = (stack.enter_context(serve_fake(engine, **settings)) for engine in engines)
        url = stack.enter_context(balancer(one.port, other.port)).url
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        headers = {"X-API-Key": "click-clack"}
        client = stack.enter_context(httpx.Client(base_url=url, transport=transport, headers=headers, timeout=30))
        answers = [client.post("/predict", content=IMAGE) for _ in range(40)]
        assert Counter(answer.status_code for answer in answers) == {200: 30, 429: 10}
        assert {answer.headers["x-cache"] for answer in answers[5:30]} == {"hit"}
        assert sum(engine.calls for engine in engines) <= 2  # what one has put on its way, the other may not find yet
        rows = client.get("/audit?limit=100", headers={"X-API-Key": "open-sesame"}).json()["rows"]
        assert len(rows) == 30
        assert {(row["address"], row["key"]) for row in rows} == {("127.0.0.2", "camera")}
        assert {row["request_id"] for row in rows} == {answer.headers["x-request-id"] for answer in answers[:30]}
