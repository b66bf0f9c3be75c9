import http.server
import math
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from eyespot.bench import server
from eyespot.bench.figures import LoadFigures, Report, Task
from eyespot.errors import EngineUnavailable, EyespotError, NoAnswer
from tests import makers
from tests.bench import fakes
from tests.bench.fakes import handler
from tests.serving import FakeEngine, serve_fake, serve_files


def measured(url: str, folder: Path, connections: int = 1, rounds: int = 1, **options: object) -> Report:
    report = Report(0.1, url, rounds)
    options = {"run": fakes.figures, **options}
    list(server.measure(report, fakes.settings(folder), Task(0.1), [connections], **options))  # type: ignore[arg-type]
    return report


def predicting(predict: Callable[[bytes], int]) -> type[fakes.Answers]:
    return handler(predict=staticmethod(predict))


def test_each_rate_is_divided_by_the_bound_just_before_it(tmp_path: Path) -> None:
    bounds, tasks = iter([1, 100, 200, 400]), list[Task]()  # the first only shows that there is a bound
    with serve_files(fakes.Answers) as url:
        report = measured(url, tmp_path, 1, 3, run=lambda task: tasks.append(task) or fakes.figures(task, next(bounds)))
    assert report.bound == 150
    assert {(task.model, task.engine, task.precision, task.only_bound) for task in tasks} == {
        ("net", "openvino", "f32", True)
    }
    (row,) = report.loads
    assert row.images_per_s / 400 <= row.of_bound <= row.images_per_s / 100


def test_figures_of_several_rounds_are_medians() -> None:
    rounds = [LoadFigures(1, 50, 1, 4, {}, 0.5), LoadFigures(1, 120, 2, 5, {"503": 1}, 0.6)]
    rounds.append(LoadFigures(1, 50, 3, 6, {"503": 2, "500": 1}, 0.125))
    assert server.medians(rounds) == LoadFigures(1, 50, 2, 5, {"503": 3, "500": 1}, 0.5)


def test_without_the_model_there_are_rates_without_a_fraction(tmp_path: Path) -> None:
    with serve_fake(FakeEngine()) as served:
        report = measured(served.url, tmp_path)
    assert "'fake'" in report.skipped["bound"]
    (row,) = report.loads
    assert row.images_per_s > 0
    assert math.isnan(row.of_bound)
    assert (row.connections, row.failures, report.bound) == (1, {}, None)


def test_a_model_of_the_same_name_with_other_weights_is_no_bound(tmp_path: Path) -> None:
    with serve_files(handler(model={**fakes.MODEL, "digest": "0" * 64})) as url:
        assert "other weights of net" in measured(url, tmp_path).skipped["bound"]


def test_an_engine_that_is_not_here_is_no_bound(tmp_path: Path) -> None:
    def run(_: Task) -> object:
        raise EngineUnavailable("not installed")

    with serve_files(fakes.Answers) as url:
        report = measured(url, tmp_path, run=run)
    assert report.skipped == {"bound": "not installed"}
    assert report.loads


def test_failures_are_counted_by_status(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def predict(body: bytes) -> int:
        asked.append(body)
        return 200 if len(asked) % 2 else 503

    with serve_files(predicting(predict)) as url:
        report = measured(url, tmp_path)
    (row,) = report.loads
    assert row.failures == {"503": len(asked) // 2}
    assert row.images_per_s <= (len(asked) - 1) / 2 / 0.1


def test_answers_from_a_cache_are_failures(tmp_path: Path) -> None:
    with serve_files(handler(cached=True)) as url:
        (row,) = measured(url, tmp_path).loads
    assert list(row.failures) == ["200 cached"]
    assert row.images_per_s == 0


def test_a_server_that_hangs_up_is_counted_by_exception(tmp_path: Path) -> None:
    calls: list[bytes] = []

    def predict(body: bytes) -> int:
        calls.append(body)
        if len(calls) > 1:
            raise ConnectionAbortedError
        return 200

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.server, "ThreadingHTTPServer", Quiet)
        with serve_files(predicting(predict)) as url:
            (row,) = measured(url, tmp_path, 2).loads
    assert row.failures == {"RemoteDisconnected": len(calls) - 1}
    assert row.images_per_s == 0
    assert math.isnan(row.p50_ms)


def test_no_image_is_sent_twice_so_that_no_cache_can_answer(tmp_path: Path) -> None:
    (tmp_path / "only.jpg").write_bytes(makers.jpeg())
    asked: list[bytes] = []
    with serve_files(predicting(lambda body: asked.append(body) or 200)) as url:
        list(server.measure(Report(0.1, url), fakes.settings(tmp_path), Task(0.1, tmp_path), [2], fakes.figures))
    assert len(asked) >= 3  # one to begin with, and one of each connection
    assert len(set(asked)) == len(asked)


def test_percentiles_are_of_answers_with_200() -> None:
    turns = iter(range(1000))
    with serve_files(predicting(lambda _: 200 if next(turns) % 2 else 500)) as url:
        row = server.load(httpx.URL(url), [b"image"], 2, 0.1)
    assert 0 < row.p50_ms <= row.p99_ms
    assert set(row.failures) == {"500"}


@pytest.mark.parametrize(
    ("url", "told"),
    [("ftp://localhost", "http://"), ("http://127.0.0.1:9", "No eyespot answers at http://127.0.0.1:9")],
)
def test_an_address_without_a_server(tmp_path: Path, url: str, told: str) -> None:
    with pytest.raises(EyespotError, match=told):
        measured(url, tmp_path)


def test_a_server_that_is_not_ready_is_not_loaded(tmp_path: Path) -> None:
    with serve_files(handler(ready=503)) as url, pytest.raises(NoAnswer, match="is not ready"):
        measured(url, tmp_path)
