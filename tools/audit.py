"""List known vulnerabilities of the packages in a requirements file; exit code 1 if there are any.

python tools/audit.py PIP-AUDIT constraints.txt

pip-audit reports no vulnerabilities even if it could look nothing up; this says how many packages were looked up.
"""

import json
import subprocess
import sys

OPTIONS = ["--format=json", "--progress-spinner=off", "--disable-pip", "--no-deps", "--requirement"]


def main(program: str, requirements: str) -> bool:
    """Print what is known of the packages; whether any has a vulnerability."""
    done = subprocess.run([program, *OPTIONS, requirements], capture_output=True, text=True)  # noqa: S603
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        packages = []
    audited = [package for package in packages if "vulns" in package]
    for package in audited:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no release"
            print(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    unreachable = "Not audited: the vulnerability service cannot be reached from here."
    print(f"{len(audited)} of {len(packages)} packages were looked up." if audited else unreachable)
    return any(package["vulns"] for package in audited)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
