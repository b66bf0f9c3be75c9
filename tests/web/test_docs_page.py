"""`/docs`: Swagger UI, from this server alone."""

import re

import pytest
from playwright.sync_api import Page, expect

from eyespot.vision import export
from tests.serving import Served
from tests.web.conftest import OpenPage

pytestmark = pytest.mark.needs("chromium")


def try_it_out(page: Page) -> None:
    operation = page.locator("#operations-recognition-predict")
    operation.locator(".opblock-summary").click()
    expect(operation.locator("[data-param-name=top_k], [data-property-name=top_k]")).to_have_count(1)
    operation.locator("input[type=file]").set_input_files(export.SAMPLE)
    operation.get_by_role("button", name="Execute").click()
    live = operation.locator(".live-responses-table")
    expect(live.locator("tbody .response-col_status").first).to_contain_text("200")
    expect(live).to_contain_text("espresso")


def test_swagger_ui_tries_it_out(open_page: OpenPage, server: Served) -> None:
    try_it_out(open_page(server.url, "/docs"))


@pytest.mark.needs("make test-all")
def test_swagger_ui_fits_a_phone(open_page: OpenPage, server: Served) -> None:
    page = open_page(server.url, "/docs", viewport={"width": 390, "height": 800})
    try_it_out(page)
    for operation in page.locator(".opblock:not(#operations-recognition-predict)").all():
        operation.locator(".opblock-summary").click()
        expect(operation).to_have_class(re.compile("is-open"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
