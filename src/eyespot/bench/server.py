"""A running server under load, beside what this machine could do at most."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

from pydantic import Field

from eyespot.bench import machine, samples
from eyespot.bench.figures import Setup
from eyespot.bench.host import Host
from eyespot.bench.load import Burst, load, percentile
from eyespot.bench.machine import Progress, Run
from eyespot.bench.target import Target, find
from eyespot.errors import StartError
from eyespot.types import ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """So many connections, each with one request after the other; medians of the rounds."""

    connections: int
    images_per_second: Annotated[float, Field(description="Answers with 200.")]
    p50_ms: float | None
    p99_ms: float | None
    failures: Annotated[dict[str, int], Field(description="All other answers and exceptions, of all rounds.")]
    cached: Annotated[int, Field(description="Answers that the server remembered rather than computed.")]
    of_bound: Annotated[float | None, Field(description="Median of each round's rate over the bound just before.")]


@dataclass(slots=True)
class ServerReport:
    """What a running server answered."""

    host: Host
    url: str
    model: ModelInfo
    images: Annotated[int, Field(description="Different images that were sent.")]
    seconds: Annotated[float, Field(description="Of each measurement.")]
    rounds: int
    bound: Annotated[float | None, Field(description="Images a second; of this machine, not of the server's.")] = None
    no_bound: Annotated[str | None, Field(description="Why there is no bound.")] = None
    loads: list[LoadFigures] = field(default_factory=list)
    interrupted: bool = False

    @property
    def measured(self) -> bool:
        """Whether the server recognised anything."""
        return any(row.images_per_second for row in self.loads)


def numbers(connections: str) -> list[int]:
    """`1,8,32` as numbers; raises `StartError` when it is anything else."""
    parts = connections.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= 1000 for part in parts):
        raise StartError(f"--connections {connections}: numbers from 1 to 1000 are needed, separated by commas")
    return [int(part) for part in parts]


def bench(
    url: str,
    setup: Setup,
    connections: list[int],
    rounds: int,
    *,
    run: Run = machine.run,
    progress: Progress = lambda *_: None,
) -> ServerReport:
    """Load the server at that address, and find the bound of this machine in turn.

    Raises:
        StartError: there is no server, or it is not ready, or there is no image to send.
    """
    target, model = find(url)
    images = samples.load(setup.images, setup.max_bytes)
    report = ServerReport(Host.here(), str(target), model, len(images), setup.seconds, rounds)
    possible = None
    try:
        possible = machine.bound(setup, model, run=run)
    except StartError as error:
        report.no_bound = str(error)
    measure(report, target, images, connections, possible, progress)
    return report


def measure(
    report: ServerReport,
    target: Target,
    images: list[bytes],
    connections: list[int],
    bound: Callable[[], float] | None,
    progress: Progress = lambda *_: None,
) -> None:
    """Fill the report: the bound while the server is idle, then load, in turn, `report.rounds` times.

    Machines are noisy, so what is divided was measured one right after the other. After Ctrl-C the report has what
    had been measured by then.
    """
    target.ask("/predict", images[0])  # warm-up
    bursts: dict[int, list[tuple[Burst, float | None]]] = {number: [] for number in connections}
    plan = [(turn, number) for turn in range(report.rounds) for number in bursts]
    try:
        for done, (turn, number) in enumerate(plan):
            progress(f"round {turn + 1}: the bound", done, len(plan))
            possible = bound() if bound else None
            progress(f"round {turn + 1}: {number} connections", done, len(plan))
            bursts[number].append((load(target.connect, target.path, images, number, report.seconds), possible))
        progress("done", len(plan), len(plan))
    except KeyboardInterrupt:
        report.interrupted = True
    bounds = [possible for rounds in bursts.values() for _, possible in rounds if possible]
    report.bound = median(bounds) if bounds else None
    report.loads = [figures(number, rounds) for number, rounds in bursts.items() if rounds]


def figures(connections: int, rounds: list[tuple[Burst, float | None]]) -> LoadFigures:
    """Rounds as (what was answered, the bound just before) made into one row."""
    answered = [burst.milliseconds for burst, _ in rounds if burst.milliseconds]
    fractions = [burst.images_per_second / possible for burst, possible in rounds if possible]
    return LoadFigures(
        connections,
        images_per_second=median(burst.images_per_second for burst, _ in rounds),
        p50_ms=median(percentile(sample, 50) for sample in answered) if answered else None,
        p99_ms=median(percentile(sample, 99) for sample in answered) if answered else None,
        failures=dict(sum((burst.failures for burst, _ in rounds), Counter[str]())),
        cached=sum(burst.cached for burst, _ in rounds),
        of_bound=median(fractions) if fractions else None,
    )
