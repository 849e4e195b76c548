"""Runs queries on a Spark Connect server with the protocol of Spark's client; imported only when a lake needs it."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from importlib import import_module
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa
from sqlalchemy.exc import OperationalError

from iftb_store.columnar import run_in_thread
from iftb_store.errors import MissingDriverError, operational_error
from iftb_store.relational import DISCONNECTED, run_to_end

T = TypeVar("T")

# seconds for an answer to a small request; after so many seconds of silence, while a query runs, one asks if the server lives
_PATIENCE, _SILENCE = 15.0, 5.0
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    # a server that comes back is found again soon
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_importing = threading.Lock()
_SETTINGS = {"spark.sql.session.timeZone": "UTC", "spark.sql.ansi.enabled": "true"}
# what the texts of servers show, by the first that matches
_REASONS = (
    (r"PYTHON_VERSION_MISMATCH|[Pp]ython.{0,40}version", "its Python version is not {python}, the version of this process"),
    (r"No module named|ModuleNotFound|ImportError", "its Python lacks the module pyarrow"),
    (r"AccessDenied|Forbidden|Unauthorized|InvalidAccessKey|SignatureDoesNotMatch|40[13]\b", "the bucket denies it access"),
    (
        r"address information|[Cc]onnection refused|error sending request|[Dd]ispatch|timed? ?out",
        "it cannot reach {location}; set the endpoint and the credentials in the environment of the server",
    ),
    (
        r"Missing commit|[Nn]ot found|NOT_FOUND|does not exist|No commit files|No such file|NoSuchBucket|DELTA_MISSING",
        "it does not find this version of the table at {location}; let it read the same folder or bucket as this process",
    ),
)


class Cluster:
    """One Spark Connect server, which reads the Delta table of the lake; the methods block, and several threads may call them."""

    def __init__(self, address: str, location: str) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            address: host:port of the server.
            location: the path or the URL of the table, the same for the server and for this process.

        Raises:
            MissingDriverError: Spark's client is not installed; the message contains the install command.
        """
        self._address = address
        self._location = location
        self._grpc, self._proto = _import("grpc"), _import("pyspark.sql.connect.proto")
        self._types, self._convert = _import("pyspark.sql.types"), _import("pyspark.sql.connect.types")
        self._kinds, self._pickles = _import("pyspark.util").PythonEvalType, _import("pyspark.serializers")
        # a ValueError is gRPC's error for a closed connection
        self.errors: tuple[type[Exception], ...] = (self._grpc.RpcError, self._grpc.FutureCancelledError, ValueError)
        self._channel = self._grpc.insecure_channel(address, options=_CHANNEL)
        self._stub = self._proto.SparkConnectServiceStub(self._channel)
        self._is_closed = False
        self._session = {"session_id": str(uuid4()), "user_context": self._proto.UserContext(user_id="iftb_store")}

    def close(self) -> None:
        """End all queries and close the connection."""
        self._is_closed = True
        self._channel.close()

    def table(self, version: int) -> str:
        """Return the SQL that names one version of the table, to write after FROM."""
        return f"delta.`{self._location.replace('`', '``')}` VERSION AS OF {version}"

    def query(self, sql: str, values: Mapping[str, str | int]) -> Any:
        """Return the plan of a SQL query with ``:name`` parameters."""
        literal, expression = self._proto.Expression.Literal, self._proto.Expression
        arguments = {
            name: expression(literal=literal(string=value) if isinstance(value, str) else literal(long=value))
            for name, value in values.items()
        }
        return self._proto.Relation(sql=self._proto.SQL(query=sql, named_arguments=arguments))

    def apply(
        self, plan: Any, groups: Sequence[str], columns: Sequence[str], work: Callable[[Any], Any], result: Mapping[str, str]
    ) -> Any:
        """Return a plan that groups rows and, on the server, calls a function with each group as an Arrow table.

        Args:
            plan: the plan of the rows.
            groups: the columns to group by.
            columns: the columns of the plan, in its order.
            work: converts the Arrow table of a group to another one; define it within a function, so that it is sent by value.
            result: the columns of the returned tables: long or binary.
        """
        proto, types = self._proto, self._types
        kinds = {"long": types.LongType, "binary": types.BinaryType}
        schema = types.StructType([types.StructField(name, kinds[kind]()) for name, kind in result.items()])
        named = [
            proto.Expression(unresolved_attribute=proto.Expression.UnresolvedAttribute(unparsed_identifier=name))
            for name in columns
        ]
        function = proto.PythonUDF(
            output_type=self._convert.pyspark_types_to_proto_types(schema),
            eval_type=self._kinds.SQL_GROUPED_MAP_ARROW_UDF,
            command=self._pickles.CloudPickleSerializer().dumps((work, schema)),
            python_ver=_python(),
        )
        inline = proto.CommonInlineUserDefinedFunction(
            function_name=work.__name__, deterministic=True, arguments=named, python_udf=function
        )
        by = [expression for name, expression in zip(columns, named, strict=True) if name in groups]
        return proto.Relation(group_map=proto.GroupMap(input=plan, grouping_expressions=by, func=inline))

    def execute(self, plan: Any) -> Any:
        """Send a query and return its running call, which yields the responses."""
        return self._stub.ExecutePlan(self._proto.ExecutePlanRequest(plan=self._proto.Plan(root=plan), **self._session))

    def probe(self, settings: Mapping[str, str] | None = None) -> Any:
        """Send a small request, which also changes settings of Spark's session, and return the running call.

        The call's ``result`` raises an error if the server cannot be reached or does not answer in time.
        """
        pairs = [self._proto.KeyValue(key=name, value=value) for name, value in (settings or {}).items()]
        operation = self._proto.ConfigRequest.Operation(set=self._proto.ConfigRequest.Set(pairs=pairs))
        return self._stub.Config.future(self._proto.ConfigRequest(operation=operation, **self._session), timeout=_PATIENCE)

    def explain(self, error: Any, *, silent: bool = False) -> OperationalError:
        """Return the error to raise for an error of gRPC; without the server's text, which may hold credentials."""
        if self._is_closed:
            return operational_error(DISCONNECTED)
        code = error.code().name if isinstance(error, self._grpc.RpcError) else "CANCELLED"
        server = f"the Spark Connect server {self._address}"
        if silent or code == "DEADLINE_EXCEEDED":
            return operational_error(f"{server} did not answer in time", transient=True)
        if code == "UNAVAILABLE":
            return operational_error(f"{server} cannot be reached; start it, or open the lake without engine=", transient=True)
        if code == "CANCELLED":
            return operational_error(f"the query on {server} was cancelled")
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return operational_error(f"{server} denies access")
        text = str(error.details())
        known = next((reason for pattern, reason in _REASONS if re.search(pattern, text)), None)
        reason = known or "see the server's log for the reason, or open the lake without engine= to run the query in this process"
        return operational_error(
            f"the query failed on {server}: {reason.format(python=_python(), location=self._location)} ({code})"
        )

    async def stream(self, executor: Executor, plan: Any) -> AsyncGenerator[pa.Table]:
        """Run a query, and yield its rows as the server sends them; a cancellation ends the query.

        Raises:
            OperationalError: the server cannot be reached, does not answer in time, or the query fails; or the store has been
                disconnected meanwhile.
        """
        answer = Answer(self, plan)
        try:
            await self._run(executor, answer.start, answer.cancel)
            while (part := await self._run(executor, answer.read, answer.cancel)) is not None:
                yield part
        finally:
            # the executor may have ended
            await run_to_end(asyncio.to_thread(answer.close))

    async def _run(self, executor: Executor, work: Callable[[], T], interrupt: Callable[[], None]) -> T:
        if self._is_closed:
            raise operational_error(DISCONNECTED)
        return await run_in_thread(executor, work, interrupt)


class Answer:
    """A query and its rows; while another method runs, other threads may call only `cancel`."""

    def __init__(self, cluster: Cluster, plan: Any) -> None:
        self._cluster = cluster
        self._plan = plan
        self._errors = cluster.errors
        self._call: Any = None
        self._heard = time.monotonic()
        self._silent = False
        self._has_ended = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Send the query.

        Raises:
            OperationalError: the server cannot be reached or does not answer in time.
        """
        try:
            # also proves that the server answers; a server that was restarted has forgotten the settings
            self._call = self._cluster.probe(_SETTINGS)
            self._call.result()
            self._call = self._cluster.execute(self._plan)
        except self._errors as error:
            raise self._cluster.explain(error) from None
        self._heard = time.monotonic()
        self._watcher = threading.Thread(target=self._watch, name="iftb-store-lake-spark", daemon=True)
        self._watcher.start()

    def read(self) -> pa.Table | None:
        """Return the next rows; None at the end."""
        try:
            for response in self._call:
                self._heard = time.monotonic()
                if response.WhichOneof("response_type") == "arrow_batch":
                    break
            else:
                return None
        except self._errors as error:
            raise self._cluster.explain(error, silent=self._silent) from None
        return pa.ipc.open_stream(response.arrow_batch.data).read_all()

    def cancel(self) -> None:
        """End the query on the server; a running `start` or `read` fails."""
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        """End the query on the server if it has not ended."""
        self._has_ended.set()
        self.cancel()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        # a query may take long, and a server that is frozen says nothing either
        while not self._has_ended.wait(_SILENCE):
            if time.monotonic() - self._heard < _SILENCE:
                continue
            try:
                self._cluster.probe().result()
            except self._errors:
                self._silent = True
                self._call.cancel()
                return


def _import(name: str) -> Any:
    try:
        with _importing, warnings.catch_warnings():
            main: Any = sys.modules["__main__"]
            known = hasattr(main, "__file__")
            # about the version of pandas, which the client imports and nothing here uses
            warnings.simplefilter("ignore")
            if not known:
                # without it, as in `python -c`, the client believes to be in its own doctests, and exits
                main.__file__ = "<none>"
            try:
                return import_module(name)
            finally:
                if not known:
                    del main.__file__
    except ImportError as error:
        missing = f"the module {error.name!r}" if error.name else "Spark's client with pandas"
        raise MissingDriverError(
            f'engine= in the delta URL needs {missing}, which is not installed; run: pip install "iftb-store[lake,spark]"'
        ) from error


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
