"""Where the files of a lake are: what delta-rs and pyarrow need to reach them, and which names are files of the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from iftb_store.errors import operational_error
from iftb_store_lake.errors import map_error
from iftb_store_lake.url import Options, S3Options

_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 - the name of a variable
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", _TOKEN)
_ATTEMPTS = 2
_LOG = "_delta_log"


class Storage:
    """A folder, or a prefix of a bucket, that contains a Delta table or will contain one."""

    def __init__(self, options: Options) -> None:
        self.location = options.location
        self._s3 = options.s3

    @property
    def is_local(self) -> bool:
        """Whether the files are in a folder of this machine."""
        return self._s3 is None

    def delta_options(self) -> dict[str, str]:
        """Return the storage options for delta-rs.

        Raises:
            OperationalError: there are no credentials for the bucket, or two kinds of them.
        """
        s3 = self._s3
        if s3 is None:
            return {}
        seconds = {"timeout": s3.request_timeout, "connect_timeout": s3.connect_timeout, "retry_timeout": s3.request_timeout}
        options = {name: f"{round(value * 1_000)}ms" for name, value in seconds.items()}
        options |= {"max_retries": str(_ATTEMPTS - 1), "aws_region": s3.region, "aws_conditional_put": "etag"}
        if s3.endpoint:
            options |= {"aws_endpoint_url": s3.endpoint, "aws_allow_http": str(s3.allow_http).lower()}
        return options | dict(zip(map(str.lower, _KEYS), _find_keys(s3), strict=False))

    @cached_property
    def files(self) -> pafs.FileSystem | None:
        """The file system through which pyarrow reads a bucket; None for a local folder, which DuckDB reads itself.

        Raises:
            OperationalError: there are no credentials for the bucket.
        """
        s3 = self._s3
        if s3 is None:
            return None
        keys: dict[str, Any] = dict(zip(("access_key", "secret_key", "session_token"), _find_keys(s3), strict=False))
        return pafs.S3FileSystem(
            **keys,
            region=s3.region,
            endpoint_override=s3.endpoint or None,
            request_timeout=s3.request_timeout,
            connect_timeout=s3.connect_timeout,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )

    def locate(self, path: str) -> str:
        """Return where a file of the table is, as DuckDB (local) or pyarrow (in a bucket) reads it.

        Raises:
            OperationalError: the table's log names a file outside of the table.
        """
        if path.startswith("/") or "://" in path or ".." in path.split("/"):
            raise operational_error(
                "the lake's log names a file outside of the lake, which is not read; another program wrote it"
            )
        s3 = self._s3
        return f"{self.location}/{path}" if s3 is None else f"{s3.bucket}/{s3.prefix}/{path}"

    def is_newest(self, version: int) -> bool:
        """Return whether a look into the folder shows that ``version`` is the newest; False if a look cannot tell, as on S3."""
        if self._s3 is not None:
            return False
        log = Path(self.location, _LOG)
        # an old commit is deleted together with all that are older
        return not (log / f"{version + 1:020}.json").exists() and (log / f"{version:020}.json").exists()

    def load(self, path: str, columns: Sequence[str]) -> pa.Table:
        """Read a data file of the table.

        Raises:
            OSError: the file cannot be read.
        """
        return pq.read_table(self.locate(path), columns=list(columns), filesystem=self.files, partitioning=None)

    def read(self, path: str) -> bytes:
        """Return the content of a small file of the table."""
        files = self.files
        if files is None:
            return Path(self.locate(path)).read_bytes()
        with files.open_input_stream(self.locate(path)) as stream:
            return stream.read()

    def create(self, path: str) -> Any:
        """Create a file of the table and return a stream that writes it; ``tell`` returns the number of bytes written.

        Raises:
            OSError: the file cannot be created.
        """
        located = self.locate(path)
        if self.files is not None:
            return self.files.open_output_stream(located)
        Path(located).parent.mkdir(exist_ok=True)
        return pa.OSFile(located, "wb")

    def remove(self, path: str) -> None:
        """Delete a file of the table.

        Raises:
            OSError: the file cannot be deleted.
        """
        if self.files is not None:
            self.files.delete_file(self.locate(path))
        else:
            Path(self.locate(path)).unlink()

    def prepare(self) -> None:
        """Check that a new table may be created here, and create a local folder.

        Raises:
            OperationalError: there are other files, or the folder cannot be created.
        """
        try:
            if self._s3 is None:
                Path(self.location).mkdir(mode=0o700, parents=True, exist_ok=True)
                others = any(path.name != _LOG for path in Path(self.location).iterdir())
            else:
                files: Any = self.files
                selector = pafs.FileSelector(self.locate("").rstrip("/"), allow_not_found=True)
                others = any(found.base_name != _LOG for found in files.get_file_info(selector))
        except OSError as error:
            raise map_error(error, "the lake cannot be created", self.location) from None
        if others:
            raise operational_error(
                "the lake cannot be created: its folder has other files and no Delta table; name a new or empty folder"
            )


def _find_keys(s3: S3Options) -> list[str]:
    """Return the access key, the secret key and, if there is one, the session token; empty for the metadata service."""
    if s3.auth == "metadata":
        return []
    if s3.access_key:
        # delta-rs would send the token with these keys
        if os.environ.get(_TOKEN):
            raise operational_error(
                f"the URL has an access key, and {_TOKEN} in the environment belongs to another one; unset it, or remove the "
                "keys from the URL and also set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return [s3.access_key, s3.secret_key]
    found = [os.environ.get(name, "") for name in _KEYS]
    if not all(found[:2]):
        raise operational_error(
            "there are no credentials for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write "
            "delta+s3://access_key:secret_key@bucket/prefix, or add auth=metadata to use the credentials of the cloud machine"
        )
    return [word for word in found if word]
