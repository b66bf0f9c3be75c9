"""The pages, in a real browser that may talk to nobody else."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from eyespot.vision import export
from tests import makers
from tests.serving import Served

pytestmark = pytest.mark.needs("chromium")
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-gpu"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Served, tmp_path: Path) -> Iterator[Page]:
    """A page; any request to another host, any error in the console and any violation of the policy fails the test."""
    (tmp_path / "cat.jpg").write_bytes(makers.jpeg())
    (tmp_path / "text.jpg").write_text("hello")
    wrong: list[str] = []
    page = browser.new_page(base_url=server.url, viewport={"width": 900, "height": 1000})

    def look(url: str) -> None:
        if not url.startswith((server.url, "data:", "blob:")):
            wrong.append(url)

    page.on("request", lambda request: look(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert [text for text in wrong if "415" not in text] == []


def test_the_page_says_what_is_in_an_image(page: Page, tmp_path: Path) -> None:
    page.goto("/")
    expect(page.locator("#model")).to_contain_text("efficientnet-lite0")
    page.set_input_files("#file", tmp_path / "cat.jpg")
    rows = page.locator("#predictions li")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("cat")
    expect(rows.first).to_contain_text("%")
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 451
    page.screenshot(path=tmp_path / "page.png")
    page.set_input_files("#file", tmp_path / "text.jpg")
    expect(page.locator("#message")).to_contain_text("This is not a JPEG, PNG or WebP image")
    expect(rows).to_have_count(0)


def test_an_image_can_be_dropped(page: Page, tmp_path: Path) -> None:
    page.goto("/")
    drop = """async () => {
        const file = new File([await (await fetch('/static/icon.svg')).blob()], 'icon.svg', {type: 'image/svg+xml'});
        const data = new DataTransfer();
        data.items.add(file);
        document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
    }"""
    page.evaluate(drop)
    expect(page.locator("#message")).to_contain_text("SVG")


def try_it_out(page: Page) -> None:
    page.goto("/docs")
    operation = page.locator("#operations-recognition-predict")
    operation.locator(".opblock-summary").click()
    expect(operation.locator("[data-param-name=top_k], [data-property-name=top_k]")).to_have_count(1)
    operation.locator("input[type=file]").set_input_files(export.SAMPLE)
    operation.get_by_role("button", name="Execute").click()
    live = operation.locator(".live-responses-table")
    expect(live.locator("tbody .response-col_status").first).to_contain_text("200")
    expect(live).to_contain_text("espresso")


def test_swagger_ui_tries_it_out(page: Page, tmp_path: Path) -> None:
    try_it_out(page)
    page.screenshot(path=tmp_path / "docs.png", full_page=True)


@pytest.mark.needs("make test-all")
def test_swagger_ui_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    try_it_out(page)
    for operation in page.locator(".opblock:not(#operations-recognition-predict)").all():
        operation.locator(".opblock-summary").click()
        expect(operation).to_have_class(re.compile("is-open"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
