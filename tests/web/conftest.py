"""A real browser, whose pages may talk to nobody else and may not complain."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-gpu"]
# Chromium writes an error for every response from 400 up, and for every request that fails.
EXPECTED = ("Failed to load resource", "net::ERR_")
VIOLATIONS = "addEventListener('securitypolicyviolation', (event) => console.error(`CSP: ${event.violatedDirective}`))"

expect.set_options(timeout=30_000)  # ms, for machines with other work

OpenPage = Callable[..., Page]
"""Opens a page of the server at that URL; `options` are those of a browser context."""


@pytest.fixture(scope="module")  # playwright's event loop would disturb tests of other modules
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """A request to another host, an error in the console or a violation of the policy fails the test."""
    wrong: list[str] = []
    contexts = []

    def open_page(url: str, path: str = "/", **options: Any) -> Page:
        context = browser.new_context(
            **{"base_url": url, "locale": "en-GB", "viewport": {"width": 1280, "height": 900}, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(VIOLATIONS)

        def check(asked: str) -> None:
            if not asked.startswith((url, "data:", "blob:")):
                wrong.append(asked)

        page.on("request", lambda request: check(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(path)
        if path.startswith("/?") or path == "/":
            expect(page.locator("#language")).not_to_be_empty()  # the modules have run
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in wrong if not text.startswith(EXPECTED)] == []
