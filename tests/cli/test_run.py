"""A run over many files."""

from collections.abc import Iterator

import pytest

from eyespot import files
from eyespot.cli.backend import Backend
from eyespot.cli.formats import Finding
from eyespot.cli.output import Output
from eyespot.cli.run import Run
from eyespot.cli.terminal import err
from eyespot.types import ModelInfo

MODEL = ModelInfo("net", "0" * 64, "fake", "f32")


def test_a_run_over_many_files_holds_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are found as the run reaches them, and not kept."""
    taken = written = 0
    most = 0

    def endless(*_: object) -> Iterator[str]:
        nonlocal taken
        for taken in range(20_000):
            yield f"{taken}.jpg"

    class Counted(Output):
        def write(self, _: Finding) -> None:
            nonlocal written, most
            written += 1
            most = max(most, taken - written)

    monkeypatch.setattr(files, "find", endless)
    one = Run(["."], Backend(Finding, MODEL, threads=4), Counted(), err)
    assert one.go() == 0
    assert (written, one.recognised, one.total) == (20_000, 20_000, 20_000)
    assert 0 < most <= 4 * 16
