"""The page, in Chromium: every way in, what comes out, and what happens when something goes wrong."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Response, Route, expect

from eyespot.vision import export
from eyespot.vision.labels import Labels
from tests import makers
from tests.requests import metric
from tests.serving import ROOT, FakeEngine, Served, fake_classifier, serve_fake, until
from tests.web.conftest import OpenPage

pytestmark = pytest.mark.needs("chromium")
thorough = pytest.mark.needs("make test-all")  # to keep `make test` short

AXE = ROOT / ".venv" / "openapi" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
NOISE = Image.effect_noise((900, 600), 90).convert("RGB")


@pytest.fixture
def page(open_page: OpenPage, fake: Served) -> Page:
    """The page of a server that says "class 3" of an image whose levels are about 80."""
    return open_page(fake.url)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Class 3."""
    path = tmp_path / "grey.png"
    path.write_bytes(makers.encode(makers.flat((60, 40), (80, 80, 80)), "PNG"))
    return path


def rows(page: Page) -> Locator:
    return page.locator("#predictions li")


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def send(page: Page, *files: Path) -> None:
    page.set_input_files("#file", files)


def drop(page: Page, *paths: Path) -> None:
    """Files or folders from the desktop, dropped outside the box."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 5, "y": 300, "data": data})


def transfer(page: Page, event: str, script: str, argument: object = None) -> None:
    """Dispatch a drop or paste whose DataTransfer the script fills."""
    kind, name = ("DragEvent", "dataTransfer") if event == "drop" else ("ClipboardEvent", "clipboardData")
    page.evaluate(
        f"""async (argument) => {{
            const data = new DataTransfer();
            await ({script})(data, argument);
            document.body.dispatchEvent(new {kind}("{event}", {{{name}: data, bubbles: true, cancelable: true}}));
        }}""",
        argument,
    )


def test_one_click_on_a_sample_gives_a_first_answer(open_page: OpenPage, server: Served) -> None:
    page = open_page(server.url)
    expect(page.get_by_role("heading", level=1)).to_contain_text("See what is in an image")
    page.get_by_role("button", name="A cup of coffee").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("espresso 99.0%")
    expect(rows(page)).to_have_count(5)
    expect(rows(page).first).to_contain_text("espresso")
    assert page.locator("#image").evaluate("canvas => [canvas.width, canvas.height]") == [960, 640]
    expect(page.locator("#model")).to_contain_text(
        "efficientnet-lite0 · 1,000 classes · 75.1% top-1 accuracy (ImageNet"
    )
    expect(page.locator("#health")).to_have_text("Ready")
    expect(page.locator("#stand-in")).to_be_hidden()
    page.get_by_role("button", name="A cat").click()
    expect(page.get_by_role("heading", level=2)).to_have_text(re.compile(r"^cat \d\d\.\d%$"))
    expect(page.locator("#guess")).to_have_text("Best guess: Egyptian cat")
    share = r" \d\d\.\d%$"
    path = [re.compile(f"^{name}{share}") for name in ("animal", "mammal")]
    expect(page.get_by_role("list", name="Groups").get_by_role("listitem")).to_have_text(path)


@thorough
def test_a_stand_in_is_told_quietly_with_its_remedy(page: Page) -> None:
    def stand_in(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, json={**reply.json(), "stand_in": True})

    page.route("**/model", stand_in)
    page.reload()
    page.locator("footer").get_by_text("stand-in").click()
    expect(page.locator("footer")).to_contain_text("eyespot weights fetch")


def test_ways_in(page: Page, image: Path) -> None:
    def answered() -> None:
        expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")
        expect(page.locator("#caption")).to_contain_text("60 × 40 PNG")
        expect(page.locator("#timing")).to_contain_text(re.compile(r"Decode .* ms · model .* ms · total .* ms"))
        expect(page.locator("#model")).to_contain_text("ms per image here")
        page.get_by_role("button", name="Clear").click()
        expect(rows(page).first).to_be_hidden()

    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose images").click()
    assert chooser.value.is_multiple()
    chooser.value.set_files(image)
    answered()
    page.set_input_files("#camera", image)
    answered()
    drop(page, image)
    answered()
    as_file = """async (data, bytes) =>
        data.items.add(new File([Uint8Array.from(bytes)], "image.png", {type: "image/png"}))"""
    transfer(page, "paste", as_file, list(image.read_bytes()))
    answered()
    assert page.locator("#file").get_attribute("accept") == "image/*,.jpeg,.png,.webp,.heic,.heif"
    assert page.locator("#camera").get_attribute("capture") == "environment"


@thorough
def test_a_phone_offers_its_camera(open_page: OpenPage, fake: Served) -> None:
    page = open_page(fake.url, **PHONE)
    expect(page.get_by_role("button", name="Take a photo")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@thorough
def test_a_phone_shows_the_guess_between_headline_and_image(open_page: OpenPage, image: Path) -> None:
    with serve_fake(Torn()) as served:
        page = open_page(served.url, **PHONE)
        send(page, image)
        expect(page.locator("#guess")).to_be_visible()
        places = "ids => ids.map((id) => document.getElementById(id).getBoundingClientRect().top)"
        tops = page.evaluate(places, ["says", "guess", "image", "predictions"])
        assert tops == sorted(tops)


@thorough
def test_an_image_dragged_from_another_site_is_told_plainly(page: Page) -> None:
    transfer(page, "drop", "(data) => data.setData('text/uri-list', 'https://cats.example/cat.jpg')")
    expect(status(page)).to_contain_text("do not let a page read another site")
    transfer(page, "drop", "(data) => data.setData('text/plain', 'cat')")
    expect(status(page)).to_contain_text("contains no image")
    transfer(page, "drop", "(data) => data.setData('text/uri-list', document.querySelector('#samples img').src)")
    expect(rows(page)).to_have_count(5)


@thorough
def test_a_photograph_over_the_limit_is_sent_smaller_and_upright(open_page: OpenPage, tmp_path: Path) -> None:
    photo = tmp_path / "IMG_1.jpg"
    photo.write_bytes(makers.turned(NOISE.resize((1800, 2700)), 6, quality=95))
    with serve_fake(max_bytes=1_000_000) as served:
        page = open_page(served.url)
        send(page, photo)
        expect(page.locator("#caption")).to_contain_text(re.compile(r"IMG_1.jpg · .* JPEG · \d\.\d MB, sent as"))
        expect(page.locator("#curl")).to_be_hidden()  # it would send the large file
        (size,) = re.findall(r"(\d+) × (\d+)", page.inner_text("#caption"))
        width, height = map(int, size)
        assert width < height


@thorough
def test_too_many_pixels_are_reduced_once_the_server_says_so(open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(makers.encode(makers.flat((2400, 1600)), "PNG"))
    with serve_fake(max_pixels=3_000_000) as served:
        page = open_page(served.url)
        send(page, tmp_path / "map.png")
        expect(page.locator("#caption")).to_contain_text("2000 × 1333 JPEG")


@pytest.mark.parametrize("kind", ["GIF", "BMP"])
@thorough
def test_what_only_the_browser_can_decode_is_converted(page: Page, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"grey.{kind.lower()}").write_bytes(makers.encode(makers.flat((60, 40), (80, 80, 80)), kind))
    send(page, tmp_path / f"grey.{kind.lower()}")
    expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")
    expect(page.locator("#caption")).to_contain_text(f"60 × 40 JPEG · {kind}, sent as JPEG")


@thorough
def test_what_nobody_can_decode_gets_the_servers_reason(page: Page, tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    send(page, tmp_path / "photo.heic")
    expect(status(page)).to_have_text("photo.heic: This is a HEIC image; JPEG, PNG and WebP are accepted.")
    expect(rows(page)).to_have_count(0)


class Unsure(FakeEngine):
    """Class 3 has 23 %, its group 57 %."""

    def infer(self, *args: Any, **options: Any) -> Any:
        logits, features = super().infer(*args, **options)
        return logits / 5, features


class Outside(FakeEngine):
    """The classes of low have 16 % each, class 7 has 18 %."""

    def infer(self, *args: Any, **options: Any) -> Any:
        logits, features = super().infer(*args, **options)
        logits[:, :5], logits[:, 7] = 5, 5.1
        return logits, features


class Torn(FakeEngine):
    """Classes 3 and 2 have 49 and 48 %, their group 98 %."""

    def infer(self, *args: Any, **options: Any) -> Any:
        logits, features = super().infer(*args, **options)
        return logits + 0.99 * np.roll(logits, -1, axis=1), features


@pytest.mark.parametrize(
    ("engine", "locale", "says", "name", "guess", "group"),
    [
        (FakeEngine, "en", "class 3 94.3%", "class 3", "", "low 96.8%"),
        (FakeEngine, "zh-CN", "第3类 94.3%", "第3类", "", "低 96.8%"),
        (Torn, "en", "low 98.3%", "low", "Best guess: class 3", ""),
        (Outside, "en", "low 81.5%", "low", "", ""),
        (Torn, "zh-CN", "低 98.3%", "低", "最可能\uff1a第3类", ""),
        (Unsure, "en", "Not sure", "Not sure", "Best guess: class 3", ""),
        (Unsure, "zh-CN", "不确定", "不确定", "最可能\uff1a第3类", ""),
    ],
)
@thorough
def test_the_page_leads_with_what_the_server_says(
    open_page: OpenPage,
    image: Path,
    engine: type[FakeEngine],
    locale: str,
    says: str,
    name: str,
    guess: str,
    group: str,
) -> None:
    with serve_fake(engine()) as served:
        page = open_page(served.url, locale=locale)
        send(page, image)
        expect(page.get_by_role("heading", level=2)).to_have_text(says)
        expect(page.locator("#guess")).to_have_text(guess)
        expect(page.locator("#groups")).to_have_text(group)
        expect(page).to_have_title(f"{name} · eyespot")
        expect(page.locator("#image")).to_have_attribute("aria-label", re.compile(f"grey.png.*{name}$"))
        send(page, image, image)
        expect(page.locator("#labels").get_by_text(f"{name} 2", exact=True)).to_be_visible()
        expect(page.locator("#cards strong").first).to_have_text(name)
        expect(page.locator("#cards span").first).to_have_text(guess if engine is Unsure else says.split()[-1])
        expect(page).to_have_title(re.compile("^eyespot"))


@thorough
def test_the_answer_can_be_taken_along(open_page: OpenPage, tmp_path: Path) -> None:
    image = tmp_path / "it's grey.png"
    image.write_bytes(makers.encode(makers.flat((60, 40), (80, 80, 80)), "PNG"))
    with serve_fake(cache_url="memory://") as served:
        page = open_page(served.url, permissions=["clipboard-read", "clipboard-write"])
        send(page, image)
        page.get_by_role("button", name="Copy JSON").click()
        answer = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert answer["predictions"][0]["label"] == "class 3"
        page.get_by_role("button", name="Copy curl").click()
        command = page.evaluate("navigator.clipboard.readText()")
        assert (
            command
            == f"curl -F 'file=@it'\\''s grey.png' '{served.url}/predict?top_k=5&lang=en'"
            == page.inner_text("#curl")
        )
        send(page, image)
        expect(page.locator("#timing")).to_contain_text("From the cache")
        page.get_by_role("button", name="Copy link").click()
        page.goto(page.evaluate("navigator.clipboard.readText()"))
        assert page.url == f"{served.url}/?sha256={answer['image']['sha256']}"
        expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")
        expect(page).to_have_title("class 3 · eyespot")
        expect(page.locator("#caption")).to_contain_text("This link opens a stored answer, without the image.")
        page.get_by_role("button", name="中文").click()
        page.reload()
        expect(page.get_by_role("heading", level=2)).to_contain_text("第3类")
        expect(page.locator("#curl")).to_contain_text(f"/results/{answer['image']['sha256']}?top_k=5&lang=zh")
        page.get_by_role("button", name="English").click()
        page.goto(f"/?sha256={'0' * 64}")
        expect(status(page)).to_contain_text("no longer has this answer")
        page.goto("/?sha256=../model")
        expect(status(page)).to_contain_text("This link is not complete")
        assert page.get_by_role("link", name="API").get_attribute("href") == "docs"


@thorough
def test_without_a_cache_there_is_no_link(page: Page, image: Path) -> None:
    send(page, image)
    expect(page.get_by_role("button", name="Copy JSON")).to_be_visible()
    expect(page.locator("#model")).to_contain_text("fake")
    expect(page.locator("#copy-link")).to_be_hidden()


@thorough
def test_a_late_answer_is_not_shown(open_page: OpenPage, image: Path) -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine) as served:
        page = open_page(served.url)
        send(page, image)
        expect(page.locator("#caption")).to_have_text("grey.png")  # its preview is there at once
        page.get_by_role("button", name="Clear").click()
        with page.expect_response("**/labels"):
            engine.go.set()
            until(lambda: metric(served, "eyespot_workers_busy") == 0)
            page.evaluate("fetch('labels')")  # after whatever was sent before
        expect(page.locator("#answer")).to_be_hidden()
        expect(status(page)).to_be_empty()


@thorough
def test_it_works_where_the_browser_keeps_nothing(open_page: OpenPage, fake: Served, image: Path) -> None:
    blocked = """for (const name of ["localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, {get() { throw new DOMException("blocked", "SecurityError"); }});
    }"""
    page = open_page(fake.url)
    page.add_init_script(blocked)
    page.reload()
    page.get_by_role("button", name="中文").click()
    send(page, image)
    expect(page.get_by_role("heading", level=2)).to_contain_text("第3类")
    expect(page.locator("#timing")).to_contain_text("毫秒")


def test_names_of_files_are_text(page: Page, image: Path) -> None:
    evil = image.with_name("<img src=x onerror=alert(1)>.png")
    evil.write_bytes(image.read_bytes())
    broken = image.with_name("<b>.png")
    broken.write_text("hello")
    send(page, evil)
    expect(page.locator("#caption")).to_contain_text("<img src=x onerror=alert(1)>.png")
    send(page, evil, broken)
    expect(page.locator("#cards small").first).to_have_text("<img src=x onerror=alert(1)>.png")
    assert page.locator("#cards img, #cards b, #caption img").count() == 0


# -- why --


def test_a_heat_map_lies_over_the_image(open_page: OpenPage, server: Served) -> None:
    page = open_page(server.url)
    send(page, export.SAMPLE)
    why = page.get_by_role("button", name="Why? espresso")
    why.click()
    expect(page.locator("#heat")).to_be_visible()
    expect(page.locator("#opacity")).to_contain_text("Heat map for espresso")
    expect(why).to_have_attribute("aria-pressed", "true")
    alpha = """canvas => {
        const {width, height} = canvas;
        const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        return [0, width / 2 + width * height / 2].map((place) => data[4 * Math.floor(place) + 3]);
    }"""
    outside, centre = page.locator("#heat").evaluate(alpha)
    assert outside == 0
    assert centre > 0
    page.get_by_label("Opacity of the heat map").fill("20")
    expect(page.locator("#heat")).to_have_css("opacity", "0.2")
    page.get_by_role("button", name="Why? cup").click()
    expect(page.locator("#opacity")).to_contain_text("Heat map for cup")
    expect(why).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Why? cup").click()
    expect(page.locator("#heat")).to_be_hidden()


# -- many --


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three of class 3, one of class 7, one that is no image, a text beside them; in two folders."""
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    for place, level in [("a.png", 80), ("b.png", 81), ("beach/c.png", 82), ("beach/d.png", 190)]:
        (folder / place).write_bytes(makers.encode(makers.flat((60, 40), (level,) * 3), "PNG"))
    (folder / "broken.jpg").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    return folder


@thorough
def test_thumbnails_are_upright(page: Page, image: Path) -> None:
    photo = image.with_name("photo.jpg")
    halves = makers.flat((60, 90), (255, 255, 255))
    halves.paste("black", (0, 45, 60, 90))  # the lower half
    photo.write_bytes(makers.turned(halves, 6, quality=95))
    send(page, photo, image)
    expect(page.locator("#count")).to_have_text("2 of 2")
    thumbnail = page.locator("#cards canvas").first
    expect(thumbnail).not_to_have_attribute("width", "300")  # which a canvas has until it is drawn
    above_and_below = """canvas => [0.1, 0.9].map((place) =>
        canvas.getContext("2d").getImageData(canvas.width / 2, Math.floor(canvas.height * place), 1, 1).data[0])"""
    above, below = thumbnail.evaluate(above_and_below)
    assert above > 200
    assert below < 50


@thorough
def test_failed_images_can_be_tried_again(page: Page, folder: Path) -> None:
    down = {"status": 500, "content_type": "text/html", "body": "<h1>nginx</h1>"}
    page.route("**/predict?*", lambda route: route.fulfill(**down))
    send(page, folder / "a.png", folder / "b.png")
    expect(page.locator("#count")).to_have_text("2 of 2 · 2 failed")
    page.unroute_all()
    page.locator("#labels").get_by_text("Failed 2").click()
    page.get_by_role("button", name="Retry failed").click()
    expect(page.locator("#count")).to_have_text("2 of 2")
    expect(page.locator("#labels").get_by_text("class 3 2", exact=True)).to_be_visible()
    expect(page.locator("#labels").get_by_text("Failed")).to_be_hidden()
    expect(page.locator("#cards li").locator("visible=true")).to_have_count(2)


def test_a_dropped_folder_becomes_a_gallery(page: Page, folder: Path) -> None:
    drop(page, folder)
    expect(page.locator("#count")).to_have_text("5 of 5 · 1 failed · 1 skipped")
    expect(page.locator("#told")).to_have_text("Done: 5 images, 1 failed.")
    cards = page.locator("#cards li")
    expect(cards).to_have_count(5)
    failed = cards.filter(has_text="broken.jpg")
    expect(failed).to_contain_text("This is not a JPEG, PNG or WebP image.")
    expect(cards.filter(has_text="class 3")).to_have_count(3)
    for chip in ("All 5", "class 3 3", "class 7 1", "Failed 1"):
        expect(page.locator("#labels").get_by_text(chip, exact=True)).to_be_visible()
    page.locator("#labels").get_by_text("class 7 1", exact=True).click()
    expect(cards.locator("visible=true")).to_have_count(1)
    cards.locator("visible=true").click()
    expect(page.get_by_role("heading", level=2)).to_contain_text("class 7")
    assert cards.filter(has_text="c.png").locator("small").inner_text() == "holiday/beach/c.png"


def saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text("utf-8-sig")


@thorough
def test_classes_without_a_wnid_have_filters_of_their_own(open_page: OpenPage, folder: Path) -> None:
    with serve_fake() as served:
        assert served.recognizer
        classifier = served.recognizer.model.classifier
        classifier.labels = Labels(tuple(replace(row, wnid="") for row in classifier.labels.classes))
        page = open_page(served.url)
        send(page, folder / "a.png", folder / "beach" / "d.png")
        expect(page.locator("#count")).to_have_text("2 of 2")
        expect(page.locator("#labels button")).to_have_text(["All 2", "class 3 1", "class 7 1"])


@thorough
def test_the_gallery_is_saved_as_csv_and_json(page: Page, folder: Path) -> None:
    comma = folder / 'one, "two".png'
    comma.write_bytes((folder / "a.png").read_bytes())
    send(page, folder / "a.png", folder / "broken.jpg", comma)
    expect(page.locator("#count")).to_have_text("3 of 3 · 1 failed")
    lines = list(csv.DictReader(io.StringIO(saved(page, "Save CSV"))))
    found = [(line["file"], line["says"], line["problem"]) for line in lines]
    assert found == [("a.png", "class 3", ""), ("broken.jpg", "", "unsupported-format"), (comma.name, "class 3", "")]
    assert [lines[0][name] for name in ("kind", "group", "label1", "wnid", "width")] == [
        *("class", "low", "class 3", "n00000003", "60")
    ]
    good, bad, _ = json.loads(saved(page, "Save JSON"))
    assert lines[0]["confidence"] == lines[0]["confidence1"] == str(good["says"]["confidence"])
    assert good["predictions"][0]["label"] == good["says"]["label"] == "class 3"
    assert good["groups"][0]["id"] == "low"
    assert bad["problem"]["code"] == "unsupported-format"


@thorough
def test_the_csv_tells_groups_and_unsure_from_classes(open_page: OpenPage, image: Path) -> None:
    for engine, said in [(Torn(), ["low", "group", "low", "class 3"]), (Unsure(), ["unsure", "unsure", "", "class 3"])]:
        with serve_fake(engine) as served:
            page = open_page(served.url)
            send(page, image, image)
            expect(page.locator("#count")).to_have_text("2 of 2")
            line, _ = csv.DictReader(io.StringIO(saved(page, "Save CSV")))
            assert [line[name] for name in ("says", "kind", "group", "label1")] == said


@thorough
def test_the_gallery_asks_for_few_at_once_and_can_be_stopped(open_page: OpenPage, tmp_path: Path) -> None:
    images = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(images):
        path.write_bytes(makers.encode(makers.flat((60, 40), (10 * number,) * 3), "PNG"))
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine, queue=20) as served:
        page = open_page(served.url)
        send(page, *images)
        until(lambda: metric(served, "eyespot_queue_depth") + metric(served, "eyespot_workers_busy") == 4)
        chip = page.locator("#labels").get_by_text("All 0", exact=True)
        chip.evaluate("chip => (chip.first = true)")
        chip.focus()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#count")).to_have_text("0 of 12")
        engine.go.set()
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#count")).to_have_text("12 of 12")
        expect(page.locator("#stop")).to_be_hidden()
        # It can be pressed all the time, as it stays the same button.
        assert page.locator("#labels button").first.evaluate("chip => [chip.first, chip.innerText]") == [True, "All 12"]
        assert page.evaluate("document.activeElement.id") == "csv"  # after "Stop", which is gone


# -- keys, proxies, outages --


def test_the_key_is_asked_for_and_kept_for_the_tab(open_page: OpenPage, image: Path) -> None:
    with serve_fake(api_keys="me:open-sesame") as served:
        page = open_page(served.url)
        dialog = page.get_by_role("dialog")
        for key in ("wrong-key", "open-sesame"):
            for typed in ("\u043a\u043b\u044e\u0447", key):  # no header can have the first
                page.locator("#secret").fill(typed)
                dialog.get_by_role("button", name="Use key").click()
            if key == "wrong-key":
                expect(dialog).to_contain_text("rejected this key")
        expect(page.locator("#model")).to_contain_text("fake")
        page.reload()
        send(page, image)
        expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")
        stored = page.evaluate("[sessionStorage['eyespot-key'], localStorage.length, document.cookie]")
        assert stored == ["open-sesame", 0, ""]
        assert '-H "X-API-Key: $EYESPOT_API_KEY"' in page.inner_text("#curl")


@thorough
def test_without_a_key_the_page_says_what_is_missing(open_page: OpenPage, image: Path, folder: Path) -> None:
    with serve_fake(api_keys="me:open-sesame") as served:
        page = open_page(served.url)
        page.get_by_role("button", name="Cancel").click()
        expect(status(page)).to_have_text("This server needs an API key.")
        send(page, image)
        page.get_by_role("button", name="Cancel").click()
        expect(status(page)).to_have_text("grey.png: This server needs an API key.")
        send(page, *folder.glob("*.png"), *folder.glob("*/*.png"))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#count")).to_have_text("0 of 4")
        page.get_by_role("button", name="Continue").click()
        page.locator("#secret").fill("open-sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#count")).to_have_text("4 of 4")


@thorough
def test_a_busy_server_is_asked_again_after_a_countdown(open_page: OpenPage, image: Path) -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine, workers=1, queue=0) as served:
        page, other = open_page(served.url), open_page(served.url)
        send(page, image)
        assert engine.started.acquire(timeout=30)
        send(other, image)
        expect(status(other)).to_have_text("The server is busy.")
        expect(other.locator("#aside")).to_have_text(re.compile(r"Trying again in \d+ s…"))
        engine.go.set()
        for each in (page, other):
            expect(each.get_by_role("heading", level=2)).to_contain_text("class 3")
        expect(status(other)).to_be_empty()


@thorough
def test_a_stopped_server_is_told_and_comes_back_by_itself(open_page: OpenPage, image: Path, fake: Served) -> None:
    page = open_page(fake.url)
    expect(page.locator("#health")).to_have_text("Ready")
    page.route("**/*", lambda route: route.abort("connectionrefused"))
    send(page, image)
    expect(status(page)).to_have_text("The server is not responding.")
    expect(page.locator("#aside")).to_have_text("Waiting for it to come back…")
    expect(page.locator("#health")).to_have_text("Not ready")
    page.unroute_all()
    expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")
    expect(page.locator("#health")).to_have_text("Ready")


@thorough
def test_a_connection_that_breaks_again_and_again_is_told(page: Page, image: Path) -> None:
    page.route("**/predict?*", lambda route: route.abort("connectionreset"))
    send(page, image)
    expect(status(page)).to_contain_text("The connection broke three times")


@thorough
def test_a_proxy_whose_server_is_down_is_asked_again(page: Page, image: Path) -> None:
    html = {"status": 502, "content_type": "text/html", "body": "<h1>nginx</h1>"}
    page.route(re.compile("predict|readyz"), lambda route: route.fulfill(**html))
    send(page, image)
    expect(status(page)).to_contain_text("A proxy answered in place of this server (status 502)")
    page.unroute_all()
    expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (200, "Something in front"),
        (413, "A proxy in front of this server rejected the image"),
        (502, "A proxy answered in place"),
        (404, "Something in front"),
    ],
)
@thorough
def test_a_proxys_own_page_is_told_as_what_it_is(page: Page, image: Path, code: int, told: str) -> None:
    html = {"status": code, "content_type": "text/html", "body": "<h1>nginx</h1>"}
    page.route("**/predict?*", lambda route: route.fulfill(**html))
    send(page, image)
    expect(status(page)).to_contain_text(told)


# -- languages --


def test_the_texts_are_there_before_the_script(open_page: OpenPage, fake: Served) -> None:
    page = open_page(fake.url, "/livez", locale="zh-CN", java_script_enabled=False)
    page.goto("/")
    expect(page.get_by_role("button", name="选择图片")).to_be_visible()
    expect(page).to_have_title(re.compile("eyespot.图像识别"))
    with fake.client() as client:
        for accepted, language in [("de, zh-TW, en;q=0.9", "zh-Hans"), ("de", "en"), ("*", "en"), ("en-GB, zh", "en")]:
            reply = client.get("/", headers={"Accept-Language": accepted})
            assert f'<html lang="{language}">' in reply.text
            assert reply.headers["vary"] == "Accept-Language"


@thorough
def test_chinese_comes_with_the_browser_and_the_switch(open_page: OpenPage, fake: Served, image: Path) -> None:
    page = open_page(fake.url, locale="zh-CN")
    expect(page.get_by_role("button", name="选择图片")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    with page.expect_request("**/predict?*") as asked:
        send(page, image)
    assert asked.value.url.endswith("top_k=5&lang=zh")
    expect(page.locator("#timing")).to_contain_text("毫秒")
    page.route("**/*", lambda route: route.abort())  # the other language is there already
    page.get_by_role("button", name="English").click()
    expect(page.locator("#timing")).to_contain_text("total")
    expect(page.get_by_role("button", name="Choose images")).to_be_visible()
    page.unroute_all()
    page.reload()
    expect(page.get_by_role("button", name="中文")).to_be_visible()
    with page.expect_request("**/predict?*") as asked:
        send(page, image)
    assert asked.value.url.endswith("top_k=5&lang=en")  # or Accept-Language, which prefers Chinese, would decide
    expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")


@thorough
def test_the_switch_renames_an_answer_without_asking_again(open_page: OpenPage, image: Path) -> None:
    engine = FakeEngine()
    with serve_fake(engine) as served:
        page = open_page(served.url)
        heading, switch = page.get_by_role("heading", level=2), page.locator("#language")
        send(page, image)
        page.get_by_role("button", name="Why? class 3").click()
        expect(page.locator("#opacity")).to_contain_text("Heat map for class 3")
        asked = engine.calls
        switch.click()
        expect(heading).to_contain_text("第3类")
        expect(page).to_have_title("第3类 · eyespot")
        expect(page.locator("#groups")).to_contain_text("低")
        expect(page.locator("#opacity")).to_contain_text("“第3类”的热力图")
        expect(page.get_by_role("button", name=re.compile("依据.第3类"))).to_have_attribute("aria-pressed", "true")
        page.route("**/labels?*", lambda route: route.fulfill(status=500, content_type="text/html", body="nginx"))
        with page.expect_response("**/labels?*"):
            switch.click()
        expect(page.locator("#timing")).to_contain_text("total")
        expect(heading).to_contain_text("第3类")  # rather than no name
        assert engine.calls == asked


@thorough
def test_the_switch_renames_a_gallery_and_its_filter(open_page: OpenPage, folder: Path) -> None:
    engine = Torn()
    with serve_fake(engine) as served:
        page = open_page(served.url)
        send(page, *folder.glob("*.png"), folder / "beach" / "d.png")
        page.locator("#labels").get_by_text("low 2", exact=True).click()
        asked = engine.calls
        page.locator("#language").click()
        expect(page.locator("#labels").get_by_text("低 2", exact=True)).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#labels button").locator("visible=true")).to_have_text(["全部 3", "低 2", "高 1"])
        expect(page.locator("#cards strong").locator("visible=true")).to_have_text(["低", "低"])
        assert {item["says"]["label"] for item in json.loads(saved(page, "导出 JSON"))} == {"低", "高"}
        assert engine.calls == asked


@thorough
def test_an_answer_that_comes_after_the_switch_is_renamed(open_page: OpenPage, image: Path) -> None:
    engine = Unsure()
    engine.go.clear()
    with serve_fake(engine) as served:
        page = open_page(served.url)
        send(page, image)
        assert engine.started.acquire(timeout=30)
        page.locator("#language").click()
        engine.go.set()
        expect(page.locator("#guess")).to_have_text("最可能\uff1a第3类")
        assert engine.calls == 1


def test_every_text_exists_in_every_language_and_is_used(page: Page) -> None:
    static = export.SAMPLE.parent / "web" / "static"
    english, chinese = (json.loads((static / "texts" / f"{name}.json").read_text("utf-8")) for name in ("en", "zh"))
    problems = {key for key in chinese if key.startswith("problem_")}  # most are the server's own in English
    assert english.keys() - problems == chinese.keys() - problems
    for key, text in english.items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", chinese[key])), key
    codes = page.evaluate("""async () => {
        const {paths} = await (await fetch("openapi.json")).json();
        return Object.values(paths["/predict"].post.responses).flatMap(
            ({content}) => Object.keys(content["application/problem+json"]?.examples ?? {}));
    }""")
    assert codes
    assert {f"problem_{code}" for code in codes} - problems == {"problem_rate-limited"}  # its text is slow_down
    sources = "".join(path.read_text() for path in static.glob("*") if path.suffix in (".js", ".html"))
    asked = re.findall(r"""\bt\("(\w+)"|data-(?:text|label)="(\w+)\"""", sources)
    assert {name for names in asked for name in names} - {""} - english.keys() == set()
    assert [key for key in english if f'"{key}"' not in sources and not key.startswith(("sample_", "problem_"))] == []


# -- another model --


@pytest.fixture
def switching() -> Iterator[Served]:
    """A server of `fake` that can switch to four classes of `flowers`, whose answers are cached."""
    models = {
        "fake": lambda: fake_classifier(FakeEngine()),
        "flowers": lambda: fake_classifier(FakeEngine(4), name="flowers", classes=4),
    }
    with serve_fake(models=models, api_keys="page:click-clack,boss:open-sesame:admin", cache_url="memory://") as served:
        yield served


@pytest.fixture
def followed(open_page: OpenPage, switching: Served, image: Path) -> Page:
    """Its page, with an answer of `fake`."""
    page = open_page(switching.url, "/livez")
    page.evaluate("sessionStorage.setItem('eyespot-key', 'click-clack')")
    page.goto("/")
    expect(page.locator("#language")).not_to_be_empty()  # the modules have run
    send(page, image)
    expect(page.get_by_role("heading", level=2)).to_contain_text("class 3")
    return page


def switch(served: Served, name: str) -> None:
    with served.client(headers={"X-API-Key": "open-sesame"}) as client:
        assert client.post("/admin/model", json={"name": name}).status_code == 200


@thorough
def test_an_open_page_follows_a_switch_with_its_next_answer(followed: Page, switching: Served, image: Path) -> None:
    page, heading = followed, followed.get_by_role("heading", level=2)
    expect(page.locator("#samples")).to_be_visible()
    switch(switching, "flowers")
    send(page, image)  # asks for five classes, and there are four
    expect(heading).to_contain_text("flowers 1")
    expect(rows(page)).to_have_count(4)
    expect(page.locator("#model")).to_contain_text("flowers · 4 classes")
    expect(page.locator("#samples")).to_be_hidden()
    page.goto(f"/?sha256={hashlib.sha256(image.read_bytes()).hexdigest()}")
    expect(heading).to_contain_text("flowers 1")
    page.goto("/")
    expect(page.locator("#classes")).to_have_text("This model recognises: flowers 0, flowers 1, flowers 2, flowers 3.")
    page.locator("#language").click()
    expect(page.locator("#classes")).to_have_text(
        "本模型可识别\uff1a第0号flowers、第1号flowers、第2号flowers、第3号flowers。"
    )
    expect(page.locator("#samples")).to_be_hidden()
    switch(switching, "fake")
    send(page, image)
    expect(heading).to_contain_text("第3类")
    expect(page.locator("#samples")).to_be_visible()


@thorough
def test_the_names_of_another_model_are_not_given_to_an_answer(followed: Page, switching: Served) -> None:
    switch(switching, "flowers")
    with followed.expect_response("**/labels?lang=zh"):
        followed.locator("#language").click()
    expect(followed.locator("#timing")).to_contain_text("毫秒")
    expect(followed.get_by_role("heading", level=2)).to_contain_text("class 3")


@thorough
@pytest.mark.parametrize("which", ["class 3", "class 4"])
def test_the_heat_map_of_another_model_is_not_laid_over_an_image(followed: Page, switching: Served, which: str) -> None:
    switch(switching, "flowers")  # which has no class 4
    followed.get_by_role("button", name=f"Why? {which}").click()
    expect(status(followed)).to_have_text("The server now uses another model. Choose the image again.")
    expect(followed.locator("#heat")).to_be_hidden()


@thorough
def test_what_the_model_sees_is_outlined_anew_after_a_switch(followed: Page, switching: Served, image: Path) -> None:
    corner = """canvas => canvas.getContext("2d").getImageData(canvas.width * 0.3, canvas.height * 0.2, 1, 1).data[0]"""
    assert followed.locator("#image").evaluate(corner) == 80  # within the square

    def closer(route: Route) -> None:
        reply = route.fetch()
        recipe = {**reply.json()["recipe"], "crop": 112}
        route.fulfill(response=reply, json={**reply.json(), "recipe": recipe})

    followed.route("**/model", closer)
    switch(switching, "flowers")
    send(followed, image)
    expect(followed.get_by_role("heading", level=2)).to_contain_text("flowers 1")
    assert followed.locator("#image").evaluate(corner) < 60  # darkened


@thorough
@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_do_not_widen_the_page(open_page: OpenPage, image: Path, width: int) -> None:
    models = {"long": lambda: fake_classifier(FakeEngine(4), name="flower" * 15, classes=4)}
    with serve_fake(models=models, api_keys="boss:open-sesame:admin") as served:
        switch(served, "long")
        page = open_page(served.url, "/livez", viewport={"width": width, "height": 800})
        page.evaluate("sessionStorage.setItem('eyespot-key', 'open-sesame')")
        page.goto("/")
        expect(page.locator("#classes")).to_contain_text("flower 3")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        send(page, image)
        expect(page.get_by_role("heading", level=2)).to_contain_text("flower 1")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        send(page, image, image)
        expect(page.locator("#count")).to_have_text("2 of 2")
        assert page.evaluate("document.documentElement.scrollWidth") == width


@thorough
def test_a_model_without_heat_maps_is_not_asked_why(page: Page, image: Path) -> None:
    def without(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, json={**reply.json(), "explains": False})

    page.route("**/model", without)
    page.reload()
    expect(page.locator("#model")).to_contain_text("fake")
    send(page, image)
    expect(rows(page)).to_have_count(5)
    expect(page.get_by_role("button", name="Why?")).to_have_count(0)


# -- how it is made --


@thorough
def test_axe_finds_nothing(open_page: OpenPage, server: Served, folder: Path) -> None:
    """Empty, with a guess, with a heat map, with a gallery, with the question for a key; light and dark."""
    axe = AXE.read_text()

    def check(page: Page) -> None:
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(({violations}) => violations)")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []

    for scheme in ("light", "dark"):
        page = open_page(server.url, color_scheme=scheme)
        check(page)
        page.get_by_role("button", name="A cat").click()
        expect(page.locator("#guess")).to_contain_text("Best guess")
        check(page)
        page.get_by_role("button", name="A cup of coffee").click()
        page.get_by_role("button", name="Why? espresso").click()
        expect(page.locator("#heat")).to_be_visible()
        check(page)
        send(page, *folder.glob("*.*"))
        expect(page.locator("#count")).to_contain_text("2 failed")
        check(page)
        page.evaluate("document.getElementById('key').showModal()")
        check(page)


def test_the_page_is_small(open_page: OpenPage, fake: Served) -> None:
    replies: list[Response] = []
    page = open_page(fake.url, "/livez")
    page.on("response", lambda reply: replies.append(reply))
    page.goto("/")
    expect(page.locator("#model")).to_contain_text("fake")
    sizes = {reply.url: reply.request.sizes()["responseBodySize"] for reply in replies if "/samples/" not in reply.url}
    assert len(sizes) > 15
    assert 10_000 < sum(sizes.values()) < 60_000


@thorough
def test_the_keyboard_reaches_everything(page: Page) -> None:
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
    assert names == ["eyespot", "API", "中文", "Choose images", "A cup of coffee"]
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(5)
