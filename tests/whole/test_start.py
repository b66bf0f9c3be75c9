"""How the server starts, and refuses to: in one line, with exit code 2, and without listening."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services import free_port
from tests.serving import EYESPOT, ROOT, environment, run

NONLOCAL_BIND = Path("/proc/sys/net/ipv4/ip_nonlocal_bind").read_text().strip() == "1"


@contextmanager
def starting(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`eyespot serve` in the middle of an export, which takes many seconds, and the port that it will listen on."""
    port = free_port()
    settings = {"EYESPOT_MODEL": "efficientnet-lite0", "EYESPOT_LOG_FORMAT": "json", "EYESPOT_PORT": str(port)}
    manifest = str(ROOT / "weights" / "manifest.toml")
    with subprocess.Popen(
        [EYESPOT, "serve"],
        env=environment(**settings, EYESPOT_MANIFEST=manifest, EYESPOT_DATA_DIR=str(folder)),
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr
            assert "export_started" in (json.loads(line)["event"] for line in process.stderr)
            yield process, port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_the_port_refuses_until_the_model_is_ready(tmp_path: Path) -> None:
    """A caller never hangs in the backlog of a server that still starts."""
    with starting(tmp_path) as (process, port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert process.poll() is None


def test_the_server_asks_glibc_for_huge_pages(tmp_path: Path) -> None:
    with starting(tmp_path) as (process, _):
        environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environ


def test_a_start_can_be_abandoned(tmp_path: Path) -> None:
    """At once, with exit code 0, and without ever listening."""
    with starting(tmp_path) as (process, _):
        os.killpg(process.pid, signal.SIGTERM)  # the exporting child too, as a container's stop does
        assert process.stderr
        events = [json.loads(line)["event"] for line in process.stderr]
        assert process.wait(30) == 0
    assert events[-1] == "start_abandoned"
    assert "export_made" not in events


def start_fails(*, cwd: Path, **settings: str) -> str:
    """The one line that a start which fails prints; checked for its exit code and for a traceback."""
    settings = {"EYESPOT_MANIFEST": str(ROOT / "weights" / "manifest.toml"), "EYESPOT_PORT": "0", **settings}
    done = run("serve", cwd=cwd, **settings)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("eyespot: ")
    return told[0]


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = start_fails(cwd=tmp_path, EYESPOT_PORT=str(port))
    reason = "the port is in use; set EYESPOT_PORT to another one"
    assert told == f"eyespot: cannot listen on 127.0.0.1:{port}: {reason}"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (".".join(["a" * 60] * 5), "this is not an address; set EYESPOT_HOST to one of this machine"),
        ("..", "this is not an address; set EYESPOT_HOST to one of this machine"),
        pytest.param(
            "192.0.2.1",
            "no network interface has this address; set EYESPOT_HOST to one of this machine's",
            marks=pytest.mark.skipif(NONLOCAL_BIND, reason="this machine binds to any address"),
        ),
    ],
)
def test_an_address_that_is_not_ours_is_told(tmp_path: Path, host: str, reason: str) -> None:
    assert start_fails(cwd=tmp_path, EYESPOT_HOST=host) == f"eyespot: cannot listen on {host}:0: {reason}"


def test_missing_weights_are_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text((ROOT / "weights" / "manifest.toml").read_text())
    told = start_fails(cwd=tmp_path, EYESPOT_MODEL="resnet18", EYESPOT_MANIFEST=str(tmp_path / "manifest.toml"))
    assert "resnet18-f37072fd.pth" in told
    assert "eyespot weights fetch resnet18" in told


def test_wrong_weights_are_told_and_auto_does_not_go_around_them(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text((ROOT / "weights" / "manifest.toml").read_text())
    with (tmp_path / "resnet18-f37072fd.pth").open("wb") as file:
        file.truncate(46830571)
    told = start_fails(cwd=tmp_path, EYESPOT_MANIFEST=str(tmp_path / "manifest.toml"))
    assert "sha256" in told


def test_a_file_that_cannot_be_looked_for_is_told(tmp_path: Path) -> None:
    told = start_fails(cwd=tmp_path, EYESPOT_MANIFEST="x" * 300)
    assert told == f"eyespot: {'x' * 300}: File name too long"


def test_a_start_that_fails_is_an_event_where_the_log_is_json(tmp_path: Path) -> None:
    done = run("serve", cwd=tmp_path, EYESPOT_LOG_FORMAT="json", EYESPOT_WORKER="2", EYESPOT_PORT="http")
    assert done.returncode == 2
    event = json.loads(done.stderr)
    assert (event["event"], event["level"]) == ("start_failed", "error")
    assert event["reason"] == (
        "EYESPOT_WORKER: unknown setting; did you mean EYESPOT_WORKERS?; "
        "EYESPOT_PORT: 'http' is not a whole number from 0 to 65535"
    )


def test_each_wrong_setting_is_told_on_a_line(tmp_path: Path) -> None:
    done = run("serve", cwd=tmp_path, EYESPOT_WORKER="2", EYESPOT_PORT="http")
    assert (done.returncode, done.stderr) == (
        2,
        "eyespot: EYESPOT_WORKER: unknown setting; did you mean EYESPOT_WORKERS?\n"
        "eyespot: EYESPOT_PORT: 'http' is not a whole number from 0 to 65535\n",
    )


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [("EYESPOT_API_KEYS", "", "no keys found; unset it"), ("EYESPOT_API_KEY", "click-clack", "EYESPOT_API_KEYS=name:")],
)
def test_a_mistake_with_keys_does_not_open_the_api(tmp_path: Path, name: str, value: str, remedy: str) -> None:
    told = start_fails(cwd=tmp_path, **{name: value})
    assert told.startswith(f"eyespot: {name}")
    assert remedy in told


def test_wrong_settings_of_every_kind_are_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "EYESPOT_PONY": "1",
        "EYESPOT_PORT": "http",
        "EYESPOT_API_KEYS": "x",
        "EYESPOT_RATE_LIMIT": "fast",
        "EYESPOT_TRUSTED_PROXIES": "proxy",
        "EYESPOT_CORS_ORIGINS": "here",
    }
    done = run("serve", cwd=tmp_path, **wrong)
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == list(wrong)


@pytest.mark.needs("unshare")
def test_process_1_can_be_stopped_while_it_still_imports() -> None:
    """In a container, where the kernel drops a signal that process 1 has no handler for."""
    script = """
        import runpy, sys, time, types
        cli = types.ModuleType("eyespot.cli.main")
        cli.main = lambda: (print("here", flush=True), time.sleep(60))
        sys.modules["eyespot.cli.main"] = cli
        runpy.run_module("eyespot", run_name="__main__")
    """
    outside = subprocess.Popen(
        ["unshare", "--map-root-user", "--pid", "--fork", sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outside.stdout
    with outside.stdout as stdout:
        assert stdout.readline() == "here\n"
    process_1 = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()[0]
    os.kill(int(process_1), signal.SIGTERM)
    try:
        assert outside.wait(10) == 128 + signal.SIGTERM
    finally:
        if outside.poll() is None:
            os.kill(int(process_1), signal.SIGKILL)
            outside.wait()


def test_an_unknown_setting_is_told(tmp_path: Path) -> None:
    assert "did you mean EYESPOT_WORKERS?" in start_fails(cwd=tmp_path, EYESPOT_WORKER="2")


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "data folder" in start_fails(cwd=tmp_path, EYESPOT_DATA_DIR=str(tmp_path / "file"))
    assert "data folder" in start_fails(cwd=tmp_path, EYESPOT_DATA_DIR="/proc/eyespot")
