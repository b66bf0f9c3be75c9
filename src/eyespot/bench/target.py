"""The address of a running server: what it says of itself, and connections to it."""

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Self
from urllib.parse import urlsplit

from eyespot.errors import ServerUnavailable
from eyespot.types import ModelInfo

SECONDS_TO_WAIT = 30


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises `ServerUnavailable` when the address is none of http or https."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise ServerUnavailable(f"{url} is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerUnavailable(f"{url} is no address that begins with http:// or https://")
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    def connect(self) -> HTTPConnection:
        """A connection that opens with its first request."""
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        return kind(self.host, self.port, timeout=SECONDS_TO_WAIT)

    def ask(self, path: str, image: bytes | None = None) -> Any:
        """The JSON answer of one request; with an image it is a POST. Raises `ServerUnavailable` unless it is a 200."""
        connection = self.connect()
        try:
            connection.request("GET" if image is None else "POST", self.path + path, image)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            raise ServerUnavailable(f"no eyespot answers at {self}{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status != 200:
            detail = body.get("detail", "") if isinstance(body, dict) else ""
            raise ServerUnavailable(f"{self}{path} answered {answer.status}: {detail}")
        return body

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{f':{self.port}' if self.port else ''}{self.path}"


def find(url: str) -> tuple[Target, ModelInfo]:
    """The server at that address, once it says that it is ready, and the network that it answers with.

    Raises:
        ServerUnavailable: there is none, or it is not ready.
    """
    target = Target.of(url)
    target.ask("/readyz")
    card = target.ask("/model")
    try:
        return target, ModelInfo(card["name"], card["digest"], card["engine"], card["precision"])
    except (KeyError, TypeError) as error:
        raise ServerUnavailable(f"{target}/model answered something else than an eyespot does") from error
