import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from subprocess import PIPE
from threading import Event

import pytest

from eyespot.bench.measure import Threads, median_ms, resident_mb
from tests import makers
from tests.serving import FakeEngine, fake_classifier


def test_the_rate_is_that_of_all_threads_without_their_first_results() -> None:
    engine = FakeEngine()
    classifier = fake_classifier(engine)
    with Threads(3, lambda number, _: (classifier.scores(makers.jpeg()) for _ in count(number))) as threads:
        rate = threads.rate(0.2)
    assert 0 < rate * 0.2 <= engine.calls - 3


def test_the_rate_leaves_out_first_results_and_those_that_do_not_count() -> None:
    measuring = Event()

    class Watched(Threads):
        def wait(self, seconds: float | None = None) -> bool:
            measuring.set()
            return super().wait(seconds)

    def work(number: int, _: Event) -> Iterator[int]:
        yield 1
        measuring.wait(60)
        yield from (2, 3, 4, 5)

    with Watched(2, work) as threads:
        assert threads.rate(5) == 2 * 4 / 5
        measuring.clear()
    with Watched(2, work) as threads:
        assert threads.rate(5, lambda result: result % 2 == 1) == 2 * 2 / 5


def test_an_iterator_may_be_empty() -> None:
    with Threads(2, lambda *_: iter(())) as threads:
        assert threads.rate(60) == 0
    assert threads.results == []


def test_threads_stop_with_the_context() -> None:
    ended = Event()

    def work(number: int, stop: Event) -> Iterator[int]:
        yield number
        stop.wait(60)
        ended.set()
        yield number

    with Threads(2, work) as threads:
        assert not threads.wait(0.01)
    assert ended.is_set()
    assert sorted(threads.results) == [0, 0, 1, 1]


def test_a_thread_that_fails_says_why_and_at_once() -> None:
    def work(number: int, _: Event) -> Iterator[float]:
        yield 1 / number

    with pytest.raises(ZeroDivisionError), Threads(2, work) as threads:
        threads.rate(600)


def test_a_median_is_of_three_calls_at_least() -> None:
    calls: list[int] = []
    assert median_ms(lambda: calls.append(1), 0) >= 0
    assert len(calls) == 3


def test_memory_of_this_process_and_of_another() -> None:
    assert resident_mb() > 20
    with subprocess.Popen([sys.executable, "-c", "input(1)"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout
        process.stdout.read(1)
        assert resident_mb(process.pid) > 1
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but still known to the system
        with pytest.raises(ProcessLookupError, match=str(process.pid)):
            resident_mb(process.pid)
    with pytest.raises(OSError, match=str(process.pid)):
        resident_mb(process.pid)
