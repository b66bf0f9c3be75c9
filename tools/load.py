"""Load tests of a server and of `eyespot classify`. Ctrl-C ends one with the figures so far."""

import base64
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from threading import Event
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from PIL import Image

from eyespot.bench import machine, samples
from eyespot.bench.figures import LoadFigures, Task, this_machine
from eyespot.bench.measure import Threads, resident_mb
from eyespot.bench.report import draw_bars, text
from eyespot.bench.server import RAW, Answer, Connection, load, medians
from eyespot.choices import SUFFIXES
from eyespot.client import Client
from eyespot.vision import export

app = typer.Typer(help=__doc__, add_completion=False)
Url = Annotated[Any, typer.Option(parser=lambda url: Client(url).url, help="Address of the server.")]
Pid = Annotated[int, typer.Option(help="Process id of the server.")]
Images = Annotated[Path, typer.Option(help="Folder of images.")]


def show(title: str, **figures: Any) -> None:
    print(f"{title:<12}", ", ".join(f"{name} {text(figure)}" for name, figure in figures.items()), flush=True)


def post(connection: Connection, url: httpx.URL, path: str, **content: Any) -> Answer:
    """Send what httpx encodes from `files`, `json` or `content`."""
    request = httpx.Request("POST", url, **content)
    return connection.post(path, request.read(), dict(request.headers))


def send_form(connection: Connection, image: bytes) -> Answer:
    """Send an image as the file of a form."""
    head = b'--part\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=part"}
    return connection.post("/predict", head + image + b"\r\n--part--\r\n", headers)


@app.command()
def fairness(url: Url, images: Images | None = None, seconds: float = 5, rounds: int = 3) -> None:
    """How long one connection waits for an image: alone, beside batches of 64, and beside 64 connections."""
    turns = cycle(data := samples.load(images, sys.maxsize))

    def batches(*_: object) -> Iterator[Answer]:
        with closing(Connection(url)) as connection:
            while True:
                files = [("file", samples.unique(next(turns))) for _ in range(64)]
                yield post(connection, url, "/predict/batch", files=files)

    def singly(*_: object) -> Iterator[LoadFigures]:
        yield load(url, data, 64, seconds)

    others = {"alone": (0, batches), "1 batch": (1, batches), "4 batches": (4, batches), "64 singly": (1, singly)}
    rows: dict[str, list[LoadFigures]] = {name: [] for name in others}
    with suppress(KeyboardInterrupt):
        for name in [*others] * rounds:
            with Threads(*others[name]):
                rows[name].append(load(url, data, 1, seconds))
    for name in filter(rows.get, rows):
        figures = medians(rows[name])
        ratio = figures.p50_ms / medians(rows["alone"]).p50_ms
        show(name, p50_ms=figures.p50_ms, p99_ms=figures.p99_ms, p50_to_alone=ratio, failures=figures.failures)


@app.command()
def explain(url: Url, images: Images | None = None, requests: int = 300) -> None:
    """How long an explanation takes, as numbers and as a PNG, beside a recognition of the same image just before."""
    ways = {"predict": ("predict", "*/*"), "numbers": ("explain", "application/json"), "png": ("explain", "image/png")}
    answers = {name: list[Answer]() for name in ways}
    with closing(Connection(url)) as connection, suppress(KeyboardInterrupt):
        for image in islice(cycle(samples.load(images, sys.maxsize)), requests):
            for name, (path, accept) in ways.items():
                data, headers = samples.unique(image), {**RAW, "Accept": accept}
                answers[name].append(connection.post(f"/{path}", data, headers))
    p50 = {name: median(answer.milliseconds for answer in found) for name, found in answers.items() if found}
    for name, milliseconds in p50.items():
        failures = Counter(answer.outcome for answer in answers[name] if answer.outcome != "200")
        show(name, p50_ms=milliseconds, to_predict=milliseconds / (p50["predict"] or np.nan), failures=failures)


@app.command()
def folder(images: Images, files: int = 2000, seconds: float = 5, rounds: int = 3) -> None:
    """The rate of `eyespot classify` over many files beside the bound of this machine, and its memory."""
    sources = sorted(path.resolve() for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory() as place, suppress(KeyboardInterrupt):
        for number in range(files):
            source = sources[number % len(sources)]
            Path(place, f"{number:07}{source.suffix}").symlink_to(source)
        for number in range(rounds):
            bound = machine.run(Task(seconds, images, only_bound=True)).bound
            times, memory = list[float](), list[float]()
            command = [str(Path(sys.executable).with_name("eyespot")), "classify", place, "--format", "jsonl"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
                for _ in process.stdout or ():
                    times.append(time.monotonic())
                    with suppress(OSError):  # it has just ended
                        memory.append(resident_mb(process.pid))
            rate = (len(times) - 1) / (times[-1] - times[0])  # without the start
            show(f"round {number + 1}", bound=bound, classify=rate, of_bound=rate / bound, memory_mb=max(memory))


@app.command()
def patience(
    url: Url, clients: int = 200, images: int = 5, give_up: float = 120, connections: int = 8, seconds: float = 5
) -> None:
    """Send more than the server can queue, from clients that obey Retry-After.

    Fails unless all images get through within --give-up seconds. Compares the rate with a load that fits the queue.
    """
    sample = export.SAMPLE.read_bytes()

    def send(_: int, stop: Event) -> Iterator[tuple[str, float]]:
        """The outcome of each request, and the seconds since the first for the same image."""
        with closing(Connection(url)) as connection:
            for _ in range(images):
                body, first, pause = samples.unique(sample), time.perf_counter(), 1
                while pause and time.perf_counter() < begun + give_up:
                    answer = connection.post("/predict", body)
                    refused = answer.outcome in ("503", "429")
                    pause = int(answer.retry_after) if refused and answer.retry_after.isdecimal() else 0
                    yield answer.outcome + f" Retry-After {answer.retry_after!r}" * refused, time.perf_counter() - first
                    if pause:
                        connection.close()  # a client that waits takes nothing of the server
                        stop.wait(pause)

    calm = load(url, [sample], connections, seconds)
    begun = time.perf_counter()
    with Threads(clients, send) as threads, suppress(KeyboardInterrupt):
        threads.wait()
    taken = time.perf_counter() - begun
    calm = medians([calm, load(url, [sample], connections, seconds)])
    waits = [waited for outcome, waited in threads.results if outcome == "200"]
    show("requests", outcomes=Counter(outcome for outcome, _ in threads.results))
    show("got through", images=len(waits), of=clients * images, longest_wait_s=max(waits, default=None))
    show("images/s", rate=len(waits) / taken, of_load_that_fits=len(waits) / taken / (calm.images_per_s or np.nan))
    raise typer.Exit(len(waits) != clients * images)


@app.command()
def compare(
    servers: Annotated[list[str], typer.Argument(metavar="NAME=URL...")],
    images: Images,
    connections: int = 8,
    seconds: float = 5,
    rounds: int = 3,
    plot: Annotated[Path | None, typer.Option(help="Draw the rates into this PNG file.")] = None,
) -> None:
    """Images per second of several running servers, loaded in turn; each answers a form's file at /predict.

    Each server's rate is also given as a multiple of the first one's in the same round.
    """
    urls = {name: Client(url).url for name, _, url in (server.rpartition("=") for server in servers)}
    data, rows = samples.load(images, sys.maxsize), {name: list[LoadFigures]() for name in urls}
    with suppress(KeyboardInterrupt):
        for name in [*urls] * rounds:
            rows[name].append(load(urls[name], data, connections, seconds, send_form))
    first = [row.images_per_s for row in rows[next(iter(urls))]]
    for name in filter(rows.get, rows):
        figures = medians(rows[name])
        ratio = median(row.images_per_s / (other or np.nan) for row, other in zip(rows[name], first, strict=False))
        show(
            name,
            images_per_s=figures.images_per_s,
            times_the_first=ratio,
            p50_ms=figures.p50_ms,
            p99_ms=figures.p99_ms,
            failures=figures.failures,
        )
    if plot:
        bars = {name: (medians(found).images_per_s, "") for name, found in rows.items() if found}
        draw_bars(f"Images per second at {connections} connections", bars, this_machine(), plot, "eyespot")


FORMS = {
    "raw": lambda data: {"content": data, "headers": RAW},
    "form": lambda data: {"files": {"file": data}},
    "json": lambda data: {"json": {"image": base64.b64encode(data).decode()}},
}


def mixed_images() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and expected status of images of many sizes, formats and colour spaces, and of broken ones."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    scene = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)  # compresses as a photograph does
    for side in (100, 160, 240, 333, 500, 500, 640, 800, 1200, 2000, 4000):  # pixels; most images are small
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
    images, turns, memory = list(mixed_images()), iter(range(requests)), [(0, resident_mb(pid))]

    def send(*_: object) -> Iterator[str]:
        with closing(Connection(url)) as connection:
            for turn in turns:  # shared by all connections
                name, data, expected = images[turn % len(images)]
                form, content = [*FORMS.items()][turn // len(images) % len(FORMS)]
                outcome = post(connection, url, "/predict", **content(samples.unique(data))).outcome
                yield "as expected" if outcome == expected else f"{outcome} for {name} as {form}"

    with Threads(connections, send) as threads, suppress(KeyboardInterrupt):
        while not threads.wait(1):
            try:
                memory.append((len(threads.results), resident_mb(pid)))
            except OSError:
                threads.results.append(f"no process {pid}")
                break
    show("requests", outcomes=Counter(threads.results))
    done, resident = np.array([point for point in memory if point[0] >= len(threads.results) / 10] or memory).T
    slope = error = np.nan
    if len(done) > 2:
        (slope, _), covariance = np.polyfit(done / 100_000, resident, 1, cov=True)
        error = covariance[0, 0] ** 0.5
    show("memory, MB", start=memory[0][1], at_10_percent=resident[0], end=resident[-1], max=max(resident))
    show("slope", mb_per_100000=slope, standard_error=error)
    raise typer.Exit(set(threads.results) != {"as expected"} or not slope <= max_slope)


if __name__ == "__main__":
    app()
