"""The page that reports an evaluation."""

import base64
import io
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eyespot.cli import evaluate, report
from eyespot.errors import OutputUnusable
from eyespot.vision.evaluation import Evaluation
from tests.cli.evaluations import Shifted, draw, drawn, evaluated, made_up, ten
from tests.serving import fake_classifier

EVIL = "<img src=x onerror=alert(1)>"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "img"),
    *("figure", "figcaption", "strong", "br", "ul", "li"),
}


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.images: list[bytes] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "img":
            kind, _, data = str(dict(attrs)["src"]).partition(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            self.images.append(base64.b64decode(data))

    def handle_data(self, data: str) -> None:
        self.text = " ".join([*self.text.split(), *data.split()])


def written(folder: Path, source: Path, *found: Evaluation) -> Page:
    report.check(folder)
    report.write(folder, source, found, list(evaluate.rows(found)))
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_page_has_everything_inside_it(tmp_path: Path) -> None:
    source = drawn(tmp_path / "labelled", ten(c9="other"))
    labels = ten(c9="other")
    first, second = (
        evaluated(source, fake_classifier(Shifted(precision, wrong), labels=labels))
        for precision, wrong in {"f32": [3, 4], "int8": [5]}.items()
    )
    page = written(tmp_path / "report", source, first, second)
    assert page.tags <= ALLOWED
    assert {name for name, _ in page.attributes} <= {
        *("lang", "charset", "name", "content", "http-equiv", "class", "alt", "src")
    }
    for image in page.images:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
    assert page.images[:2] == [(tmp_path / "report" / name).read_bytes() for name in report.FILES[1:]]
    assert len(page.images) == 2 + 4  # the mistakes
    assert "Worst mistakes" in page.text
    for text in (
        "20 images of",
        "top-1 accuracy 80.0% (58.4–91.9) 90.0% (69.9–97.2)",
        "right where f32 is wrong 4",
        "class 4 94.3% is class 3 class 3/0.png",
        "class 3 class 4 2",
        "class 3 3 2 0 0.0% (0.0–65.8)",
        "digest " + "0" * 64,
        "engine fake",
    ):
        assert text in page.text, text


def test_names_do_no_harm(tmp_path: Path) -> None:
    labels = ten(c1=EVIL, c2="&amp; {{ 7 * 7 }} <script>alert(1)</script>")
    source = tmp_path / "<b>"
    for number in range(2):
        draw(source / EVIL / f"{number}.png", 1, number)
    draw(source / "class 5" / f"{EVIL}.png", 5)
    (source / "class 5" / "<i>\udcff.png").write_bytes(b"no image")
    found = evaluated(source, fake_classifier(Shifted(wrong=[1, 5]), labels=labels))
    page = written(tmp_path / "report", source, found)
    assert page.tags <= ALLOWED
    assert len(page.images) == 2 + 3
    assert f"is {EVIL}" in page.text
    assert "&amp; {{ 7 * 7 }} <script>alert(1)</script>" in page.text
    assert f"class 5/{EVIL}.png" in page.text
    assert "<i>?.png: not a readable image" in page.text


def test_the_most_confident_mistakes_come_first(tmp_path: Path) -> None:
    found = made_up([(0, 1)] * 3, ten())
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        draw(path, 0)
    page = Page(report.html(tmp_path, [found._replace(reading=found.reading._replace(paths=paths))], [], [b"", b""]))
    assert page.text.index("2.png") < page.text.index("1.png") < page.text.index("0.png")


def test_without_mistakes_nothing_is_said_of_them(tmp_path: Path) -> None:
    page = Page(report.html(tmp_path, [made_up([(0, 0), (1, 1)], ten())], [], [b"", b""]))
    assert "class 1 1 1 1 100.0%" in page.text
    assert "Worst mistakes" not in page.text
    assert "Most confused" not in page.text


def test_images_that_have_gone_are_not_shown(tmp_path: Path) -> None:
    page = Page(report.html(tmp_path, [made_up([(0, 1), (1, 1)], ten())], [], [b"", b""]))
    assert "Worst mistakes" not in page.text
    assert "class 0 class 1 1" in page.text


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    found = made_up([(0, 1)], ten())
    written(tmp_path, tmp_path, found)
    (tmp_path / "confusion.png").write_bytes(b"")
    written(tmp_path, tmp_path, found)
    assert (tmp_path / "confusion.png").stat().st_size
    (tmp_path / "report.html").write_text("<html>my own</html>")
    with pytest.raises(OutputUnusable, match=r"report\.html is not from an earlier report; choose another folder"):
        report.check(tmp_path)
    (tmp_path / "report.html").unlink()
    with pytest.raises(OutputUnusable, match=r"confusion\.png is not from an earlier report"):
        report.check(tmp_path)


def test_an_interrupted_report_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up([(0, 1)], ten())
    written(tmp_path, tmp_path, found)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(*_: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(report.charts, "reliability", interrupt)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, tmp_path, found)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_a_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str) -> None:
    for name in ("eyespot.cli.report", "eyespot.cli.charts"):
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(OutputUnusable, match=r"eyespot\[plot\]"):
        evaluate.open_report(tmp_path / "report")
    assert not (tmp_path / "report").exists()
