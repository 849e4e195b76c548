"""Sail servers for the tests: Spark Connect on the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lake.conftest import find_port


def sail_variables(endpoint: str, keys: str) -> dict[str, str]:
    """Return the environment with which a Sail server reads a bucket; ``keys`` are the access key and the secret key."""
    key, secret = keys.split(":")
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def run_sail(**variables: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a Sail server for the time of a block; yield its port and its process."""
    port = find_port()
    sail = shutil.which("sail", path=str(Path(sys.executable).parent))
    assert sail, "pysail is not installed"
    env = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **variables}
    words = [sail, "spark", "server", "--ip", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None, "the Sail server did not start"
                    time.sleep(0.1)
            yield port, server
        finally:
            server.kill()
