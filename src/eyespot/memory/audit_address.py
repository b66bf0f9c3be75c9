"""What the audit log records of a client's address."""

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from eyespot.errors import AuditUnusable

_SECRET_BYTES = 32


def anonymizer(mode: str, data_dir: Path) -> Callable[[str | None], str | None]:
    """A function from an address to what is recorded of it: `full`, `truncated` (/24, /48), `hashed` or `none`.

    A hash is 16 hexadecimal digits of an HMAC-SHA256 with a secret in `data_dir`; without the secret, all four billion
    IPv4 addresses could be tried.
    """
    if mode == "hashed":
        secret = _secret(data_dir / "audit.secret")
        return lambda address: address and hmac.new(secret, address.encode(), hashlib.sha256).hexdigest()[:16]
    return {"full": lambda address: address, "none": lambda _: None, "truncated": _truncated}[mode]


def _truncated(address: str | None) -> str | None:
    try:
        known = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    return str(ipaddress.ip_network((known, 24 if known.version == 4 else 48), strict=False))


def _secret(path: Path) -> bytes:
    if not path.exists():
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.touch(0o600)
        new.write_bytes(secrets.token_bytes(_SECRET_BYTES))
        with contextlib.suppress(FileExistsError):  # another server was faster
            os.link(new, path)
        new.unlink()
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES:
        raise AuditUnusable(f"{path} is too short: {len(secret)} of {_SECRET_BYTES} bytes; delete it to make a new one")
    return secret
