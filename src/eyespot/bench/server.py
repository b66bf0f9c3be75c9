"""The figures of a running server, beside what this machine could do at most."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import cycle, islice
from statistics import median
from typing import NamedTuple

import httpx
import numpy as np

from eyespot.bench import machine, samples
from eyespot.bench.figures import LoadFigures, Report, Task
from eyespot.bench.measure import Threads
from eyespot.client import Client
from eyespot.errors import ServerUnavailable, StartError, UnknownModel
from eyespot.settings import Settings
from eyespot.vision import weights

RAW = {"Content-Type": "application/octet-stream"}


class Answer(NamedTuple):
    """`outcome` is the status, `200 cached` or the name of the exception."""

    outcome: str
    milliseconds: float = 0
    retry_after: str = ""


class Connection:
    """A kept-alive connection; http.client takes the least time of the processor that the server may share."""

    def __init__(self, url: httpx.URL) -> None:
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        self._http = kind(url.host, url.port, timeout=60)
        self._path = url.path.rstrip("/")
        self.close = self._http.close

    def post(self, path: str, body: bytes, headers: dict[str, str] = RAW) -> Answer:
        """Send one request and read its answer."""
        started = time.perf_counter()
        try:
            self._http.request("POST", self._path + path, body, headers)
            response = self._http.getresponse()
            outcome = f"{response.status}" + " cached" * (b'"cached":true' in response.read())
        except (OSError, HTTPException) as error:
            self.close()
            time.sleep(0.05)  # a server that is gone needs no thousands of attempts
            return Answer(type(error).__name__)
        milliseconds = (time.perf_counter() - started) * 1000
        return Answer(outcome, milliseconds, response.headers.get("Retry-After", ""))


def send(connection: Connection, image: bytes) -> Answer:
    """Send an image as the body."""
    return connection.post("/predict", image)


def load(
    url: httpx.URL,
    images: list[bytes],
    connections: int,
    seconds: float,
    send: Callable[[Connection, bytes], Answer] = send,
) -> LoadFigures:
    """Send images, each made unique, over that many connections for that long."""

    def send_all(number: int, _: object) -> Iterator[Answer]:
        with closing(Connection(url)) as connection:
            for image in islice(cycle(images), number, None, connections):
                yield send(connection, samples.unique(image))

    with Threads(connections, send_all) as threads:
        rate = threads.rate(seconds, lambda answer: answer.outcome == "200")
    times = [answer.milliseconds for answer in threads.results if answer.outcome == "200"] or [np.nan]
    p50, p99 = np.percentile(times, (50, 99), method="inverted_cdf").tolist()
    failures = Counter(answer.outcome for answer in threads.results if answer.outcome != "200")
    return LoadFigures(connections, rate, p50, p99, dict(failures))


def measure(
    report: Report, config: Settings, task: Task, connections: Sequence[int], run: machine.Run = machine.run
) -> Iterator[str]:
    """Fill the report of `report.url`. Yields the name of each step before it is taken.

    In each round and for each number of connections, the bound of this machine comes first and then the server:
    machines are noisy, so each ratio is of two measurements made one right after the other.

    Raises `EyespotError` if the server is not ready or refuses an image, or there are no images.
    """
    images = samples.load(task.images, config.max_bytes)
    with Client(report.url, retry_seconds=0) as client:
        if not client.health().ready:
            raise ServerUnavailable(f"{client.url} is not ready")
        model = client.predict(images[0]).model
    report.url, report.model, report.digest, report.images = str(client.url), model.name, model.digest, len(images)
    task = replace(task, model=model.name, engine=model.engine, precision=model.precision, only_bound=True)
    bounds, rows = list[float](), dict[int, list[LoadFigures]]()
    try:
        entries = weights.read_manifest(config.manifest, config.data_dir)
        entry = weights.verify(weights.choose(entries, model.name))
        if entry.sha256 != model.digest:
            raise UnknownModel(f"the server has other weights of {model.name} than {config.manifest}")
        bounds.append(run(task).bound)
    except StartError as error:
        report.skipped["bound"] = str(error)
    for number in [*connections] * report.rounds:
        yield f"{number} connections"
        bounds += [run(task).bound] if bounds else []
        row = load(client.url, images, number, task.seconds)
        row = replace(row, of_bound=row.images_per_s / bounds[-1]) if bounds else row
        rows.setdefault(number, []).append(row)
        report.bound = median(bounds) if bounds else None
        report.loads = [medians(some) for some in rows.values()]


def medians(rows: Sequence[LoadFigures]) -> LoadFigures:
    """One row from those of all rounds, with all their failures."""
    figures = [(row.images_per_s, row.p50_ms, row.p99_ms, row.of_bound) for row in rows]
    rate, p50, p99, of_bound = np.median(figures, axis=0).tolist()
    failures = sum((Counter(row.failures) for row in rows), Counter[str]())
    return LoadFigures(rows[0].connections, rate, p50, p99, dict(failures), of_bound)
