"""How long a caller with one image waits, alone and beside others who send batches or many images at once.

python tools/fairness.py --url http://127.0.0.1:8000 --images photos/

One connection sends one image after the other. In turn it is alone, beside one and four callers who each send a batch
of 64 again and again, and beside 64 connections that send as many images singly. Medians over the rounds. Every image
carries a number after its end, so that no cache knows it.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx

from eyespot.bench import samples
from eyespot.bench.load import Burst, load, percentile
from eyespot.errors import EyespotError

BATCH = 64
Beside = Callable[[threading.Event, list[int]], None]
"""What somebody else does until the event, with a list for the numbers of images that were recognised."""


def batches(url: str, images: list[bytes]) -> Beside:
    """A batch again and again."""
    number, run = count(), os.urandom(8)

    def send(stop: threading.Event, recognised: list[int]) -> None:
        with httpx.Client(timeout=120, trust_env=False) as client:
            while not stop.is_set():
                bodies = [images[turn % len(images)] + run + next(number).to_bytes(8) for turn in range(BATCH)]
                files, headers = [("file", ("x", body)) for body in bodies], {"Accept": "application/x-ndjson"}
                with client.stream("POST", f"{url}/predict/batch", files=files, headers=headers) as answer:
                    answer.raise_for_status()
                    recognised.extend('"predictions"' in line for line in answer.iter_lines())

    return send


def singly(url: str, images: list[bytes]) -> Beside:
    """As many images at once, each on a connection of its own."""

    def send(stop: threading.Event, recognised: list[int]) -> None:
        while not stop.is_set():
            recognised.append(len(sent(url, images, BATCH, 0.5).milliseconds))

    return send


def sent(url: str, images: list[bytes], connections: int, seconds: float) -> Burst:
    """What connections get that send one image after the other for so long."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    return load(
        lambda: HTTPConnection(parts.hostname or "", parts.port, timeout=60), path, images, connections, seconds
    )


@contextmanager
def meanwhile(others: list[Beside]) -> Iterator[list[int]]:
    """The others at work; how many of their images were recognised."""
    stop, recognised = threading.Event(), list[int]()
    threads = [threading.Thread(target=other, args=(stop, recognised)) for other in others]
    for thread in threads:
        thread.start()
    try:
        yield recognised
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the server's address")
    parser.add_argument("--images", type=Path, help="folder of images; else forms of the sample image")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    url = wanted.url.rstrip("/")
    try:
        images = samples.load(wanted.images, 5 * 1024 * 1024)
    except EyespotError as error:
        sys.exit(str(error))
    ways: dict[str, list[Beside]] = {
        "alone": [],
        f"beside 1 caller of batches of {BATCH}": [batches(url, images)],
        f"beside 4 callers of batches of {BATCH}": [batches(url, images)] * 4,
        f"beside {BATCH} connections, singly": [singly(url, images)],
    }
    found: dict[str, list[tuple[Burst, int]]] = {name: [] for name in ways}
    for _ in range(wanted.rounds):
        for name, others in ways.items():
            with meanwhile(others) as recognised:
                burst = sent(url, images, 1, wanted.seconds)
                others_images = sum(recognised)  # before those are answered that had begun
            found[name].append((burst, others_images))
    alone = median(percentile(burst.milliseconds, 50) for burst, _ in found["alone"])
    print(f"{'one connection':<40} p50, ms  p99, ms  p50 to alone  refused  others, images/s")
    for name, rounds in found.items():
        p50, p99 = (
            median(percentile(burst.milliseconds or [float("nan")], share) for burst, _ in rounds) for share in (50, 99)
        )
        refused = sum(burst.failures.total() for burst, _ in rounds)
        others = median(images for _, images in rounds) / wanted.seconds
        print(f"{name:<40} {p50:7.1f}  {p99:7.1f}  {p50 / alone:12.2f}  {refused:7}  {others:16.1f}")


if __name__ == "__main__":
    main()
