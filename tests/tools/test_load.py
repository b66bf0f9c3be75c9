"""tools/patience.py: clients that obey Retry-After all get through, and it notices when they cannot."""

import http.server
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from tests.serving import ROOT, FakeEngine, serve_fake, serve_files


class SlowEngine(FakeEngine):
    """Takes 20 ms an image, so that a queue fills."""

    def infer(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.02)
        return super().infer(*arguments, **options)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers with the status and Retry-After that `decide` gives for an image."""

    decide: Callable[[bytes], tuple[int, str | None]]

    def do_POST(self) -> None:
        status, retry_after = self.decide(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def refusing(decide: Callable[[bytes], tuple[int, str | None]]) -> type[Refusing]:
    return type("Kind", (Refusing,), {"decide": staticmethod(decide)})


def patience(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    few = ["--clients", "8", "--images", "1", "--connections", "2", "--seconds", "0.05"]
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "patience.py", "--url", url, *few, *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_clients_that_come_again_when_they_are_told_to_all_get_through() -> None:
    with serve_fake(SlowEngine(), workers=1, queue=2) as served:
        done = patience(served.url, "--seconds", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "got through   8 of 8 images" in done.stdout
    refused = re.search(r"refused (\d+) \(\d+ x 503 after \d+ s", done.stdout)
    assert refused
    assert f"requests      {8 + int(refused[1])}, " in done.stdout
    assert re.search(r"rate .* of a load that fits\n", done.stdout)
    assert "fewer connections" not in done.stdout


def test_each_comes_again_once_and_not_before_it_was_told_to() -> None:
    first: dict[bytes, float] = {}
    gaps = []

    def decide(image: bytes) -> tuple[int, str | None]:
        if image not in first:
            first[image] = time.monotonic()
            return 503, "1"
        gaps.append(time.monotonic() - first[image])
        return 200, None

    with serve_files(refusing(decide)) as url:
        done = patience(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "got through   8 of 8 images" in done.stdout
    assert "requests      16, refused 8 (8 x 503 after 1 s)\n" in done.stdout
    assert "attempts      median 2, 99 % 2, most 2 for one image\n" in done.stdout
    assert len(gaps) == 8
    assert min(gaps) >= 1


def test_an_answer_that_says_neither_yes_nor_when_is_told() -> None:
    answers = cycle([(503, None), (429, "0"), (503, "soon"), (500, "1")])
    with serve_files(refusing(lambda _: next(answers))) as url:
        done = patience(url, "--images", "2")
    assert done.returncode == 1
    assert "got through   0 of 16 images" in done.stdout
    assert "requests      16, refused 0\n" in done.stdout
    for what in ("503 with Retry-After ''", "429 with Retry-After '0'", "503 with Retry-After 'soon'", "500"):
        assert f"unexpected    4 x {what}\n" in done.stdout


def test_who_does_not_get_through_in_time_is_told() -> None:
    with serve_files(refusing(lambda _: (429, "1"))) as url:
        done = patience(url, "--give-up", "0.5")
    assert done.returncode == 1
    assert "got through   0 of 8 images" in done.stdout
    assert "requests      8, refused 8 (8 x 429 after 1 s)\n" in done.stdout
    assert "unexpected" not in done.stdout


def test_a_server_that_is_gone_is_told() -> None:
    with serve_files(refusing(lambda _: (200, None))) as url:
        pass
    done = patience(url)
    assert done.returncode == 1
    assert "unexpected    8 x ConnectionRefusedError\n" in done.stdout
