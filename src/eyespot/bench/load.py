"""Requests over many connections at once, each with one request after the other."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import count
from typing import NamedTuple

_ANOTHER_IMAGE = count()


class Answer(NamedTuple):
    """One request's end: `outcome` is the status, or the name of the exception."""

    outcome: str
    milliseconds: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Burst:
    """What came back: all answers, and how many images a second were recognised until the end."""

    answers: list[Answer]
    images_per_second: float

    @property
    def milliseconds(self) -> list[float]:
        """Of each answer with 200."""
        return [answer.milliseconds for answer in self.answers if answer.outcome == "200"]

    @property
    def failures(self) -> Counter[str]:
        """How often there was which other outcome."""
        return Counter(answer.outcome for answer in self.answers if answer.outcome != "200")

    @property
    def cached(self) -> int:
        """How many answers were remembered rather than computed."""
        return sum(answer.cached for answer in self.answers)


def load(
    connect: Callable[[], HTTPConnection], path: str, images: list[bytes], connections: int, seconds: float
) -> Burst:
    """Post images for that long; what is answered after the end counts as answered, and not for the rate.

    Threads and the standard library's client, since the server may share the processor: a request takes 0.4 ms of it.
    """
    answers: list[Answer] = []
    begin, stop = threading.Barrier(connections + 1), threading.Event()

    def keep_asking(number: int) -> None:
        connection, bodies = connect(), _bodies(images, number, connections)
        begin.wait()
        while not stop.is_set():
            answer = ask(connection, f"{path}/predict", next(bodies))
            answers.append(answer)
            if not answer.outcome.isdigit():
                stop.wait(0.05)  # a server that is gone needs no thousands of attempts
        connection.close()

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    begin.wait()
    try:
        time.sleep(seconds)
        recognised = sum(answer.outcome == "200" for answer in answers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return Burst(answers, recognised / seconds)


def _bodies(images: list[bytes], number: int, connections: int) -> Iterator[bytes]:
    """Images for one of the connections, each with a number after its end, so that no cache knows it."""
    for turn in count(number, connections):
        yield images[turn % len(images)] + next(_ANOTHER_IMAGE).to_bytes(8)


def ask(connection: HTTPConnection, path: str, body: bytes, content_type: str = "application/octet-stream") -> Answer:
    """One request and its answer; a connection that failed is opened anew by the next one."""
    started = time.perf_counter()
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, HTTPException) as error:
        connection.close()
        return Answer(type(error).__name__, 0)
    milliseconds = (time.perf_counter() - started) * 1000
    return Answer(str(answer.status), milliseconds, b'"cached":true' in content)


def percentile(sample: list[float], percent: float) -> float:
    """The smallest value that is not below that share of the sample (nearest rank)."""
    return sorted(sample)[max(0, math.ceil(len(sample) * percent / 100) - 1)]
