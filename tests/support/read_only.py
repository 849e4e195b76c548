"""Runs Python with a read-only folder: by a separate mount, or by its rights if the user is not root."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def reading(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python with these arguments; stdout and stderr are one stream."""
    python = [sys.executable, *words]
    before = stat.S_IMODE(folder.stat().st_mode)
    if os.geteuid() == 0:
        # root ignores rights
        quoted = shlex.quote(str(folder))
        mount = f"mount --bind {quoted} {quoted} && mount -o remount,ro,bind {quoted}"
        if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
            pytest.skip("this root may not mount a read-only folder")
        command = ["unshare", "-m", "sh", "-c", f"{mount} && exec {shlex.join(python)}"]
    else:
        folder.chmod(0o500)
        command = python
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            yield running
    finally:
        folder.chmod(before)
