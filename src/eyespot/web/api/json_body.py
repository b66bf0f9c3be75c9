"""Parses JSON without taking far more memory than the body."""

import re

from pydantic_core import from_json

from eyespot.errors import BadJson, Refusal

_MAX_UNICODE_BYTES = 256 * 1024
_WIDE_ESCAPE = re.compile(rb"\\u(?!00)")


def parse(raw: bytes, max_values: int, too_many: Refusal) -> object:
    """What the JSON holds. Raises `too_many` if it has more values than that, and `BadJson`."""
    # Before anything is built: millions of `[]` would take 30 times the memory of the body. None of the three is in
    # base64, and a data: URI has one comma.
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > max_values:
        raise too_many
    # One other character makes Python keep a string of base64 in four bytes for each of its own.
    if len(raw) > _MAX_UNICODE_BYTES and not (raw.isascii() and _WIDE_ESCAPE.search(raw) is None):
        raise BadJson(f"JSON of more than {_MAX_UNICODE_BYTES // 1024} KiB must be ASCII, as base64 is.")
    try:
        return from_json(raw)
    except ValueError as error:
        raise BadJson(f"The body is not valid JSON: {error}.") from error
