"""The methods of a worker's gRPC services: which is answered by what, and how they say no."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib.metadata import version
from math import inf
from typing import Any, TypeVar

import grpc

from tidemill.core.clock import Clock, elapsed
from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.serving.config import project_of
from tidemill.serving.grpc.infer import read_request, write_response
from tidemill.serving.grpc.wire import HEALTH, INFERENCE, MESSAGES, NOT_SERVING, SERVICE_UNKNOWN, SERVING, read_message
from tidemill.serving.http import Request
from tidemill.serving.journal import JournalWriter
from tidemill.serving.metrics import Metrics
from tidemill.serving.oip.models import check_version, metadata
from tidemill.serving.predict import Answered, Ask, Endpoint, ShadowWork
from tidemill.serving.problems import EndpointAbsent, NotAuthenticated, TooBusy, TooLate, unexpected
from tidemill.serving.routes import Held
from tidemill.serving.runtimes.runtime import ModelFailed
from tidemill.serving.telemetry import Telemetry
from tidemill.serving.trace import trace_id_of
from tidemill.serving.turns import Turns
from tidemill.serving.world import World

T = TypeVar("T")
TOLD_CHARACTERS = 1000  # of an error: it travels in a header, of which callers take a few kilobytes
WATCH_S = 0.25
_SERVICES = frozenset({"", INFERENCE, HEALTH})


class Stopping(Unavailable):
    """The worker is about to end."""

    def __init__(self) -> None:
        super().__init__("this worker is being stopped; connect again, another one answers")


# The nearest class up the hierarchy counts.
CODES: Mapping[type[TidemillError], grpc.StatusCode] = {
    NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    TooBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.ABORTED,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotPermitted: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Corrupt: grpc.StatusCode.DATA_LOSS,
    ModelFailed: grpc.StatusCode.INTERNAL,
    TidemillError: grpc.StatusCode.INTERNAL,
}


class GrpcRoutes:
    """Answers every call. world: gives what is served now, None when not even a first config could be loaded."""

    def __init__(
        self, *, world: Callable[[], World | None], clock: Clock, metrics: Metrics, shadow: Callable[[ShadowWork], None],
        held: Held, turns: Turns, telemetry: Telemetry | None = None,
    ) -> None:  # fmt: skip
        self._telemetry = telemetry
        self._world, self._clock, self._metrics = world, clock, metrics
        self._shadow, self._held, self._turns = shadow, held, turns
        self._counted: dict[tuple[str, str], Callable[[], None]] = {}
        self._draining = asyncio.Event()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return the services, for a server."""
        inference = {
            "ServerLive": self._unary("ServerLive", self._live, "probe"),
            "ServerReady": self._unary("ServerReady", self._ready, "probe"),
            "ServerMetadata": self._unary("ServerMetadata", self._server),
            "ModelReady": self._unary("ModelReady", self._model_ready),
            "ModelMetadata": self._unary("ModelMetadata", self._model),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        health = {
            "Check": self._unary("HealthCheck", self._check, "probe"),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return [grpc.method_handlers_generic_handler(INFERENCE, inference), grpc.method_handlers_generic_handler(HEALTH, health)]

    def drain(self) -> None:
        """End what could go on for ever: streams and watches."""
        self._draining.set()

    # inference

    async def _infer(self, data: bytes, context: Any) -> bytes:
        try:
            response, shadow = await self._answer(data, context)
        except Exception as error:  # noqa: BLE001 (the edge of a request)
            code, told = self._refused(error, "ModelInfer")
            self._count("grpc", code)
            await context.abort(code, told)
        if shadow is not None:
            context.add_done_callback(lambda _: self._shadow(shadow))
        self._count("grpc", grpc.StatusCode.OK)
        done: bytes = response.SerializeToString()
        return done

    async def _stream(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Answer request by request, in their order; one that is refused does not end the stream."""
        kind = MESSAGES["ModelStreamInferResponse"]
        draining = asyncio.ensure_future(self._draining.wait())
        reading: asyncio.Future[Any] = draining
        try:
            while True:
                reading = asyncio.ensure_future(context.read())
                await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    await context.abort(grpc.StatusCode.UNAVAILABLE, str(Stopping()))
                data = reading.result()
                if data is grpc.aio.EOF:
                    return
                shadow = None
                try:
                    response, shadow = await self._answer(data, context)
                    code, answer = grpc.StatusCode.OK, kind(infer_response=response)
                except Exception as error:  # noqa: BLE001 (the edge of a request)
                    code, told = self._refused(error, "ModelStreamInfer")
                    answer = kind(error_message=told, infer_response=MESSAGES["ModelInferResponse"](id=_id_of(data)))
                self._count("grpc", code)
                yield answer.SerializeToString()
                if shadow is not None:
                    self._shadow(shadow)
        finally:
            draining.cancel()
            reading.cancel()

    async def _answer(self, data: bytes, context: Any) -> tuple[Any, ShadowWork | None]:
        started = elapsed()
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise TooLate
        until = inf if left is None else started + left
        request = read_message("ModelInferRequest", data)
        headers = _headers(context)
        endpoint = self._present(headers, request.model_name) or await self._loaded(headers, request.model_name)
        asked = read_request(endpoint, request)
        trace_id = trace_id_of(headers.get(b"traceparent"))
        traced = None
        if self._telemetry is not None:
            about = {"rpc.system": "grpc", "rpc.service": INFERENCE, "rpc.method": "ModelInfer", "tidemill.endpoint": endpoint.config.key}
            traced = self._telemetry.begin(f"{INFERENCE}/ModelInfer", headers, started, about)
            trace_id = traced.trace_id if traced is not None else trace_id

        def ask(done: Callable[[Answered | TidemillError], None]) -> None:
            self._turns.add(endpoint, Ask(asked.rows, started, trace_id, context.done, done, until, traced))

        failed = True
        try:
            answered: Answered | TidemillError = await _called_back(ask)
            if isinstance(answered, TidemillError):
                raise answered
            response = write_response(endpoint, asked, answered)
            if traced is not None:
                traced.answered = elapsed()
            await self._kept(endpoint.journal.predictions)
            failed = False
        finally:
            if self._telemetry is not None and traced is not None:
                self._telemetry.end(traced, {}, failed=failed)
        endpoint.metrics.responded(elapsed() - started, trace_id)
        return response, answered.shadow

    async def _kept(self, journal: JournalWriter) -> None:
        """Return once a journal is where it has to be before an answer goes out. Raises JournalUnavailable."""
        outcome = await _called_back(partial(self._held, journal))
        if isinstance(outcome, TidemillError):
            raise outcome

    # what is served

    async def _live(self, _: Any, context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _ready(self, _: Any, context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=(world := self._world()) is not None and world.ready)

    async def _server(self, _: Any, context: Any) -> Any:
        world = self._served()
        world.admit(_headers(context), project=None, writes=False, now=self._now(world))
        return MESSAGES["ServerMetadataResponse"](name="tidemill", version=version("tidemill"))

    async def _model_ready(self, request: Any, context: Any) -> Any:
        if request.version:
            await self._model_of(request, context)
            return MESSAGES["ModelReadyResponse"](ready=True)
        world = self._admitted(_headers(context), request.name)
        return MESSAGES["ModelReadyResponse"](ready=world.answers(request.name))

    async def _model(self, request: Any, context: Any) -> Any:
        found = metadata(await self._model_of(request, context))
        response = MESSAGES["ModelMetadataResponse"](name=found.name, versions=found.versions, platform=found.platform)
        for told, tensors in ((response.inputs, found.inputs), (response.outputs, found.outputs)):
            for tensor in tensors:
                told.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response

    async def _model_of(self, request: Any, context: Any) -> Endpoint:
        headers = _headers(context)
        endpoint = self._present(headers, request.name) or await self._loaded(headers, request.name)
        if request.version:
            check_version(endpoint, request.version)
        return endpoint

    def _present(self, headers: Mapping[bytes, bytes], name: str) -> Endpoint | None:
        """Return an endpoint, None when it is not in memory."""
        try:
            return self._admitted(headers, name).endpoint(name)
        except EndpointAbsent:
            return None

    async def _loaded(self, headers: Mapping[bytes, bytes], name: str) -> Endpoint:
        """Return an endpoint once it is in memory. Raises TidemillError."""
        while (found := self._present(headers, name)) is None:
            refused: TidemillError | None = await _called_back(partial(self._admitted(headers, name).wait, name))
            if refused is not None:
                raise refused
        return found

    def _admitted(self, headers: Mapping[bytes, bytes], name: str) -> World:
        """Let a caller pass to an endpoint, before telling whether there is one."""
        world = self._served()
        project = project_of(name) if world.config.keys is not None else None
        world.admit(headers, project=project, writes=False, now=self._now(world))
        return world

    def _served(self) -> World:
        world = self._world()
        if world is None:
            raise Unavailable("this worker could not load what it is to serve; its log says why, and so does: tidemill status")
        return world

    def _now(self, world: World) -> datetime:
        return self._clock.now() if world.config.keys is not None else world.config.published_at

    # health

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in _SERVICES:
            raise NotFound(f"there is no service {request.service[:200]!r} here (there are: {INFERENCE}, {HEALTH})")
        return MESSAGES["HealthCheckResponse"](status=self._health())

    async def _watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            known = read_message("HealthCheckRequest", data).service in _SERVICES
        except Invalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        told = 0
        while told != NOT_SERVING or not self._draining.is_set():
            if (status := self._health() if known else SERVICE_UNKNOWN) != told:
                told = status
                yield MESSAGES["HealthCheckResponse"](status=status).SerializeToString()
            elif self._draining.is_set():
                return
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), WATCH_S)

    def _health(self) -> int:
        world = self._world()
        return SERVING if world is not None and world.ready and not self._draining.is_set() else NOT_SERVING

    # the edge

    def _unary(self, method: str, answer: Callable[[Any, Any], Awaitable[Any]], route: str = "grpc") -> grpc.RpcMethodHandler:
        asked = f"{method}Request"

        async def handle(data: bytes, context: Any) -> bytes:
            try:
                response = await answer(read_message(asked, data), context)
            except Exception as error:  # noqa: BLE001 (the edge of a request)
                code, told = self._refused(error, method)
                self._count(route, code)
                await context.abort(code, told)
            self._count(route, grpc.StatusCode.OK)
            done: bytes = response.SerializeToString()
            return done

        return grpc.unary_unary_rpc_method_handler(handle)

    def _refused(self, error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
        if not isinstance(error, TidemillError):
            # Every call is a POST, also beneath gRPC.
            error, _ = unexpected(error, Request(b"POST", f"/{INFERENCE}/{method}".encode(), {}, b"", 0.0))
        told = str(error)
        return code_of(error), told if len(told) <= TOLD_CHARACTERS else told[: TOLD_CHARACTERS - 1] + "…"

    def _count(self, route: str, code: grpc.StatusCode) -> None:
        count = self._counted.get((route, code.name))
        if count is None:
            count = self._counted[route, code.name] = self._metrics.requests.of(route, code.name).add
        count()


def code_of(error: TidemillError) -> grpc.StatusCode:
    """Return the status code of an error."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def _headers(context: Any) -> dict[bytes, bytes]:
    """Return the metadata of a call as HTTP's headers."""
    return {key.encode(): value if isinstance(value, bytes) else value.encode() for key, value in context.invocation_metadata() or ()}


async def _called_back(begin: Callable[[Callable[[T], None]], None]) -> T:
    """Begin something that calls back; return what it was called with."""
    waiting: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    begin(lambda outcome: None if waiting.done() else waiting.set_result(outcome))  # a caller that has left waits no more
    return await waiting


def _id_of(data: bytes) -> str:
    try:
        told: str = read_message("ModelInferRequest", data).id
    except Invalid:
        return ""
    return told
