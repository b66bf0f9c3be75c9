"""The main path of the page, in Firefox."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.serving import Served
from tests.web.conftest import OpenPage

pytestmark = [pytest.mark.needs("firefox-esr"), pytest.mark.needs("make test-all")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Firefox, over WebDriver BiDi, as it has none of Playwright's patches; `open_page` opens pages in it."""
    with sync_playwright() as playwright:
        browser = playwright.firefox.launch(channel="moz-firefox", executable_path="/usr/bin/firefox-esr")
        yield browser
        browser.close()


def test_a_sample_its_answer_and_its_heat_map(open_page: OpenPage, server: Served) -> None:
    page = open_page(server.url)
    page.get_by_role("button", name="A cup of coffee").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("espresso 99.0%")
    expect(page.locator("#predictions li")).to_have_count(5)
    assert page.locator("#image").evaluate("canvas => [canvas.width, canvas.height]") == [960, 640]
    page.get_by_role("button", name="Why? espresso").click()
    expect(page.locator("#heat")).to_be_visible(timeout=30_000)
    centre = "canvas => [...canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data]"
    assert page.locator("#heat").evaluate(centre)[3] > 0
    page.get_by_label("Opacity of the heat map").fill("20")
    expect(page.locator("#heat")).to_have_css("opacity", "0.2")
    expect(page.locator("#health")).to_have_text("Ready")
