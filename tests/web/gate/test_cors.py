"""EYESPOT_CORS_ORIGINS."""

import pytest

from eyespot.errors import InvalidSetting
from eyespot.web.gate.cors import read_origins
from tests.serving import serve_fake
from tests.web.gate.test_problems import check


def test_origins_are_read_as_browsers_send_them() -> None:
    assert read_origins(None) == read_origins("") == []
    assert read_origins("*") == ["*"]
    origins = ["https://example.org", "http://localhost:3000", "http://[::1]:80", "capacitor://localhost"]
    assert read_origins(" , ".join(origins)) == origins
    assert read_origins("HTTPS://Example.ORG") == ["https://example.org"]


@pytest.mark.parametrize(
    "text",
    [
        *("example.org", "https://example.org/", "https://example.org/page", "https://user@example.org", "null", ","),
        *("https://*.example.org", "https://example.org,*", "https://example.org:port", "https://", "//example.org"),
        "https://a.org https://b.org",
    ],
)
def test_a_wrong_origin_is_an_invalid_setting(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CORS_ORIGINS: .* such as https://example\.org"):
        read_origins(text)


METHODS = "Cross-origin requests may use the methods GET, POST, PUT, DELETE and the headers Accept, "


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        (
            {"origin": "https://a.org"},
            "The origin 'https://a.org' may not call this server; add it to EYESPOT_CORS_ORIGINS.",
        ),
        ({"access-control-request-method": "PATCH"}, METHODS),
        (
            {"access-control-request-headers": "x-mine"},
            METHODS,
        ),
    ],
)
def test_a_preflight_is_refused_with_a_problem(asks: dict[str, str], told: str) -> None:
    usual = {"origin": "https://example.org", "access-control-request-method": "POST"}
    with serve_fake(cors_origins="https://example.org") as served, served.client() as client:
        assert client.options("/predict", headers=usual).status_code == 200
        problem = check(client.options("/predict", headers={**usual, **asks}), 403, "forbidden")
    assert problem["detail"].startswith(told)
