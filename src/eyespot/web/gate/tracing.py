"""Traces that cross services: the client's `traceparent`, and whether spans are exported."""

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from eyespot.errors import InvalidSetting
from eyespot.values import shown

if TYPE_CHECKING:
    from eyespot.web.gate.spans import Spans

# Version, trace id, span id, flags. Version 00 ends there; a later one may go on after another dash.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?:-.*)?"
)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def read_traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's `traceparent` in the form of version 00 (W3C Trace Context, section 3.2).

    None unless there is exactly one, and it is valid.
    """
    values = [value for name, value in headers if name == b"traceparent"]
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(str(values[0], "latin-1").strip(" \t"))
    return f"00-{match[1]}" if match else None


def open_spans() -> "Spans | None":
    """The exporter of spans, if OpenTelemetry's environment variables name an endpoint.

    Raises `InvalidSetting` if they cannot be followed.
    """
    name = next(filter(os.environ.get, _ENDPOINTS), None)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not name or disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    if not os.environ[name].startswith(("http://", "https://")):
        raise InvalidSetting(f"{name}: {shown(os.environ[name])} is not a URL such as http://localhost:4318")
    protocol = next(filter(os.environ.get, _PROTOCOLS), None)
    if protocol and os.environ[protocol] != "http/protobuf":
        raise InvalidSetting(f"{protocol}: unset it; eyespot supports http/protobuf only, usually on port 4318")
    try:
        from eyespot.web.gate.spans import Spans

        return Spans()
    except ImportError as error:
        raise InvalidSetting(f"{name} needs `pip install 'eyespot[otel]'`") from error
    except ValueError as error:  # some variables are read when the SDK is imported
        raise InvalidSetting(f"OpenTelemetry refuses an OTEL_* variable: {error}") from error
