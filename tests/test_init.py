"""What `from eyespot import …` offers."""

import pytest

import eyespot
from eyespot import errors


@pytest.mark.parametrize("name", eyespot.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(eyespot, name)


def test_dir_shows_these_names() -> None:
    assert dir(eyespot) == sorted(eyespot.__all__)


def test_all_errors_that_a_client_raises_are_there() -> None:
    raised = {errors.EyespotError, errors.Refusal, errors.NoAnswer, *errors.REFUSALS.values()}
    raised.update(errors.NoAnswer.__subclasses__())
    assert {kind.__name__ for kind in raised} <= set(eyespot.__all__)
    assert all(getattr(eyespot, kind.__name__) is kind for kind in raised)


def test_another_name_is_an_attribute_error() -> None:
    assert not hasattr(eyespot, "Clint")
    assert not hasattr(eyespot, "StartError")  # no client raises it
