"""What an operator sees: events in a log, metrics, and the trace of a request."""

import json
import logging
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Literal, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from pydantic_core import to_json

from eyespot._version import __version__
from eyespot.errors import REFUSALS

_logger = logging.getLogger("eyespot")

M = TypeVar("M", Counter, Gauge, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter

STEPS = {
    "admit": "key and rate limit",
    "read": "read the body",
    "cache": "look up the answer",
    "queue": "wait for a worker",
    "decode": "decode the image",
    "infer": "run the model",
    "audit": "write the audit row",
    "respond": "render the answer",
}
CacheResult = Literal["hit", "miss", "joined"]

_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COLUMNS = 120  # of a line for people


def event(
    name: str,
    level: int = logging.INFO,
    /,
    *,
    exc_info: BaseException | None = None,
    line: Callable[[int], str] | None = None,
    **facts: object,
) -> None:
    """Log an event: its name in the past tense, and its facts as fields.

    `line`, given a number of columns, is what people read instead of name and facts.
    """
    if _logger.isEnabledFor(level):
        traceback = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info else None
        # Not `_logger.log`, which spends a quarter of its time on the caller's file and line.
        record = logging.LogRecord(_logger.name, level, "", 0, name, None, traceback)
        record.facts, record.line = facts, line
        _logger.handle(record)


def configure_logging(log_format: str, level: str) -> None:
    """Log to standard error: `lines` for people, `json` for programs, `auto` by whether it is a terminal."""
    people = log_format == "lines" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines() if people else _Json())
    _logger.setLevel(level.upper())
    # Unused, and collecting them takes time (Python's logging HOWTO, Optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Libraries log in the same format; from warnings on, since uvicorn's start and stop events repeat ours.
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, _logger.level))
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # oddities of a client's form


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return to_json(line, fallback=str).decode()  # three times as fast as json
        except ValueError:  # a file name that is not UTF-8
            return json.dumps(line, default=str)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S ", time.localtime(record.created))
        if line := getattr(record, "line", None):
            return moment + str(line(_COLUMNS - len(moment)))
        facts = [f"{name}={_value(value)}" for name, value in getattr(record, "facts", {}).items()]
        words = " ".join([f"{record.levelname.lower():7}", record.getMessage(), *facts])
        text = textwrap.fill(
            moment + words,
            _COLUMNS,
            subsequent_indent=" " * len(f"{moment}warning "),
            break_long_words=False,
            break_on_hyphens=False,
        )
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _value(value: object) -> str:
    """A fact as people read it: three significant digits, twelve digits of a digest, quotes around spaces."""
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    if len(text) == 64 and text.isalnum():
        return text[:12]
    return f'"{text}"' if " " in text else text


@lru_cache(maxsize=1000)
def child(metric: M, *labels: object) -> M:
    """`metric.labels(…)`, cached: the lookup takes longer than counting."""
    return metric.labels(*labels)


class Metrics:
    """The metrics of one server, in a registry of its own: two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=_SECONDS)
        self.request_duration = histogram(
            "eyespot_request_duration_seconds",
            "Time from the head of a request to the end of its response.",
            ["route", "method", "status"],
        )
        self.step_duration = histogram("eyespot_step_duration_seconds", "Time in one step of a recognition.", ["step"])
        self.queue_depth = gauge("eyespot_queue_depth", "Images waiting for a worker.")
        self.queue_capacity = gauge("eyespot_queue_capacity", "Images that may wait for a worker, batches not counted.")
        self.workers_busy = gauge("eyespot_workers_busy", "Worker threads that are busy.")
        self.workers = gauge("eyespot_workers", "Worker threads.")
        self.refusals = counter("eyespot_refusals", "Requests and batch images refused, by problem code.", ["code"])
        self.images_cancelled = counter(
            "eyespot_images_cancelled", "Images dropped from the queue because the deadline passed or the client left."
        )
        self.cache_requests = counter(
            "eyespot_cache_requests",
            "Recognitions answered from the cache, computed, or joined to the same image in progress.",
            ["result"],
        )
        self.cache_errors = counter("eyespot_cache_errors", "Cache operations that failed.")
        self.audit_rows = counter("eyespot_audit_rows", "Audit rows, written or lost.", ["result"])
        self.uploads_not_kept = counter("eyespot_uploads_not_kept", "Uploads that the disk did not take in time.")
        self.model_info = gauge(
            "eyespot_model_info", "The model that answers. Always 1.", ["name", "digest", "engine", "precision"]
        )
        self.build_info = gauge("eyespot_build_info", "The versions that run. Always 1.", ["version", "python"])
        self.build_info.labels(__version__, platform.python_version()).set(1)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create every series now: `rate()` does not see the event that creates one."""
        for metric, values in (
            (self.step_duration, STEPS),
            (self.refusals, REFUSALS),
            (self.cache_requests, get_args(CacheResult)),
            (self.audit_rows, ("written", "lost")),
        ):
            for value in values:
                metric.labels(value)

    def observe_steps(self, steps: Mapping[str, float]) -> None:
        """Observe the seconds of each step of one image."""
        for step, seconds in steps.items():
            child(self.step_duration, step).observe(seconds)


@dataclass(slots=True)
class Trace:
    """One request: its id, its client, and the seconds of each step. Each image of a batch has a trace of its own."""

    request_id: str
    address: str | None = None  # of the client
    key: str | None = None  # name of the API key
    started: float = field(default_factory=time.monotonic)  # when the request arrived
    steps: dict[str, float] = field(default_factory=dict)
    cache: CacheResult | None = None  # None while no image was looked up
    code: str | None = None  # of the problem of an image in a batch
    mark: float = field(default_factory=time.monotonic)  # end of the last step
    # The steps in order, with begin and end, for spans; `steps` is their sum, which headers and log read several times.
    laps: list[tuple[str, float, float]] = field(default_factory=list)
    images: dict[int, "Trace"] = field(default_factory=dict)  # of a batch, by index
    traceparent: str | None = None  # W3C Trace Context: the client's, or that of our span

    def lap(self, step: str, *, until: float | None = None, seconds: float | None = None) -> None:
        """End a step now, at `until` (of time.monotonic), or after `seconds`; the next step begins there.

        A step that ends more than once has the sum.
        """
        end = self.mark + seconds if seconds is not None else max(self.mark, until or time.monotonic())
        self.steps[step] = self.steps.get(step, 0) + end - self.mark
        self.laps.append((step, self.mark, end))
        self.mark = end

    def skip(self) -> None:
        """Begin the next step now: what has passed belongs to traces of images."""
        self.mark = time.monotonic()

    def image(self, index: int) -> "Trace":
        """A trace for an image of this batch."""
        self.images[index] = image = Trace(self.request_id, self.address, self.key, self.started)
        return image

    def milliseconds(self) -> dict[str, float]:
        """The steps so far, in milliseconds."""
        return {step: round(seconds * 1000, 1) for step, seconds in self.steps.items()}
