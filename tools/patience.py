"""Send a server more than it can take, from clients that come again when it says so; tell whether all get through.

python tools/patience.py --url http://127.0.0.1:8000 --clients 200 --images 5

All clients begin at once, and each sends its images one after the other. On 503 or 429 it sleeps for the seconds of
Retry-After, no more and no less, and sends the same image again. Exit code 1 when an image was not recognised within
--give-up seconds of the begin, or when an answer was neither 200 nor 503 or 429 with a Retry-After of at least 1.
The rate is told beside that of few connections which fit into the queue, loaded before and after. Ctrl-C ends it with
the report so far.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import eyespot
from eyespot.bench.load import Burst, load, percentile

SAMPLE = Path(eyespot.__file__).with_name("sample.jpg")
HEADERS = {"Content-Type": "application/octet-stream"}


@dataclass
class Herd:
    """What the clients have met so far."""

    attempts: list[int] = field(default_factory=list)  # of each image that got through, like the waits
    waits: list[float] = field(default_factory=list)  # seconds from the first attempt to the answer
    refusals: Counter[tuple[str, int]] = field(default_factory=Counter)  # by status and Retry-After
    unexpected: Counter[str] = field(default_factory=Counter)
    last_answer: float = 0  # as time.perf_counter() has it
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def requests(self) -> int:
        return len(self.waits) + self.refusals.total() + self.unexpected.total()


class Client:
    """One that does as it is told."""

    def __init__(self, url: str, herd: Herd) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._path = f"{parts.path.rstrip('/')}/predict"
        self._herd = herd

    def recognise(self, image: bytes, give_up: float) -> None:
        """Send it until it gets through, or gets an answer that is not right, or the moment `give_up` has come."""
        begun, attempts = time.perf_counter(), 0
        while not self._herd.stop.is_set():
            attempts += 1
            outcome, seconds = self._send(image)
            now = time.perf_counter()
            with self._herd.lock:
                if outcome == "200":
                    self._herd.attempts.append(attempts)
                    self._herd.waits.append(now - begun)
                    self._herd.last_answer = max(now, self._herd.last_answer)
                elif seconds >= 1:
                    self._herd.refusals[outcome, seconds] += 1
                else:
                    self._herd.unexpected[outcome] += 1
            if seconds < 1 or now + seconds > give_up:
                return
            self._herd.stop.wait(seconds)

    def _send(self, image: bytes) -> tuple[str, int]:
        """The status or what went wrong, and the seconds to come again after: 0 when it is not to come again."""
        try:
            self._connection.request("POST", self._path, image, HEADERS)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, HTTPException) as error:
            self.close()
            return type(error).__name__, 0
        outcome, told = str(answer.status), answer.headers.get("Retry-After", "")
        if outcome not in ("503", "429"):
            return outcome, 0
        self.close()  # while it waits, it takes nothing of the server
        return (outcome, int(told)) if told.isdecimal() and int(told) else (f"{outcome} with Retry-After {told!r}", 0)

    def close(self) -> None:
        self._connection.close()


def stampede(url: str, clients: int, images: int, give_up_seconds: float, herd: Herd) -> float:
    """All clients at once, until each is done; the seconds until the last image was recognised."""
    run, sample = os.urandom(8), SAMPLE.read_bytes()  # what comes after the end makes another image of it
    begin = threading.Barrier(clients + 1)

    def send_all(number: int) -> None:
        client = Client(url, herd)
        begin.wait()
        give_up = time.perf_counter() + give_up_seconds
        for turn in range(images):
            client.recognise(sample + run + (number * images + turn).to_bytes(8), give_up)
        client.close()

    threads = [threading.Thread(target=send_all, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return max(0.0, herd.last_answer - begun)


def steady(url: str, connections: int, seconds: float) -> Burst:
    """What the server does for as many connections, each with one request after the other."""
    parts = urlsplit(url)
    image = SAMPLE.read_bytes() + os.urandom(8)
    return load(
        lambda: HTTPConnection(parts.hostname or "", parts.port, timeout=60),
        parts.path.rstrip("/"),
        [image],
        connections,
        seconds,
    )


def report(herd: Herd, images: int, seconds: float, calm: list[Burst]) -> bool:
    """Print what was met; whether all of it is as it should be."""
    through = len(herd.waits)
    told = ", ".join(
        f"{times:,} x {status} after {after} s" for (status, after), times in sorted(herd.refusals.items())
    )
    print(f"got through   {through:,} of {images:,} images")
    print(f"requests      {herd.requests:,}, refused {herd.refusals.total():,}{f' ({told})' if told else ''}")
    for what, times in herd.unexpected.most_common(20):
        print(f"unexpected    {times:,} x {what}")
    if through:
        attempts = [float(number) for number in herd.attempts]
        print(f"attempts      median {percentile(attempts, 50):.0f}, 99 % {percentile(attempts, 99):.0f}", end="")
        print(f", most {max(attempts):.0f} for one image")
        print(f"wait, s       median {percentile(herd.waits, 50):.1f}, longest {max(herd.waits):.1f} for one image")
        rate, calm_rate = through / seconds, sum(burst.images_per_second for burst in calm) / len(calm)
        print(f"rate          {rate:.1f} images/s in {seconds:.1f} s", end="")
        print(f", {rate / calm_rate:.2f} of the {calm_rate:.1f} of a load that fits" if calm_rate else "")
    for what, times in sum((burst.failures for burst in calm), Counter()).items():
        print(f"              {times:,} x {what} under the load that fits: take fewer connections")
    return through == images  # an image with an answer that is not right is not sent again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the server's address")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--images", type=int, default=5, help="of each client")
    parser.add_argument("--give-up", type=float, default=120, help="seconds after which a client gives up")
    parser.add_argument("--connections", type=int, default=8, help="of the load that fits into the queue")
    parser.add_argument("--seconds", type=float, default=5, help="of the load that fits, before and after")
    wanted = parser.parse_args()
    herd = Herd()
    signal.signal(signal.SIGINT, lambda *_: herd.stop.set())
    calm = [steady(wanted.url, wanted.connections, wanted.seconds)]
    seconds = stampede(wanted.url, wanted.clients, wanted.images, wanted.give_up, herd)
    calm.append(steady(wanted.url, wanted.connections, wanted.seconds))
    sys.exit(not report(herd, wanted.clients * wanted.images, seconds, calm))


if __name__ == "__main__":
    main()
