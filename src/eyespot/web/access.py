"""Who asks, and whether they may."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eyespot.errors import Forbidden, InvalidSetting, Refusal, TooManyImages, Unauthorized
from eyespot.memory.rate_limiter import RateLimiter
from eyespot.web.addresses import Network, client_address
from eyespot.web.gate import problems

# Probes, which have no key, and pages, which are the same for everybody.
_OPEN = {"/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/favicon.ico"}
_OPEN_BELOW = ("/v2/health/", "/static/")

_HOW = "send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`"
_CHALLENGE = 'Bearer realm="eyespot"'  # RFC 6750, 3


class Admission:
    """Puts the caller's address, key and rights into the request's state; refuses who has no key, or asks too often.

    Stands inside of BoundedBody, so that a refusal reaches a client that is still sending its image.
    """

    def __init__(self, app: ASGIApp, keys: "Keys", trusted: Sequence[Network], limiter: RateLimiter | None) -> None:
        self.app = app
        self._keys = keys
        self._trusted = trusted
        self._limiter = limiter
        self._guards = bool(keys) or limiter is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope["state"]
            state["trace"].address = self._address(scope)
            state["key"], state["admin"], state["charge_rate_limit"] = None, False, None
            if self._guards and scope["path"] not in _OPEN and not scope["path"].startswith(_OPEN_BELOW):
                try:
                    await self._admit(scope)
                except Refusal as refusal:
                    answer = problems.response(Request(scope), refusal)
                    if isinstance(refusal, Unauthorized):
                        answer.headers["WWW-Authenticate"] = _CHALLENGE
                    await answer(scope, receive, send)
                    return
        await self.app(scope, receive, send)

    def _address(self, scope: Scope) -> str | None:
        peer = scope["client"][0] if scope.get("client") else None
        if not self._trusted:
            return client_address(peer, (), ())
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address = client_address(peer, forwarded, self._trusted)
        if address != client_address(peer, (), ()):
            scope["state"]["facts"]["peer"] = peer
        return address

    async def _admit(self, scope: Scope) -> None:
        """Let the request pass.

        Raises:
            Unauthorized: keys are configured, and the request has none of them.
            RateLimited: whoever sends it has sent too many.
        """
        state = scope["state"]
        who, refusal = f"address:{state['trace'].address}", None
        if self._keys:
            sent = _credentials(scope["headers"])
            if key := self._keys.find_any(sent):
                state["key"], state["admin"] = key.name, key.admin
                state["trace"].key = key.name
                state["facts"]["key"] = key.name
                who = f"key:{key.name}"
            else:
                known = "The API key is not valid" if sent else "An API key is needed"
                refusal = Unauthorized(f"{known}; {_HOW}.")
        if self._limiter:
            state["charge_rate_limit"] = partial(_charge_batch, self._limiter, who)
            await self._limiter.charge(who)
        if refusal:
            raise refusal


async def _charge_batch(limiter: RateLimiter, who: str, images: int) -> None:
    """Count each image of a batch as a request; the request itself was the first.

    Raises:
        RateLimited: that is too many for now.
        TooManyImages: so many are never allowed at once.
    """
    if images > limiter.largest_cost:
        raise TooManyImages(
            f"Every image counts as a request, and the rate limit allows {limiter.largest_cost} at once: "
            "send smaller batches.",
            limit=limiter.largest_cost,
            value=images,
        )
    if images > 1:
        await limiter.charge(who, images, charged=1)


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """At most one of each kind, so that one request is not a thousand guesses."""
    sent: dict[bytes, bytes] = {}
    for name, value in headers:
        if name == b"x-api-key" or (name == b"authorization" and value[:7].lower() == b"bearer "):
            sent[name] = value.strip() if name == b"x-api-key" else value[7:].strip()
    return list(sent.values())


def require_admin(request: Request) -> None:
    """A dependency of admin routes.

    Raises:
        Forbidden: the caller's key is no admin key, or there are no keys at all.
    """
    state = request.state
    if state.admin:
        return
    if state.key is None:  # where keys are configured, nobody comes here without one
        raise Forbidden("Admin routes are closed until EYESPOT_API_KEYS names an admin key.")
    raise Forbidden(f"The API key {state.key} is no admin key.")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret."""

    name: str
    admin: bool


_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET = re.compile(r"[!-~]{8,}")  # visible ASCII, which every client can put into a header
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)


class Keys:
    """The configured API keys; of their secrets, no more than sha256 digests."""

    def __init__(self, keys: dict[bytes, Key]) -> None:
        self._keys = keys

    @classmethod
    def read(cls, text: str | None) -> "Keys":
        """The keys of EYESPOT_API_KEYS: `name:secret[:admin],…`, or `@/path` of a file with one on a line.

        Raises:
            InvalidSetting: told by the position of the key, since any part of a wrong one may be a secret.
        """
        keys: dict[bytes, Key] = {}
        if not text:
            return cls(keys)
        if text.startswith("@"):
            text = _COMMENT.sub("", _read_file(text[1:]))
        parts = [part.strip() for part in re.split(r"[,\n]", text)]
        for number, part in enumerate(filter(None, parts), 1):
            digest, key = _read_key(part, number)
            if key.name in {known.name for known in keys.values()}:
                raise _bad_key(number, "its name is that of an earlier one")
            if digest in keys:
                raise _bad_key(number, "its secret is that of an earlier one")
            keys[digest] = key
        if not keys:  # a mistake, which must not open everything to everybody
            raise InvalidSetting("EYESPOT_API_KEYS: there is no key in it")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def names(self) -> list[str]:
        """The names of all keys."""
        return [key.name for key in self._keys.values()]

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret, in a time that tells nothing about the others."""
        digest = hashlib.sha256(secret).digest()
        found = None
        for known, key in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def find_any(self, secrets: Iterable[bytes]) -> Key | None:
        """A key with one of these secrets."""
        return next(filter(None, map(self.find, secrets)), None)


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except OSError as error:  # its path may be a key that begins with @ by mistake
        raise InvalidSetting(f"EYESPOT_API_KEYS: cannot read its file: {error.strerror}") from None
    except ValueError:  # it would show a byte
        raise InvalidSetting("EYESPOT_API_KEYS: its file is no text in UTF-8") from None


def _read_key(part: str, number: int) -> tuple[bytes, Key]:
    """Digest and key."""
    name, colon, rest = part.partition(":")
    secret, _, role = rest.partition(":")
    if not colon or not _NAME.fullmatch(name):
        raise _bad_key(number, "before the colon belongs a name of 1 to 64 letters, digits, `.`, `_` or `-`")
    if not _SECRET.fullmatch(secret):
        raise _bad_key(number, "its secret needs at least 8 characters, all of them visible ASCII")
    if rest not in (secret, f"{secret}:admin"):
        raise _bad_key(number, "after the secret, only `:admin` can follow")
    return hashlib.sha256(secret.encode()).digest(), Key(name, admin=role == "admin")


def _bad_key(number: int, reason: str) -> InvalidSetting:
    return InvalidSetting(f"EYESPOT_API_KEYS: key {number}: {reason}")


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def cors_origins(text: str | None) -> list[str]:
    """The origins of EYESPOT_CORS_ORIGINS, separated by commas, in the form in which browsers send them.

    Raises:
        InvalidSetting: one is no origin, nor is it all `*`.
    """
    origins = [part.strip().lower() for part in text.split(",")] if text else []
    for origin in origins:
        if origins != ["*"] and not _ORIGIN.fullmatch(origin):
            raise InvalidSetting(
                f"EYESPOT_CORS_ORIGINS: {origin!r} is no origin such as https://example.org, without a path; "
                "`*` alone is every origin"
            )
    return origins
