"""The data plane from anywhere: predictions, labels, events of features. Needs its address; no workspace and no control plane."""

import asyncio
import contextvars
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tidemill.client.answers import Answer, Part, read_records, read_tensors
from tidemill.client.call import Doc, checked, segment, send
from tidemill.client.http import READ_S, HttpTransport
from tidemill.client.label_files import pieces_of
from tidemill.client.problems import behind
from tidemill.client.tables import REQUEST_BYTES, Records, Row, Tensors, read_rows
from tidemill.client.transport import IDEMPOTENCY_HEADER
from tidemill.core.clock import utc
from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.ids import new_id, new_ids
from tidemill.core.settings import caller_environment

LABELS_AT_ONCE = 10_000
T = TypeVar("T")


class InferenceClient:
    """Calls the serving workers. Safe from several threads; close it, or use it in a `with` block.

    A call is sent again when the connection breaks or the server is busy (429, 502, 503, 504), after the pause that the server asks
    for: ids are made here, so that a prediction counts once however often it is sent. After `attempts` it raises Unavailable, or the
    error that the server told of, with its sentence.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        project: str | None = None,
        timeout_s: float = READ_S,
        attempts: int = 5,
        connections: int = 8,
    ) -> None:
        """token: an API key, else TIDEMILL_TOKEN; project: else TIDEMILL_PROJECT, else default. timeout_s: for one attempt.

        attempts counts the first, too. connections: so many are kept, and so many parts of a large table are on their way at once.
        """
        said = caller_environment()
        self.url = url.rstrip("/")
        self._project, self._connections = project or said.get("project", "default"), connections
        carrier = partial(HttpTransport, url, token=token or said.get("token"))
        self._transport = carrier(attempts=attempts, connections=connections, read_s=timeout_s)
        self._probing = carrier(attempts=1, connections=1, read_s=timeout_s)
        self._senders: ThreadPoolExecutor | None = None
        self._columns: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"InferenceClient({self.url!r}, project={self._project!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._senders is not None:
            self._senders.shutdown(cancel_futures=True)
        self._transport.close()
        self._probing.close()

    def predict(self, endpoint: str, rows: Any, *, ids: Sequence[str] | None = None, at: datetime | None = None) -> Answer:
        """Score rows: a dict, a list of dicts, a NumPy array [n, k], or a table of pandas, Polars or Arrow.

        An array's columns are those that `describe` names, in that order. Arrays, and tables of 32 rows and more, go as raw tensors,
        all else as JSON; many rows in several requests side by side. NaN and null mean missing.
        ids name the predictions (made here when not given): an own key, such as an order number, is one that `feedback` can use later.
        at: the moment that the rows are about, now unless told.
        Raises Invalid (RowsNotTaken, where the server names the faults by row), NotFound, Unavailable; of a table of several
        requests some rows may have been scored then.
        """
        table = read_rows(rows, lambda: self._names(endpoint))
        named = new_ids(table.total) if ids is None and table.total else list(ids or ())
        if len(named) != table.total:
            raise Invalid(f"a prediction needs one id a row, got {len(named)} ids for {table.total} rows")
        moment = utc(at) if at is not None else None
        ask = partial(self._ask, self._path(endpoint, table), table, named, moment, traced())
        return Answer([part for parts in self._each(table.total, table.at_once, ask) for part in parts])

    def feedback(
        self, ids: str | Sequence[str], values: Any, *, at: datetime | Sequence[datetime] | None = None, endpoint: str | None = None
    ) -> int:
        """Tell what came true for predictions, a value an id; return how many labels are kept. The same again changes nothing.

        at: since when it is known, one moment for all or one each; now unless told. endpoint: ids are values of its label key, and each
        label is that of the last prediction about the key that was made by then. Raises Invalid.
        """
        if isinstance(ids, str):
            ids, values = [ids], [values]
        told = values.tolist() if hasattr(values, "tolist") else list(values)
        moments = list(at) if isinstance(at, Sequence) else [at] * len(ids)
        if not len(ids) == len(told) == len(moments):
            raise Invalid(f"a label needs an id, a value and a moment, got {len(ids)} ids, {len(told)} values and {len(moments)} moments")
        by = "id" if endpoint is None else "key"
        labels = [
            {by: name, "value": value} if moment is None else {by: name, "value": value, "at": utc(moment)}
            for name, value, moment in zip(ids, told, moments, strict=True)
        ]
        return sum(
            self._each(
                len(labels), LABELS_AT_ONCE,
                lambda begin, end: int(self._send(self._feedback(endpoint), {"labels": labels[begin:end]})["accepted"]),
            )
        )  # fmt: skip

    def feedback_file(self, path: Path, *, endpoint: str | None = None, watch: Callable[[int], None] = lambda _: None) -> int:
        """Tell what came true by a file: CSV with id or key, value and at, or a JSON object of these a line. Return how many are kept.

        It may be larger than memory; after a failure the same file can be sent again from its start. watch: told the count so far.
        """
        kept = 0
        pieces, media = pieces_of(path)
        with path.open("r", encoding="utf-8-sig", newline="") as file:
            for piece in pieces(file, LABELS_AT_ONCE):
                headers = {"Content-Type": media, IDEMPOTENCY_HEADER: new_id()}
                answer = checked(self._transport.request("POST", self._feedback(endpoint), body=piece, headers=headers))
                kept += int(decode_any(answer.body)["accepted"])
                watch(kept)
        return kept

    def push(self, source: str, rows: Sequence[Row]) -> Doc:
        """Send events of a source (a dataset's name) to every feature view over it; each takes the columns that it needs.

        A view with an event key takes each event once. Return what each view stored and skipped.
        """
        return self._send(f"/push/{self._named(source)}", {"rows": list(rows)})

    def ready(self, endpoint: str | None = None) -> bool:
        """Return whether the server answers predictions, or those of one endpoint. Asks once. Raises NotFound, NotPermitted."""
        path = "/readyz" if endpoint is None else f"/v2/models/{self._named(endpoint)}/ready"
        try:
            checked(self._probing.request("GET", path))
        except Unavailable:
            return False
        return True

    def describe(self, endpoint: str) -> Doc:
        """Return what an endpoint takes and gives (inputs, outputs), its versions and runtime. Raises NotFound."""
        found: Doc = send(self._transport, "GET", f"/v2/models/{self._named(endpoint)}")
        return found

    def _ask(
        self, path: str, table: Records | Tensors, ids: list[str], at: datetime | None, trace: Mapping[str, str], begin: int, end: int
    ) -> list[Part]:
        """Return what came of some rows, in halves when they are more than one request may carry."""
        body, headers = table.body(begin, end, ids[begin:end], at)
        if len(body) > REQUEST_BYTES and end - begin > 1:
            middle = (begin + end) // 2
            ask = partial(self._ask, path, table, ids, at, trace)
            return ask(begin, middle) + ask(middle, end)
        headers |= trace
        if end > begin:
            headers[IDEMPOTENCY_HEADER] = ids[begin]
        try:
            response = checked(self._transport.request("POST", path, body=body, headers=headers))
        except Invalid as refused:
            raise behind(refused, begin) from None
        part = read_records(response.body) if isinstance(table, Records) else read_tensors(response.body, response.headers)
        if len(part.ids) != end - begin:
            raise Unavailable(f"the server answered {len(part.ids)} predictions for {end - begin} rows; is that where they are served?")
        return [part]

    def _each(self, count: int, at_once: int, act: Callable[[int, int], T]) -> list[T]:
        """Do something with every so many of count, side by side; return what came of each in their order."""
        if count <= at_once:
            return [act(0, count)]
        if self._senders is None:
            self._senders = ThreadPoolExecutor(self._connections, thread_name_prefix="tidemill-inference")
        senders = self._senders
        futures = [senders.submit(act, begin, min(begin + at_once, count)) for begin in range(0, count, at_once)]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _send(self, path: str, body: Any) -> Doc:
        answer: Doc = send(self._transport, "POST", path, body=body, once=new_id())
        return answer

    def _names(self, endpoint: str) -> tuple[str, ...]:
        """Return the columns of an endpoint in the order that was first told: a later version may order them differently."""
        if endpoint not in self._columns:
            self._columns[endpoint] = tuple(column["name"] for column in self.describe(endpoint)["inputs"])
        return self._columns[endpoint]

    def _feedback(self, endpoint: str | None) -> str:
        return "/feedback" if endpoint is None else f"/feedback/{self._named(endpoint)}"

    def _path(self, endpoint: str, table: Records | Tensors) -> str:
        named = self._named(endpoint)
        return f"/predict/{named}" if isinstance(table, Records) else f"/v2/models/{named}/infer"

    def _named(self, name: str) -> str:
        return segment(name) if self._project == "default" else f"{segment(self._project)}/{segment(name)}"


class AsyncInferenceClient:
    """The same for asyncio: each call of `InferenceClient` in a thread of its own pool, at most `connections` at once.

    What is awaited no more is still sent to its end.
    """

    def __init__(self, url: str, *, connections: int = 8, **options: Any) -> None:
        """Take what `InferenceClient` takes."""
        self._client = InferenceClient(url, connections=connections, **options)
        self._callers = ThreadPoolExecutor(connections, thread_name_prefix="tidemill-async")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is under way, then close all connections."""
        await asyncio.to_thread(self._callers.shutdown)
        self._client.close()

    async def predict(self, endpoint: str, rows: Any, *, ids: Sequence[str] | None = None, at: datetime | None = None) -> Answer:
        """Score rows, as `InferenceClient.predict` does."""
        return await self._call(partial(self._client.predict, endpoint, rows, ids=ids, at=at))

    async def feedback(
        self, ids: str | Sequence[str], values: Any, *, at: datetime | Sequence[datetime] | None = None, endpoint: str | None = None
    ) -> int:
        """Tell what came true, as `InferenceClient.feedback` does."""
        return await self._call(partial(self._client.feedback, ids, values, at=at, endpoint=endpoint))

    async def push(self, source: str, rows: Sequence[Row]) -> Doc:
        """Send events of a source to every feature view over it."""
        return await self._call(partial(self._client.push, source, rows))

    async def ready(self, endpoint: str | None = None) -> bool:
        """Return whether the server answers predictions, or those of one endpoint."""
        return await self._call(partial(self._client.ready, endpoint))

    async def describe(self, endpoint: str) -> Doc:
        """Return what an endpoint takes and gives."""
        return await self._call(partial(self._client.describe, endpoint))

    async def _call(self, act: Callable[[], T]) -> T:
        context = contextvars.copy_context()  # the caller's span goes along
        return await asyncio.get_running_loop().run_in_executor(self._callers, context.run, act)


def traced() -> dict[str, str]:
    """Return the header that ties a request to the caller's span (W3C Trace Context), none where OpenTelemetry is not in use."""
    tracing = sys.modules.get("opentelemetry.trace")
    if tracing is None:
        return {}
    span = tracing.get_current_span().get_span_context()
    return {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"} if span.is_valid else {}
