"""Send a server images of all kinds for long, and tell whether its memory grows.

python tools/soak.py --url http://127.0.0.1:8000 --pid 4711 --requests 200000 --connections 8

Exit code 1 when an answer was not the expected one, or when resident memory grew by more than --max-slope MB in 100,000
requests. Ctrl-C ends it with the report so far. The first few thousand requests fill buffers, so that a short run shows
a slope where there is none later.
"""

import argparse
import base64
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from io import BytesIO
from itertools import count
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from eyespot.bench.host import resident_mb
from eyespot.bench.load import ask

JPEG_SIDES = (100, 160, 240, 333, 500, 500, 640, 800, 1200, 2000, 4000)  # pixels; most images are small
BOUNDARY = "soak-between-the-parts"
PER = 100_000  # requests that a slope is told for


@dataclass(frozen=True)
class Sample:
    """One body's image, and the statuses that are right for it."""

    name: str
    data: bytes
    right: tuple[int, ...] = (200,)


@dataclass
class Soak:
    """What has been sent, answered and measured so far."""

    answers: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, float]] = field(default_factory=list)  # (requests answered, resident MB)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def answered(self) -> int:
        return self.answers.total()


def make_samples() -> list[Sample]:
    """JPEGs of many sizes, other formats and colour spaces, and broken ones."""
    scene = _scene()
    jpegs = [Sample(f"jpeg {side}", _encode(scene.resize((side, side * 3 // 4)))) for side in JPEG_SIDES]
    middle = scene.resize((640, 480))
    whole = _encode(middle)
    return [
        *jpegs,
        Sample("png", _encode(middle, "PNG")),
        Sample("png with alpha", _encode(middle.convert("RGBA"), "PNG")),
        Sample("webp", _encode(middle, "WEBP")),
        Sample("grey", _encode(middle.convert("L"))),
        Sample("cmyk", _encode(middle.convert("CMYK"))),
        Sample("progressive", _encode(middle, progressive=True)),
        Sample("cut off", whole[: len(whole) // 2], (422,)),
        Sample("text", b"this is no image", (415,)),
        Sample("too small", _encode(middle.resize((2, 2))), (422,)),
    ]


def _scene() -> Image.Image:
    """Soft noise over gradients: compresses as a photograph does, not as a flat area."""
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)


def _encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **({} if kind == "PNG" else {"quality": 85}), **options)
    return buffer.getvalue()


def raw(data: bytes) -> tuple[bytes, str]:
    return data, "application/octet-stream"


def multipart(data: bytes) -> tuple[bytes, str]:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
    return head + data + f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def base64_json(data: bytes) -> tuple[bytes, str]:
    return json.dumps({"image": base64.b64encode(data).decode()}).encode(), "application/json"


BODIES = (raw, multipart, base64_json)


def keep_sending(url: str, samples: list[Sample], turns: Iterator[int], requests: int, soak: Soak) -> None:
    """One connection: the next sample in the next kind of body, until all have been sent."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    while not soak.stop.is_set() and (turn := next(turns)) < requests:
        sample = samples[turn % len(samples)]
        kind = BODIES[turn // len(samples) % len(BODIES)]
        body, content_type = kind(_another(sample, turn))
        outcome = ask(connection, f"{parts.path.rstrip('/')}/predict", body, content_type).outcome
        if not outcome.isdigit():
            soak.stop.wait(0.05)  # a server that is gone needs no thousands of attempts
        with soak.lock:
            soak.answers[outcome] += 1
            if outcome not in map(str, sample.right):
                soak.unexpected[f"{outcome} for {sample.name} as {kind.__name__}"] += 1
    connection.close()


def _another(sample: Sample, turn: int) -> bytes:
    """The image with a number after its end, so that a cache takes it for another one."""
    return sample.data + turn.to_bytes(8) if sample.right == (200,) else sample.data


def slope(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Least-squares slope of memory over requests and its standard error, in MB per 100,000 requests.

    The error is that of independent samples, and memory a second later is not independent; it is a lower bound.
    """
    x, y = np.array(points, float).T
    x = (x - x.mean()) / PER
    spread = float((x**2).sum())
    if len(points) < 3 or not spread:
        return float("nan"), float("nan")
    steepness = float((x * y).sum()) / spread
    residuals = y - y.mean() - steepness * x
    return steepness, float(np.sqrt((residuals**2).sum() / (len(points) - 2) / spread))


def run(url: str, pid: int, requests: int, connections: int, soak: Soak) -> None:
    """Send everything, and read the memory of the server every second meanwhile."""
    samples, turns = make_samples(), count()  # shared: each number is taken once
    threads = [
        threading.Thread(target=keep_sending, args=(url, samples, turns, requests, soak)) for _ in range(connections)
    ]
    soak.memory.append((0, resident_mb(pid)))
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and not soak.stop.wait(1):
            soak.memory.append((soak.answered, resident_mb(pid)))
            _show_progress(soak, requests)
    except OSError:
        soak.unexpected[f"the process {pid} has ended"] += 1
    finally:
        soak.stop.set()
        for thread in threads:
            thread.join()


def _show_progress(soak: Soak, requests: int) -> None:
    if len(soak.memory) % 10 == 1:
        answered, resident = soak.memory[-1]
        print(f"{answered:,} of {requests:,}  {resident:.1f} MB  unexpected {soak.unexpected.total()}", file=sys.stderr)


def report(soak: Soak, max_slope: float) -> bool:
    """Print what was found; whether all of it is as it should be."""
    end = soak.memory[-1][0]

    def at(share: float) -> float:
        return next(resident for answered, resident in soak.memory if answered >= share * end)

    grown, error = slope([point for point in soak.memory if point[0] >= 0.1 * end])
    statuses = ", ".join(f"{times:,} x {outcome}" for outcome, times in sorted(soak.answers.items()))
    print(f"requests      {soak.answered:,} ({statuses})")
    print(f"failures      {soak.unexpected.total():,}")
    for what, times in soak.unexpected.most_common(20):
        print(f"              {times:,} x {what}")
    print(f"memory, MB    start {soak.memory[0][1]:.1f}, 10 % {at(0.1):.1f}, 50 % {at(0.5):.1f}, end {at(1):.1f}")
    print(f"peak, MB      {max(resident for _, resident in soak.memory):.1f}")
    print(f"slope         {grown:.2f} ± {error:.2f} MB per {PER:,} requests, over the last 90 %")
    return not soak.unexpected and grown <= max_slope  # a slope that is not a number is not right either


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the server's address")
    parser.add_argument("--pid", required=True, type=int, help="the server's process id")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--max-slope", type=float, default=5, help="MB in 100,000 requests")
    wanted = parser.parse_args()
    soak = Soak()
    signal.signal(signal.SIGINT, lambda *_: soak.stop.set())
    run(wanted.url, wanted.pid, wanted.requests, wanted.connections, soak)
    sys.exit(not report(soak, wanted.max_slope))


if __name__ == "__main__":
    main()
