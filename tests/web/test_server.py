"""The process: when it listens, what it logs, how it stops."""

import errno
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from eyespot.errors import PortTaken
from eyespot.web.server import HANDSHAKE_SECONDS, Server, bind, cannot_listen
from tests import makers
from tests.serving import EYESPOT, ROOT, Served, environment, serve_fake, serve_process, until

IMAGE = makers.jpeg()


@pytest.fixture(scope="module")
def served(packaged: dict[str, str]) -> Iterator[Served]:
    """A server that no test stops."""
    with serve_process(**packaged) as served:
        yield served


@pytest.fixture
def draining(packaged: dict[str, str]) -> Iterator[Served]:
    """A server that listens for another second and a half after SIGTERM."""
    with serve_process(**packaged, EYESPOT_DRAIN_SECONDS="1.5") as served:
        yield served


def names(served: Served) -> list[str]:
    return [event["event"] for event in served.events]


def test_it_listens_once_the_model_is_ready_and_logs_the_plan(served: Served) -> None:
    order = names(served)
    assert order.index("workers_planned") < order.index("model_ready") < order.index("server_ready")
    planned = next(event for event in served.events if event["event"] == "workers_planned")
    assert planned["streams"] * planned["threads"] <= planned["cpus"]
    assert planned["latency_threads"] <= planned["cpus"]
    with served.client() as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/predict", files={"file": IMAGE}).status_code == 200


def test_the_process_does_not_import_torch_when_an_export_exists(served: Served) -> None:
    assert served.process
    maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    assert "openvino" in maps
    assert "torch" not in maps


def test_sigterm_drains_and_loses_nothing(draining: Served) -> None:
    assert draining.process
    with draining.client() as client:
        client.get("/livez")
        draining.process.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            time.sleep(0.01)
        ready = client.get("/readyz?verbose")
        assert ready.json()["code"] == "draining"
        assert int(ready.headers["retry-after"]) >= 1
        assert ready.headers["connection"] == "close"
        assert client.get("/livez").status_code == 200
        answers = 0
        while True:  # until the port closes
            try:
                with draining.client() as another:
                    reply = another.post("/predict", files={"file": IMAGE})
            except httpx.ConnectError:
                break
            assert reply.status_code == 200
            answers += 1
        assert answers > 3
    assert draining.process.wait(30) == 0
    assert names(draining)[-1] == "server_stopped"
    assert not [event for event in draining.events if event["event"] == "text" or event["level"] == "error"]


def test_an_accepted_request_is_finished_after_the_port_closed(draining: Served) -> None:
    assert draining.process
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", draining.port), timeout=30) as connection:
        connection.sendall(head.encode() + IMAGE[:1000])
        draining.process.send_signal(signal.SIGTERM)
        while True:
            try:
                socket.create_connection(("127.0.0.1", draining.port)).close()
            except ConnectionRefusedError:
                break
            time.sleep(0.05)
        connection.sendall(IMAGE[1000:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert draining.process.wait(30) == 0


def test_a_client_connected_before_the_port_closed_may_send_after_it() -> None:
    with socket.socket() as slow:
        with serve_fake(handshake_seconds=HANDSHAKE_SECONDS) as served:
            slow.connect(("127.0.0.1", served.port))
            with served.client() as client:
                client.get("/livez")
            threading.Timer(0.3, slow.sendall, [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"]).start()
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can refuse new connections while begun ones complete")
def test_no_connection_is_lost_when_the_port_closes_under_load() -> None:
    for _ in range(3):
        with serve_fake(handshake_seconds=HANDSHAKE_SECONDS) as served:
            knock = [sys.executable, ROOT / "deploy" / "load.py", "knock", str(served.port)]
            clients = subprocess.Popen(knock, stdout=subprocess.PIPE, text=True)
            assert clients.stdout
            assert clients.stdout.readline() == "begun\n"
            time.sleep(0.2)
        output, _ = clients.communicate(timeout=60)
        assert "0 lost" in output
        assert clients.returncode == 0


@pytest.mark.needs("make test-all")
def test_an_upload_that_never_ends_gets_a_503_when_the_server_stops(packaged: dict[str, str]) -> None:
    with serve_process(**packaged, EYESPOT_DEADLINE_SECONDS="0.5") as served:
        assert served.process
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc")
            with served.client() as client:
                client.get("/livez")  # the upload's head has arrived too
            served.process.send_signal(signal.SIGINT)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"code":"draining"' in answer
        assert served.process.wait(30) == 0


def test_an_error_of_the_port_names_the_setting() -> None:
    told = str(cannot_listen(PermissionError(errno.EACCES, "Permission denied"), "::1", 80))
    assert told == "cannot listen on [::1]:80: ports below 1024 are for root; set EYESPOT_PORT to a higher one"
    told = str(cannot_listen(OSError(errno.EAFNOSUPPORT, "Address family not supported"), "::1", 80))
    assert told.endswith(": Address family not supported; check EYESPOT_HOST and EYESPOT_PORT")


def test_a_port_that_is_taken_after_it_was_bound_is_told() -> None:
    """By a server that was bound at the same time and was ready sooner."""
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with bind("127.0.0.1", port) as sooner:
            sooner.listen()
            with pytest.raises(PortTaken, match=f"^cannot listen on 127.0.0.1:{port}: the port is in use"):
                Server(FastAPI(), pytest.fail, 0, 1).run([bound])


def test_ctrl_c_does_not_wait_for_balancers(packaged: dict[str, str]) -> None:
    with serve_process(**packaged, EYESPOT_DRAIN_SECONDS="3000") as served:
        assert served.process
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 0


def test_a_second_sigterm_ends_the_drain(packaged: dict[str, str]) -> None:
    with serve_process(**packaged, EYESPOT_DRAIN_SECONDS="3000") as served:
        assert served.process
        served.process.send_signal(signal.SIGTERM)
        with served.client() as client:
            while client.get("/readyz").status_code == 200:
                time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0


@pytest.fixture(scope="module")
def shown(data_dir: Path) -> tuple[str, list[str]]:
    """What a start from a terminal prints, and the log for people of that server, which is asked for a few things."""
    main, side = pty.openpty()
    settings = {"EYESPOT_DATA_DIR": str(data_dir), "EYESPOT_PORT": "0", "EYESPOT_LOG_FORMAT": "lines"}
    settings["PATH"] = f"{Path(sys.executable).parent}:/bin"
    with (
        open(main) as terminal,
        open(side, "w") as stdout,
        subprocess.Popen(
            ["sh", "-c", "exec eyespot serve"],
            env=environment(**settings, EYESPOT_DRAIN_SECONDS="0"),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as process,
    ):
        try:
            printed = "".join(terminal.readline() for _ in range(4))
            url = re.search("http://[^/]+", printed)
            assert url
            with Served(url[0]).client(headers={"X-Request-ID": "i" * 36}) as client:
                client.post("/predict", content=IMAGE, headers={"X-Request-ID": "abc"})
                client.put("/predict", content=b"hello")
                client.post("/predict/batch", files=[("file", ("a", IMAGE)), ("file", ("b", b"hello"))])
                client.get(f"/results/{'0' * 64}", headers={"X-Request-ID": "i" * 64})
                client.get("/%1b%5b31mred%0a" + "x" * 300)
            process.terminate()
            return printed, process.communicate(timeout=60)[1].splitlines()
        finally:
            process.kill()


def test_a_start_from_a_shell_prints_the_page_the_docs_and_a_curl_command(shown: tuple[str, list[str]]) -> None:
    printed, _ = shown
    url = re.search(r"page\s+(http://127\.0\.0\.1:\d+)/\n", printed)
    assert url
    assert f"docs  {url[1]}/docs" in printed
    sample = re.search(r"curl -F file=@(\S+) ", printed)
    assert sample
    assert Path(sample[1]).is_file()


def test_a_closed_standard_output_does_not_end_the_server(packaged: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    settings = {**packaged, "EYESPOT_PORT": "0", "EYESPOT_LOG_FORMAT": "lines", "EYESPOT_DRAIN_SECONDS": "0"}
    with (
        open(writer, "w") as stdout,
        subprocess.Popen(
            [EYESPOT, "serve"], env=environment(**settings), stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT
        ) as process,
    ):
        assert process.stderr
        assert any("server_ready" in line for line in process.stderr)
        process.terminate()
        assert process.communicate(timeout=60)
    assert process.returncode == 0


def test_log_lines_for_people_fit_120_columns(shown: tuple[str, list[str]]) -> None:
    _, lines = shown
    size = r"\d+\.\d ms +\d+ kB +"
    expected = [
        rf"200 POST +/predict +{size}(miss|hit) +abc",
        rf"415 PUT +/predict +{size}unsupported-format +i{{36}}",
        rf"200 POST +/predict/batch +{size}1 of 2 refused +i{{36}}",
        r"404 GET +/results/0+…0+ +\d+\.\d ms +not-found +i+…i+",
        r"404 GET +/%1B%5B31m\w*…x+ +\d+\.\d ms +not-found +i{36}",
    ]
    found = [line for line in lines if re.match(r"..:..:.. \d", line)]
    assert max(map(len, found)) <= 120
    assert len(found) == len(expected)
    for line, pattern in zip(found, expected, strict=True):
        assert re.fullmatch(rf"\d\d:\d\d:\d\d {pattern}", line), line


def test_sighup_opens_the_model_anew(served: Served) -> None:
    assert served.process
    served.process.send_signal(signal.SIGHUP)
    until(lambda: "model_switched" in names(served))
    with served.client() as client:
        assert client.post("/predict", files={"file": IMAGE}).status_code == 200


@pytest.mark.needs("make test-all")
def test_closing_its_terminal_stops_the_server(packaged: dict[str, str]) -> None:
    main, side = pty.openpty()
    with serve_process(**packaged, stdin=side) as served:
        assert served.process
        os.close(side)
        os.close(main)
        served.process.send_signal(signal.SIGHUP)  # as the kernel does to the programs of a terminal
        assert served.process.wait(30) == 0
    assert next(event["signal"] for event in served.events if event["event"] == "stop_requested") == "SIGHUP"


def test_an_ipv6_address_is_served_and_written_in_brackets(packaged: dict[str, str]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serve_process(**packaged, EYESPOT_HOST="::1") as served, served.client() as client:
        assert served.url.startswith("http://[::1]:")
        assert client.get("/livez").status_code == 200


def test_every_log_line_is_json(served: Served) -> None:
    with served.client() as client:
        client.post("/predict", files={"file": IMAGE})
        client.get("/livez")
        client.get("/readyz")
        client.get("/metrics")
        client.get("/nope%0A{}")
    while "request_answered" not in names(served):
        time.sleep(0.01)
    answered = next(event for event in served.events if event["event"] == "request_answered")
    assert answered["route"] == "/predict"
    assert answered["status"] == 200
    assert list(answered["steps"]) == ["admit", "read", "cache", "queue", "decode", "infer", "audit", "respond"]
    assert (answered["cache"], answered["model"]) == ("miss", "efficientnet-lite0")
    assert not [event for event in served.events if event["event"] == "text"]
    assert all(event.keys() >= {"time", "level", "event"} for event in served.events)
    assert not [event for event in served.events if event.get("route") in ("/livez", "/readyz", "/metrics")]
