"""Load tests of a server and of `eyespot classify`. Ctrl-C ends one with the figures so far."""

import base64
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count, cycle
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image

from eyespot.bench import machine, samples
from eyespot.bench.figures import Task
from eyespot.bench.measure import Threads, resident_mb
from eyespot.bench.report import text
from eyespot.bench.server import RAW, Answer, Connection, load
from eyespot.client import Client
from eyespot.vision import export

BATCH = 64
PER = 100_000  # requests, for which the growth of memory is given

app = typer.Typer(help=__doc__, add_completion=False)
Url = Annotated[Any, typer.Option(parser=lambda url: Client(url).url, help="Address of the server.")]
Pid = Annotated[int, typer.Option(help="Process id of the server.")]
Folder = Annotated[Path, typer.Option("--images", help="Folder of images.")]


def show(title: str, **figures: Any) -> None:
    print(f"{title:<12}", ", ".join(f"{name} {text(figure)}" for name, figure in figures.items()), flush=True)


def request(url: httpx.URL, **content: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers, made by httpx from `files`, `json` or `content`."""
    made = httpx.Request("POST", url, **content)
    return made.read(), dict(made.headers)


@app.command()
def fairness(url: Url, images: Path | None = None, seconds: float = 5, rounds: int = 3) -> None:
    """How long one connection waits: alone, beside batches of 64, and beside 64 connections. Medians of the rounds."""
    data = samples.load(images, sys.maxsize)
    turns, lines = cycle(data), list[bytes]()

    def batches(*_: object) -> Iterator[Answer]:
        with closing(Connection(url)) as connection:
            while True:
                files = [("file", samples.unique(next(turns))) for _ in range(BATCH)]
                body, headers = request(url, files=files, headers={"Accept": "application/x-ndjson"})
                yield connection.post("/predict/batch", body, headers, lines.append)

    def singly(*_: object) -> Iterator[Answer]:
        with closing(Connection(url)) as connection:
            while True:
                yield connection.post("/predict", samples.unique(next(turns)), RAW, lines.append)

    others = {"alone": (0, singly), "1 batch": (1, batches), "4 batches": (4, batches), "64 singly": (BATCH, singly)}
    rounds_of: dict[str, list[tuple[float, ...]]] = {}
    with suppress(KeyboardInterrupt):
        for name in [*others] * rounds:
            lines.clear()
            with Threads(*others[name]):
                one = load(url, data, 1, seconds)
                others_per_s = sum(b'"predictions"' in line for line in lines) / seconds
            times = one.p50_ms or np.nan, one.p99_ms or np.nan
            rounds_of.setdefault(name, []).append((*times, sum(one.failures.values()), others_per_s))
    medians = {name: np.median(figures, 0).tolist() for name, figures in rounds_of.items()}
    for name, (p50, p99, failures, rate) in medians.items():
        ratio = p50 / medians["alone"][0]
        show(name, p50_ms=p50, p99_ms=p99, p50_to_alone=ratio, failures=failures, others_per_s=rate)


@app.command()
def folder(images: Folder, files: int = 2000, rounds: int = 3) -> None:
    """The rate of `eyespot classify` over many files beside the bound of this machine, and its memory."""
    sources = sorted(path.resolve() for path in images.iterdir() if path.suffix.lower() in samples.SUFFIXES)
    with tempfile.TemporaryDirectory() as place, suppress(KeyboardInterrupt):
        for number in range(files):
            source = sources[number % len(sources)]
            Path(place, f"{number:07}{source.suffix}").symlink_to(source)
        for number in range(rounds):
            bound = machine.run(Task(5, images, only_bound=True)).bound
            rate, memory = classify(place)
            figures = {"bound": bound, "classify": rate, "of_bound": rate / bound}
            show(f"round {number + 1}", **figures, first_MB=memory[0], max_MB=max(memory), last_MB=memory[-1])


def classify(place: str) -> tuple[float, list[float]]:
    """Images a second after the first, and resident memory in MB after the first tenth, which is the start."""
    command = [Path(sys.executable).with_name("eyespot"), "classify", place, "--format", "jsonl"]
    times, memory = list[float](), list[float]()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
        for _ in process.stdout or ():
            times.append(time.monotonic())
            with suppress(OSError):  # it has just ended
                memory.append(resident_mb(process.pid))
    return (len(times) - 1) / (times[-1] - times[0]), memory[len(memory) // 10 :]


@app.command()
def patience(
    url: Url, clients: int = 200, images: int = 5, give_up: float = 120, connections: int = 8, seconds: float = 5
) -> None:
    """Send more than the server can queue, from clients that obey Retry-After.

    Fails unless all images get through within --give-up seconds. Before and after, --connections that fit into the
    queue are measured for comparison.
    """
    sample, begun = export.SAMPLE.read_bytes(), time.perf_counter() + seconds

    def send(_: int, stop: Event) -> Iterator[tuple[str, int, float]]:
        """For each request, its outcome, the number of the attempt and the seconds since the first."""
        with closing(Connection(url)) as connection:
            for _ in range(images):
                body, first = samples.unique(sample), time.perf_counter()
                for attempt in count(1):
                    answer = connection.post("/predict", body)
                    now = time.perf_counter()
                    pause = int(answer.retry_after) if answer.retry_after.isdecimal() else 0
                    refused = answer.outcome in ("503", "429")
                    yield answer.outcome + f" after {pause} s" * refused, attempt, now - first
                    if not (refused and pause) or now + pause > begun + give_up:
                        break
                    connection.close()  # a client that waits takes nothing of the server
                    stop.wait(pause)

    calm = [load(url, [sample], connections, seconds)]
    begun = time.perf_counter()
    with Threads(clients, send) as threads, suppress(KeyboardInterrupt):
        threads.wait()
    taken = time.perf_counter() - begun
    calm.append(load(url, [sample], connections, seconds))
    through = [(attempt, waited) for outcome, attempt, waited in threads.results if outcome == "200"]
    show("requests", **Counter(outcome for outcome, *_ in threads.results))
    show("got through", images=len(through), of=clients * images)
    if through:
        attempts, waits = zip(*through, strict=True)
        show("attempts", median=float(np.median(attempts)), most=max(attempts))
        show("wait, s", median=float(np.median(waits)), longest=max(waits))
        fits = sum(row.images_per_s for row in calm) / len(calm)
        show("images/s", rate=len(through) / taken, of_load_that_fits=len(through) / taken / fits)
    raise typer.Exit(len(through) != clients * images)


SIDES = (100, 160, 240, 333, 500, 500, 640, 800, 1200, 2000, 4000)  # pixels; most images are small
FORMS = {
    "raw": lambda data: {"content": data, "headers": RAW},
    "form": lambda data: {"files": {"file": data}},
    "json": lambda data: {"json": {"image": base64.b64encode(data).decode()}},
}


def mixed_images() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and expected status of images of many sizes, formats and colour spaces, and of broken ones."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    scene = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)  # compresses as a photograph does
    for side in SIDES:
        yield f"jpeg {side}", samples.encode(scene.resize((side, side * 3 // 4))), "200"
    middle = scene.resize((640, 480))
    for kind, mode in (("PNG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")):
        yield f"{kind} {mode}", samples.encode(middle.convert(mode), kind), "200"
    yield "progressive", samples.encode(middle, progressive=True), "200"
    yield "cut off", samples.encode(middle)[:9000], "422"
    yield "text", b"not an image", "415"
    yield "too small", samples.encode(middle.resize((2, 2))), "422"


@app.command()
def soak(url: Url, pid: Pid, requests: int = 200_000, connections: int = 8, max_slope: float = 5) -> None:
    """Send mixed images for long; fails on a wrong answer, or when memory grows by over --max-slope MB in 100,000.

    The first few thousand requests fill buffers, so that a short run shows a slope that a longer one does not.
    """
    images, turns, memory = list(mixed_images()), iter(range(requests)), list[tuple[int, float]]()

    def send(*_: object) -> Iterator[str]:
        with closing(Connection(url)) as connection:
            for turn in turns:  # shared by all connections
                name, data, expected = images[turn % len(images)]
                form = [*FORMS][turn // len(images) % len(FORMS)]
                body, headers = request(url, **FORMS[form](samples.unique(data)))
                outcome = connection.post("/predict", body, headers).outcome
                yield "as expected" if outcome == expected else f"{outcome} for {name} as {form}"

    with Threads(connections, send) as threads, suppress(KeyboardInterrupt, OSError):  # OSError: the server has ended
        while not threads.wait(1):
            memory.append((len(threads.results), resident_mb(pid)))
    show("requests", **Counter(threads.results))
    done, resident = np.array([point for point in memory if point[0] >= len(threads.results) / 10]).T
    slope = error = np.nan
    if len(done) > 2:
        (slope, _), covariance = np.polyfit(done / PER, resident, 1, cov=True)
        error = covariance[0, 0] ** 0.5
    show("memory, MB", start=memory[0][1], at_10_percent=resident[0], end=resident[-1], max=max(resident))
    show("slope", MB_per_100000=slope, standard_error=error)
    raise typer.Exit(set(threads.results) != {"as expected"} or not slope <= max_slope)


if __name__ == "__main__":
    app()
