"""Tell which of the packages in a requirements file have known vulnerabilities; exit code 1 when any has.

python tools/audit.py PIP-AUDIT constraints.txt

pip-audit says "No known vulnerabilities found" when it could look up nothing at all, as in a network that reaches a
mirror of packages and no more. This says how many were looked up.
"""

import json
import subprocess
import sys
from typing import Any

OPTIONS = ["--format=json", "--progress-spinner=off", "--disable-pip", "--no-deps", "--requirement"]


def ask(program: str, requirements: str) -> list[dict[str, Any]]:
    """What pip-audit knows of each package; nothing when it reaches no service."""
    done = subprocess.run([program, *OPTIONS, requirements], capture_output=True, text=True)  # noqa: S603
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return []
    return found


def main(program: str, requirements: str) -> int:
    """Print what is known, and of how many packages anything is."""
    found = ask(program, requirements)
    audited = [package for package in found if "vulns" in package]
    for package in audited:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no release"
            print(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    if audited:
        print(f"{len(audited)} of {len(found)} packages were looked up.")
    else:
        print("Not audited: the service that knows vulnerabilities cannot be reached from here.")
    return any(package["vulns"] for package in audited)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
