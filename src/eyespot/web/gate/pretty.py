"""JSON formatted for a terminal, when the client is curl."""

import asyncio
import json
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from eyespot.web.gate.problems import MEDIA_TYPE

_MEDIA_TYPES = {"application/json", MEDIA_TYPE}
_COLUMNS = 100
_THREAD_FROM = 64 * 1024  # bytes
_LARGEST = 256 * 1024  # bytes; a batch with all classes has 5 MB, and would take seconds and hundreds of MB


def pretty(value: Any, indent: str = "", key: str = "") -> str:
    """JSON indented by two spaces, where an object or array that fits on its line stays on it."""
    line = f"{indent}{key}{json.dumps(value, ensure_ascii=False)}"
    if len(line) < _COLUMNS or not isinstance(value, dict | list):  # less, as a comma may follow
        return line
    if isinstance(value, dict):
        items = [(f"{json.dumps(name, ensure_ascii=False)}: ", item) for name, item in value.items()]
    else:
        items = [("", item) for item in value]
    inner = ",\n".join(pretty(item, f"{indent}  ", name) for name, item in items)
    return f"{indent}{key}{line[len(indent + key)]}\n{inner}\n{indent}{line[-1]}"


def pretty_json(send: Send) -> Send:
    """A `send` that formats JSON, and ends it with a newline so that a shell's prompt does not stick to it.

    Only this form needs `Vary: User-Agent`: any client may be served the compact one from a cache.
    """
    start: Message = {}

    async def formatted(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            if MutableHeaders(scope=message).get("content-type") in _MEDIA_TYPES:
                start = message
                return
        elif start:  # the whole document, though a refusal's body may go on, empty, while the client still sends
            body = message["body"]
            if len(body) > _LARGEST:
                text = body + b"\n"
            else:
                text = await asyncio.to_thread(_formatted, body) if len(body) > _THREAD_FROM else _formatted(body)
            headers = MutableHeaders(scope=start)
            headers["Content-Length"] = str(len(text))
            headers.add_vary_header("User-Agent")
            await send(start)
            start, message = {}, {**message, "body": text}
        await send(message)

    return formatted


def _formatted(document: bytes) -> bytes:
    return f"{pretty(json.loads(document))}\n".encode()
