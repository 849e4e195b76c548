"""Lakes for the tests: in a folder, and in a bucket of a moto server that this run starts."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

KEYS = "test-access-key:test-secret-key"
# prints its URL once it answers, and ends with its parent
_SERVER = """
import sys
import threading
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
# moto checks If-None-Match long before it stores the object: on a busy machine both of two clients got the same version
put_object, one_at_a_time = S3Response.put_object, threading.Lock()
def put_object_atomically(self):
    with one_at_a_time:
        return put_object(self)
S3Response.put_object = put_object_atomically
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
server.stop()
"""


def find_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def put_bucket(endpoint: str, name: str) -> None:
    """Create a bucket."""
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of a moto server, which has the bucket "lake"."""
    words = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        assert endpoint, "the moto server did not start"
        put_bucket(endpoint, "lake")
        try:
            yield endpoint
        finally:
            server.kill()


@pytest.fixture
def s3_url(s3_endpoint: str) -> str:
    """The URL of a lake that does not exist yet, in the bucket."""
    return f"delta+s3://{KEYS}@lake/{uuid4().hex}?endpoint={s3_endpoint}"


@pytest.fixture
def lake_url(tmp_path: Path) -> str:
    """The URL of a lake that does not exist yet, in a folder."""
    return f"delta:///{tmp_path / 'lake'}"
