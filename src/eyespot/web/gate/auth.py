"""API keys, and the layer that asks for them."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eyespot.errors import Forbidden, InvalidSetting, Refusal, TooManyImages, Unauthorized
from eyespot.memory.rate_limiter import RateLimiter
from eyespot.web.gate import is_probe, problems
from eyespot.web.gate.addresses import Network, client_address

# Pages are the same for everybody, and not charged either.
_OPEN_PATHS = {"/", "/docs", "/openapi.json", "/favicon.ico"}
_OPEN_PREFIX = "/static/"

_KEY = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<secret>[!-9;-~]{8,})(?P<admin>:admin)?")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret."""

    name: str
    admin: bool


Keys = Mapping[bytes, Key]
"""API keys by the SHA-256 of their secrets, which are not kept."""


def read_keys(text: str | None) -> Keys:
    """The keys of EYESPOT_API_KEYS: `name:secret[:admin],…`, or `@/path` of a file with one a line.

    Raises `InvalidSetting` with the position of a malformed key, since any part of it may be a secret.
    """
    keys: dict[bytes, Key] = {}
    if text is None:
        return keys
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8-sig")
        except (OSError, ValueError) as error:  # whose messages show the path, perhaps a secret, or bytes of the file
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InvalidSetting(f"EYESPOT_API_KEYS: cannot read the key file: {reason}") from None
        text = re.sub(r"(?:^|(?<=\s))#.*", "", text, flags=re.MULTILINE)
    for number, part in enumerate(filter(None, map(str.strip, re.split(r"[,\n]", text))), 1):
        match = _KEY.fullmatch(part)
        if not match:
            raise InvalidSetting(
                f"EYESPOT_API_KEYS: key {number} is not `name:secret` or `name:secret:admin`: a name is 1 to 64 "
                "letters, digits, `.`, `_` or `-`; a secret is at least 8 visible ASCII characters without `,` or `:`"
            )
        key = Key(match["name"], admin=bool(match["admin"]))
        digest = hashlib.sha256(match["secret"].encode()).digest()
        if digest in keys or key.name in {other.name for other in keys.values()}:
            raise InvalidSetting(f"EYESPOT_API_KEYS: key {number} has the name or the secret of an earlier key")
        keys[digest] = key
    if not keys:  # a mistake, which must not open everything to everybody
        raise InvalidSetting("EYESPOT_API_KEYS: no keys found; unset it to open the API to everyone")
    return keys


def find_key(keys: Keys, secrets: Iterable[bytes]) -> Key | None:
    """The key with one of the secrets. The time taken says nothing about the other keys."""
    digests = [hashlib.sha256(secret).digest() for secret in secrets]
    found = [key for digest in digests for known, key in keys.items() if hmac.compare_digest(known, digest)]
    return found[0] if found else None


class Auth:
    """Sets the trace's address and key, charges the client, and refuses requests without a valid key.

    Must stand inside the layer that limits bodies, so that a refusal reaches a client that is still sending.
    """

    def __init__(self, app: ASGIApp, keys: Keys, trusted: Sequence[Network], limiter: RateLimiter | None) -> None:
        self.app = app
        self._keys = keys
        self._trusted = trusted
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope["state"]
            state["admin"], state["charge_rate_limit"] = False, None
            self._set_address(scope)
            path = scope["path"]
            if path not in _OPEN_PATHS and not path.startswith(_OPEN_PREFIX) and not is_probe(scope):
                try:
                    await self._admit(scope)
                except Refusal as refusal:
                    response = problems.response(Request(scope), refusal)
                    if isinstance(refusal, Unauthorized):
                        response.headers["WWW-Authenticate"] = 'Bearer realm="eyespot"'  # RFC 6750, section 3
                    await response(scope, receive, send)
                    return
        await self.app(scope, receive, send)

    def _set_address(self, scope: Scope) -> None:
        trace, forwarded = scope["state"]["trace"], []
        if self._trusted:
            forwarded = [str(value, "latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        peer, trace.address = trace.address, client_address(trace.address, forwarded, self._trusted)
        if forwarded and trace.address != client_address(peer, (), ()):
            scope["state"]["facts"]["peer"] = peer

    async def _admit(self, scope: Scope) -> None:
        state, trace = scope["state"], scope["state"]["trace"]
        secrets = _secrets(scope["headers"]) if self._keys else []
        key = find_key(self._keys, secrets)
        if key:
            trace.key = state["facts"]["key"] = key.name
            state["admin"] = key.admin
        if self._limiter:
            client = f"key:{key.name}" if key else f"address:{trace.address}"
            state["charge_rate_limit"] = partial(_charge_batch, self._limiter, client)
            await self._limiter.charge(client)  # for a wrong key too, so that guesses are limited
        if self._keys and not key:
            reason = "Invalid API key" if secrets else "API key required"
            raise Unauthorized(f"{reason}: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")


def _secrets(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """At most one from each kind of header, so that one request is not a thousand guesses."""
    sent = {}
    for name, value in headers:
        if name == b"x-api-key":
            sent[name] = value.strip()
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            sent[name] = value[7:].strip()
    return list(sent.values())


async def _charge_batch(limiter: RateLimiter, client: str, images: int) -> None:
    """Charge each image of a batch as a request; the first was charged on admission."""
    most = limiter.largest_cost
    if images > most:
        detail = f"Each image counts as a request, and the rate limit allows {most} at once: send smaller batches."
        raise TooManyImages(detail, limit=most, value=images)
    if images > 1:
        await limiter.charge(client, images, charged=1)


def require_admin(request: Request) -> None:
    """FastAPI dependency of admin routes; raises Forbidden."""
    if request.state.admin:
        return
    if name := request.state.trace.key:
        raise Forbidden(f"API key {name} is not an admin key.")
    raise Forbidden("Admin routes are disabled: EYESPOT_API_KEYS has no admin key.")
