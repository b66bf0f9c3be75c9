"""EYESPOT_CORS_ORIGINS."""

import pytest

from eyespot.errors import InvalidSetting
from eyespot.web.gate.cors import read_origins


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
