"""`in_order`: several at once, in order, in bounded memory."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from eyespot.ordered import in_order
from tests.serving import until


def counted(taken: list[int], end: int | None = None) -> Iterator[int]:
    for number in itertools.count() if end is None else range(end):
        taken.append(number)
        yield number


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("eyespot-ordered")]


def test_answers_come_in_the_order_of_the_items() -> None:
    last = threading.Event()

    def work(number: int) -> int:
        assert last.wait(30) if number < 3 else True
        if number == 3:
            last.set()
        return number * number

    assert [(item, future.result()) for item, future in in_order(work, range(8), 4, 8)] == [
        (number, number * number) for number in range(8)
    ]


def test_all_threads_work_and_no_more() -> None:
    together = threading.Barrier(3)  # a fourth thread would break it, and two would wait for ever

    def work(_: int) -> int:
        together.wait(30)
        return threading.get_ident()

    assert len({future.result() for _, future in in_order(work, range(9), 3, 6)}) == 3


def test_at_most_ahead_items_of_an_endless_input_are_taken() -> None:
    go, taken, at_work = threading.Event(), list[int](), threading.Semaphore(0)

    def work(_: int) -> None:
        at_work.release()
        go.wait(30)

    answers = in_order(work, counted(taken), 2, ahead=5)
    next(answers)
    assert at_work.acquire(timeout=30)
    assert taken == [0, 1, 2, 3, 4]
    next(answers)
    assert taken == [0, 1, 2, 3, 4, 5]
    go.set()
    answers.close()


def test_a_finished_item_is_yielded_before_the_next_is_taken() -> None:
    taken: list[int] = []
    done: set[int] = set()

    def items() -> Iterator[int]:
        for number in counted(taken):
            until(lambda: len(done) == len(taken) - 1)
            yield number

    answers = in_order(done.add, items(), 1, ahead=1000)
    until(lambda: next(answers)[0] > 10)
    assert len(taken) < 1000
    answers.close()


def test_an_exception_stays_in_its_future() -> None:
    answers = [future for _, future in in_order(lambda number: 6 // number, [1, 0, 2], 2, 4)]
    assert [answers[0].result(), answers[2].result()] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        answers[1].result()


def test_an_exception_of_the_input_leaves_no_thread() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="the folder is gone"):
        list(in_order(abs, items(), 2, 4))
    until(lambda: not ours())


def test_closing_drops_what_has_not_begun_and_waits_for_nothing() -> None:
    go, begun = threading.Event(), list[int]()
    first = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        first.set()
        go.wait(30)

    answers = in_order(work, itertools.count(), 1, ahead=4)
    _, future = next(answers)
    assert first.wait(30)
    answers.close()  # while the only thread is held
    assert not future.done()
    go.set()
    until(lambda: not ours())
    assert begun == [0]


def test_nothing_is_taken_before_the_first_next() -> None:
    taken: list[int] = []
    in_order(abs, counted(taken), 2, 4)
    assert taken == []


def test_no_items_yield_nothing() -> None:
    assert list(in_order(abs, [], 2, 4)) == []
