"""Known vulnerabilities of what is installed, by pip-audit: found ones fail; a database out of reach does not.

python tools/audit.py --tool .venv-audit/bin/pip-audit --environment .venv
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

_NO_NETWORK = (
    *("connection", "max retries", "timed out", "timeout", "name resolution", "temporary failure", "proxy"),
    *("service unavailable", "network is unreachable", "failed to resolve", "no route to host"),
)


def audit(tool: Path, environment: Path) -> tuple[int, str]:
    """Exit code and what to say."""
    if not tool.is_file():
        return (
            0,
            f"Not audited: {tool} is not there (no network to install it?). Run `make audit` where there is one.",
        )
    places = [path for path in environment.glob("lib/python*/site-packages") if path.is_dir()]
    packages = places[0] if places else Path(sysconfig.get_path("purelib"))
    done = subprocess.run(
        [tool, "--path", packages, "--skip-editable", "--format", "json", "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip() or "nothing"
        if any(word in said.lower() for word in _NO_NETWORK):
            return (
                0,
                f"Not audited: the database of vulnerabilities cannot be reached.\n{said.splitlines()[-1]}",
            )
        return done.returncode or 1, f"pip-audit failed:\n{said}"
    known = [f"{one['name']} {one['version']}: {_listed(one)}" for one in found if one.get("vulns")]
    unseen = [f"{one['name']}: {one['skip_reason']}" for one in found if "skip_reason" in one]
    if found and len(unseen) == len(found):
        return 0, "Not audited: the database that can be reached here knows none of the packages."
    told = [f"{len(found) - len(unseen)} packages audited, {len(known)} with known vulnerabilities.", *known]
    if unseen:
        told += ["Not audited:", *unseen]
    return int(bool(known)), "\n".join(told)


def _listed(package: dict[str, Any]) -> str:
    return ", ".join(
        one["id"] + (f" (mended in {', '.join(one['fix_versions'])})" if one.get("fix_versions") else "")
        for one in package["vulns"]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", type=Path, required=True)
    parser.add_argument("--environment", type=Path, required=True)
    given = parser.parse_args()
    code, told = audit(given.tool, given.environment)
    sys.stdout.write(told + "\n")
    sys.exit(code)
