"""Runs the suite on backends that are packages of their own, outside this checkout's environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent


def install_example(folder: Path) -> None:
    """Install the package of examples/backend into a folder, as pip installs any package."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(folder), str(_ROOT / "examples/backend")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run_suite(packages: Path, suite: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests in a process of its own that finds the entry points in the folder ``packages``."""
    path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "pytest", suite, "-q", "-p", "no:cacheprovider", "--tb=short", *options],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
