"""What the audit log records of a client's address."""

import re
import stat
from pathlib import Path

import pytest

from eyespot.errors import AuditUnusable
from eyespot.memory.audit_address import anonymizer


@pytest.mark.parametrize(
    ("how", "address", "written"),
    [
        ("full", "192.0.2.77", "192.0.2.77"),
        ("none", "192.0.2.77", None),
        ("truncated", "192.0.2.77", "192.0.2.0/24"),
        ("truncated", "2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("truncated", None, None),
        ("truncated", "testclient", None),
        ("hashed", None, None),
    ],
)
def test_what_is_recorded_of_an_address(tmp_path: Path, how: str, address: str | None, written: str | None) -> None:
    assert anonymizer(how, tmp_path)(address) == written


def test_a_hash_depends_on_the_secret(tmp_path: Path) -> None:
    one, again = anonymizer("hashed", tmp_path), anonymizer("hashed", tmp_path)
    hashed = one("192.0.2.77")
    assert re.fullmatch("[0-9a-f]{16}", hashed or "")
    assert again("192.0.2.77") == hashed != one("192.0.2.78")
    secret = tmp_path / "audit.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(b"short")
    with pytest.raises(AuditUnusable, match="delete it"):
        anonymizer("hashed", tmp_path)
    secret.unlink()
    assert anonymizer("hashed", tmp_path)("192.0.2.77") != hashed
    assert [path.name for path in tmp_path.iterdir()] == ["audit.secret"]
