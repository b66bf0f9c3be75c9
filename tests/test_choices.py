"""Both tables: each row is complete, and everything that it names exists."""

import re
from pkgutil import resolve_name

import pytest
from PIL.ImageFile import ImageFile

from eyespot.choices import ENGINES, FORMATS, ImageFormat, titles
from eyespot.vision.preprocess import announced_format, preprocess
from tests import makers
from tests.serving import RECIPE, ROOT


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_a_decoder_and_a_signature_of_its_own(name: str) -> None:
    assert issubclass(resolve_name(FORMATS[name].decoder), ImageFile)
    assert announced_format(makers.encode(makers.flat(), name.upper())) == name


@pytest.mark.parametrize("name", ENGINES)
def test_the_class_and_the_exporter_of_an_engine_exist(name: str) -> None:
    choice = ENGINES[name]
    for path in filter(None, (choice.engine, choice.exporter)):
        assert callable(resolve_name(path))
    assert (choice.exporter is None) == (not choice.files)


def test_every_extra_that_an_engine_needs_can_be_installed() -> None:
    extras = re.findall(r"^(\w+) = \[$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {choice.extra for choice in ENGINES.values()} - {None} <= set(extras)


def test_titles_are_listed_as_in_a_sentence() -> None:
    assert titles() == "JPEG, PNG or WebP"
    assert (titles(["png", "jpeg"]), titles(["webp"])) == ("PNG or JPEG", "WebP")


def test_one_more_format_of_pillow_is_one_more_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ImageFormat("gif", "GIF", rb"GIF8[79]a", (".gif",), "image/gif", "PIL.GifImagePlugin:GifImageFile")
    monkeypatch.setitem(FORMATS, "gif", row)
    found = preprocess(makers.encode(makers.photograph(), "GIF"), RECIPE, formats=FORMATS)
    assert (found.format, found.width, found.height) == ("GIF", *makers.photograph().size)
