"""What the audit log keeps of a client's address."""

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from eyespot.errors import AuditUnusable


def address_as(how: str, data_dir: Path) -> Callable[[str | None], str | None]:
    """What is written of an address: `full`, `truncated` (/24, /48), `hashed` or `none`.

    Hashes are HMAC-SHA256, cut to 16 hexadecimal digits, with a secret in `data_dir`: without one, all four billion
    addresses could be tried.
    """
    if how == "full":
        return lambda address: address
    if how == "none":
        return lambda _: None
    if how == "truncated":
        return _truncated
    secret = _secret(data_dir / "audit.secret")
    return lambda address: address and hmac.new(secret, address.encode(), hashlib.sha256).hexdigest()[:16]


def _truncated(address: str | None) -> str | None:
    try:
        known = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    network = ipaddress.ip_network((known, 24 if known.version == 4 else 48), strict=False)
    return str(network)


_SECRET_BYTES = 32


def _secret(path: Path) -> bytes:
    """The secret in that file, which is made when it is missing.

    Raises:
        AuditUnusable: it is too short to be one.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}")
    if not path.exists():
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        with contextlib.suppress(FileExistsError):  # another server was quicker
            os.link(new, path)
        new.unlink()
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES:
        raise AuditUnusable(
            f"{path} has {len(secret)} bytes where {_SECRET_BYTES} belong: delete it, and it is made anew"
        )
    return secret
