"""The requests that both clients send, and send again.

A request takes three steps: `_send` it, `_wait` before the next, and `_work` for what blocks. Those of `Connection` are
asyncio's; `Client` replaces them with blocking ones.
"""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import httpx

from eyespot._version import __version__
from eyespot.client import retry
from eyespot.client.answers import RETRIED, public
from eyespot.errors import ServerSilent, ServerUnavailable, Unauthorized

H = TypeVar("H", httpx.Client, httpx.AsyncClient)
T = TypeVar("T")

_CONNECT_SECONDS = 5


class Connection(Generic[H]):
    """Requests to one server."""

    _http: Any  # httpx.AsyncClient, or httpx.Client

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30,
        retry_seconds: float = 60,
        ask_first: int | None = 200_000,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | str | os.PathLike[str] | bool = True,
        proxy: str | None = None,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
        http_client: H | None = None,
    ) -> None:
        """A client of `url`, by default EYESPOT_URL or http://127.0.0.1:8000, with `api_key` or EYESPOT_API_KEY.

        The server may be silent for `timeout` seconds. 429, 502 and 503 are retried after `Retry-After`, refused or
        broken connections with exponential backoff, for at most `retry_seconds` in all. An image of more bytes than
        `ask_first` is uploaded only if the server has no cached answer for its sha256; None uploads at once.

        `headers` are sent with each request. `verify` is a file of CA certificates, an `ssl.SSLContext`, or False;
        `proxy` is a URL; `transport` is one of httpx. Your own `http_client` is used as it is, so `timeout`, `verify`,
        `proxy` and `transport` have no effect, and it is not closed.

        Raises `ServerUnavailable` for an invalid URL, and `Unauthorized` for a key that is not printable ASCII.
        """
        self.url = _parse_url((url or os.environ.get("EYESPOT_URL") or "http://127.0.0.1:8000").strip())
        key = (api_key or os.environ.get("EYESPOT_API_KEY") or "").strip()  # a file's last line ends with a newline
        if not (key.isascii() and key.isprintable()):
            raise Unauthorized("The API key has characters other than printable ASCII.")
        self._retry_seconds = retry_seconds
        self._ask_first = ask_first
        self._headers = httpx.Headers({"User-Agent": f"eyespot/{__version__}"})
        self._headers.update({"Authorization": f"Bearer {key}"} if key else {})
        self._headers.update(headers)
        https, local = self.url.scheme == "https", self.url.host in ("localhost", "127.0.0.1", "::1")
        if isinstance(verify, str | os.PathLike):
            verify = ssl.create_default_context(cafile=verify)
        self._owned = http_client is None
        self._open(
            http_client,
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            verify=https and verify,  # loading certificates takes longer than most answers
            proxy=proxy,
            transport=transport,
            mounts={str(self.url): None} if local and not proxy else {},  # no other proxy for this machine
            trust_env=https or not local,
        )

    @property
    def public_url(self) -> httpx.URL:
        """The URL without a password, for messages."""
        return public(self.url)

    def _open(self, http_client: H | None, **options: Any) -> None:
        self._http = http_client or httpx.AsyncClient(**options)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        answer: httpx.Response = await self._http.send(request)
        return answer

    def _now(self) -> float:
        return time.monotonic()

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _work(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(function)

    async def _retry(self, method: str, path: str, until: float | None = None, **parts: Any) -> httpx.Response:
        """The last answer to a request that is sent until it is answered for good, or the clock reaches `until`."""
        until = until or self._now() + self._retry_seconds
        attempt = 0
        while True:
            try:
                answer = await self._request(method, path, **parts)
            except ServerUnavailable as error:
                pause = retry.pause(attempt, until - self._now())
                if pause is None or not retry.is_temporary(error.__cause__):
                    raise
            else:
                pause = retry.pause(attempt, until - self._now(), answer.headers.get("Retry-After"))
                if pause is None or answer.status_code not in RETRIED:
                    return answer
            await self._wait(pause)
            attempt += 1

    async def _request(self, method: str, path: str, headers: Mapping[str, str] = {}, **parts: Any) -> httpx.Response:
        if self._http.is_closed:
            raise ServerUnavailable("The client was closed.")
        url = f"{str(self.url).rstrip('/')}/{path}"
        try:
            request = self._http.build_request(method, url, headers={**self._headers, **headers}, **parts)
            return await self._send(request)
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise ServerSilent(f"{self.public_url} did not answer in time.") from error
        except httpx.RequestError as error:
            reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)).rstrip(".") or type(error).__name__
            raise ServerUnavailable(f"No eyespot answers at {self.public_url}: {reason}.") from error


def _parse_url(url: str) -> httpx.URL:
    shown = url.rpartition("@")[2]  # without a password
    try:
        parsed = httpx.URL(url if "://" in url else f"http://{url}").copy_with(query=None, fragment=None)
        parsed.raw_host.decode().encode("idna")  # connecting does it too, and its error is not httpx's
    except (httpx.InvalidURL, UnicodeError) as error:
        reason = "percent-encode special characters in the password" if "@" in url else error  # which may quote it
        raise ServerUnavailable(f"{shown} is not a valid URL: {reason}") from (None if "@" in url else error)
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535:
        raise ServerUnavailable(f"{shown} is not a valid URL, such as http://127.0.0.1:8000")
    return parsed
