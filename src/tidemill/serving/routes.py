"""The routes of a worker: which path is answered by what. Tidemill's own are here, other protocols' in folders of their own."""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from math import inf
from typing import Any, Protocol

from tidemill.core.clock import Clock, elapsed
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid, NotPermitted, TidemillError, Unavailable
from tidemill.serving import labels
from tidemill.serving.config import EndpointOptions, project_of
from tidemill.serving.feast import routes as feast
from tidemill.serving.frames import encode_predictions, id_lines
from tidemill.serving.http import Done, Reply, Request
from tidemill.serving.invocations.routes import InvocationRoutes, call_of, speaks
from tidemill.serving.journal import JournalWriter, LabelsJournal
from tidemill.serving.kserve import routes as kserve
from tidemill.serving.metrics import Metrics
from tidemill.serving.oip.routes import OipRoutes, Target, target_of
from tidemill.serving.openapi import document
from tidemill.serving.predict import Answered, Ask, Endpoint, ShadowWork
from tidemill.serving.problems import EndpointAbsent, MethodRefused, RouteNotFound, problem_reply, status_of, unexpected
from tidemill.serving.rows import Rows
from tidemill.serving.telemetry import Telemetry, Traced
from tidemill.serving.trace import trace_id_of
from tidemill.serving.turns import Turns
from tidemill.serving.wire import PushAnswer, PushRequest, Ready
from tidemill.serving.world import World

LOG = logging.getLogger(__name__)
PATHS_KNOWN = 1000
TIMEOUT, ENVOYS_TIMEOUT = b"tidemill-timeout-ms", b"x-envoy-expected-rq-timeout-ms"
PENDING = 0  # the status of a reply that another takes the place of
_ASKED = {
    "predict": "/predict/{endpoint}", "oip": "/v2/models/{endpoint}/infer", "invocations": "/invocations",
    "kserve": "/v1/models/{endpoint}:predict",
}  # fmt: skip
_PROBES = frozenset({b"/livez", b"/readyz", b"/v2/health/live", b"/v2/health/ready"})


class Held(Protocol):
    """Brings a journal to where it has to be and calls back, with an error or None."""

    def __call__(self, journal: JournalWriter, done: Done) -> None: ...


class Routes:
    """Answers every request of a worker. world is what it serves now, None when not even a first config could be loaded."""

    def __init__(
        self, *, clock: Clock, metrics: Metrics, labels_journal: LabelsJournal, shadow: Callable[[ShadowWork], None],
        held: Held, turns: Turns, exposition: Callable[[bytes, Done], None],
        telemetry: Telemetry | None = None, slow_ms: int | None = None,
    ) -> None:  # fmt: skip
        """slow_ms: from which on an answered prediction request is logged."""
        self._telemetry, self._slow_s = telemetry, inf if slow_ms is None else slow_ms / 1e3
        self._world: World | None = None
        self._inferring: dict[bytes, tuple[Endpoint, Target]] = {}
        self._clock, self._metrics, self._labels = clock, metrics, labels_journal
        self._shadow, self._held, self._turns, self._exposition = shadow, held, turns, exposition
        self._oip = OipRoutes()
        self._invocations = InvocationRoutes()
        self._kserve = kserve.KserveRoutes()
        self._features = feast.FeastRoutes()
        self._counted: dict[tuple[str, int], Callable[[], None]] = {}

    @property
    def world(self) -> World | None:
        """What is served."""
        return self._world

    @world.setter
    def world(self, world: World | None) -> None:
        self._world, self._inferring = world, {}

    def __call__(self, request: Request) -> Reply:
        name = "other"
        try:
            name, reply = self._answer(request)
        except RecursionError:
            reply = self._refusal(request.path)(Invalid("request is not understood: it is nested too deeply"))
        except EndpointAbsent as absent:
            wait = absent.wait
            return Reply(PENDING, b"", wait_for=lambda done: wait(partial(self._again, request, done)))
        except TidemillError as refused:
            reply = self._refusal(request.path)(refused)
        except Exception as failure:  # noqa: BLE001 (the edge of a request)
            told, _ = unexpected(failure, request)
            reply = self._refusal(request.path)(told)
        if self._telemetry is not None and name == "other":
            self._trace_refused(request, reply)
        self._count(name, reply.status)
        return reply

    def _again(self, request: Request, done: Done, refused: TidemillError | None) -> None:
        """Answer a request whose endpoint had to come into memory first, or say why it did not."""
        if refused is not None:
            reply = self._refusal(request.path)(refused)
            self._count("other", reply.status)
        else:
            reply = self(request)
        if reply.wait_for is None:
            done(reply)
        else:
            reply.wait_for(lambda instead: done(instead or reply))

    def refuse(self, path: bytes, error: TidemillError) -> Reply:
        """Return an error that was found beside the routes, in the shape that callers of a path expect."""
        return self._refusal(path)(error)

    def _refusal(self, path: bytes) -> Callable[[TidemillError], Reply]:
        """Return how errors are told to those who ask for a path."""
        if path.startswith(b"/v2"):
            return self._oip.error_reply
        if path.startswith(b"/v1") or path == b"/":
            return self._kserve.error_reply
        return self._invocations.error_reply if speaks(path) else problem_reply

    def _answer(self, request: Request) -> tuple[str, Reply]:
        path = request.path
        if path.startswith(b"/predict/"):
            self._method(request, b"POST")
            return "predict", self._predict(request, _text(path[9:]))
        if path.startswith(b"/v2"):
            return "oip", self._open_inference(request)
        if speaks(path):
            return self._invoke(request)
        if path.startswith(b"/v1/models") or path == b"/":
            return "kserve", self._first_kserve(request)
        if path == b"/feedback" or path.startswith(b"/feedback/"):
            self._method(request, b"POST")
            self._admit(request, writes=True)
            return "feedback", self._feedback(request, _text(path[10:]) or None)
        if path.startswith(b"/push/"):
            self._method(request, b"POST")
            return "push", self._push(request, _text(path[6:]), request.body)
        if path in feast.PATHS:
            self._method(request, b"POST")
            return "feast", self._feast(request)
        if path in _PROBES:
            self._method(request, b"GET")
            return "probe", self._probe(request, ready=path == b"/readyz")
        if path == b"/metrics":
            self._method(request, b"GET")
            self._admit(request, writes=False)
            return "metrics", Reply(PENDING, b"", wait_for=partial(self._expose, request))
        if path == b"/openapi.json":
            self._method(request, b"GET")
            return "openapi", self._describe(request)
        raise RouteNotFound(_text(path)[:200])

    def _expose(self, request: Request, done: Done) -> None:
        def tell(outcome: Reply | TidemillError | None) -> None:
            reply = self._refusal(request.path)(outcome) if isinstance(outcome, TidemillError) else outcome
            self._count("metrics", reply.status if reply is not None else PENDING)
            done(reply)

        self._exposition(request.headers.get(b"accept", b""), tell)

    def _predict(self, request: Request, name: str) -> Reply:
        endpoint = self._endpoint(request, name)
        rows = endpoint.schema.decode(request.body)
        return self._serve(request, endpoint, rows, "predict", lambda answered: Reply(200, encode(endpoint.answer(answered))))

    def _open_inference(self, request: Request) -> Reply:
        found = self._inferring.get(request.path)
        if found is not None and request.method == b"POST" and b"origin" not in request.headers:
            return self._infer(request, *found)  # as before: nothing of it can have changed
        if request.path in _PROBES:
            self._method(request, b"GET")
            return self._oip.health(self.world, ready=request.path.endswith(b"ready"))
        if request.path in (b"/v2", b"/v2/"):
            self._method(request, b"GET")
            self._admit(request, writes=False)
            return self._oip.server()
        target = target_of(request.path)
        self._method(request, b"POST" if target.verb == "infer" else b"GET")
        if target.verb == "ready" and target.version is None:
            return self._oip.model_ready(target.model, ready=self._answers(request, target.model))
        endpoint = self._endpoint(request, target.model)
        if target.verb != "infer":
            return self._oip.describe(endpoint, target)
        if self._served().config.keys is None and len(self._inferring) < PATHS_KNOWN:
            self._inferring[request.path] = (endpoint, target)
        return self._infer(request, endpoint, target)

    def _infer(self, request: Request, endpoint: Endpoint, target: Target) -> Reply:
        inference = self._oip.decode(endpoint, target, request)
        return self._serve(request, endpoint, inference.rows, "oip", partial(self._oip.answer, endpoint, inference))

    def _invoke(self, request: Request) -> tuple[str, Reply]:
        """Answer MLflow's scoring protocol and SageMaker's."""
        call = call_of(request.path)
        if call.verb != "invocations":
            self._method(request, b"GET")
            ready = self.world is not None and bool(self.world.names) and self.world.ready
            if call.endpoint is not None:
                ready = self._answers(request, call.endpoint)
            return "probe", self._invocations.tell(call.verb, ready=ready)
        self._method(request, b"POST")
        self._admit(request, writes=False)  # before telling which endpoints there are
        endpoint = self._endpoint(request, self._invocations.endpoint_of(call, self._served(), request.headers))
        rows = self._invocations.decode(endpoint, request)
        return "invocations", self._serve(
            request, endpoint, rows, "invocations", partial(self._invocations.answer, request, endpoint, rows)
        )

    def _first_kserve(self, request: Request) -> Reply:
        """Answer KServe's v1 protocol."""
        if request.path == b"/":
            self._method(request, b"GET")
            return self._kserve.alive()
        target = kserve.target_of(request.path)
        self._method(request, b"POST" if target.verb == "predict" else b"GET")
        if target.verb == "list":
            self._admit(request, writes=False)
            return self._kserve.models(self._served())
        if target.verb == "ready":
            return self._kserve.ready(target.model, ready=self._answers(request, target.model))
        endpoint = self._endpoint(request, target.model)
        rows = self._kserve.decode(endpoint, request.body)
        return self._serve(
            request, endpoint, rows, "kserve",
            lambda answered: Reply(200, encode_predictions(endpoint, rows, answered), extra=id_lines(rows, answered)),
        )  # fmt: skip

    def _serve(self, request: Request, endpoint: Endpoint, rows: Rows, name: str, make: Callable[[Answered], Reply]) -> Reply:
        """Answer rows together with those of others, and tell of it once that is journaled."""
        self._turns.check(endpoint)
        trace_id = trace_id_of(request.headers.get(b"traceparent"))
        until = _until(request)
        traced = None
        if self._telemetry is not None and (traced := self._trace(request, endpoint, _ASKED[name])) is not None:
            trace_id = traced.trace_id

        def wait(done: Done) -> None:
            if traced is not None:
                done = self._ending(traced, done)

            def answer(outcome: Answered | TidemillError) -> None:
                if isinstance(outcome, TidemillError):
                    reply = self._refusal(request.path)(outcome)
                    self._count(name, reply.status)
                    done(reply)
                    return
                reply = make(outcome)
                if outcome.shadow is not None:
                    reply.after = partial(self._shadow, outcome.shadow)
                self._count(name, reply.status)
                took = elapsed() - request.started
                endpoint.metrics.responded(took, trace_id)
                if took >= self._slow_s:
                    told = {"endpoint": endpoint.config.key, "trace_id": trace_id}
                    LOG.warning("endpoint %s took %.1f ms for %d rows (%s)", endpoint.config.key, took * 1e3, rows.count, name, extra=told)
                if traced is not None:
                    traced.answered = elapsed()
                self._held(endpoint.journal.predictions, lambda instead: done(instead or reply))

            self._turns.add(endpoint, Ask(rows, request.started, trace_id, request.left, answer, until, traced))

        return Reply(PENDING, b"", wait_for=wait)

    def _trace(self, request: Request, endpoint: Endpoint, route: str) -> Traced | None:
        assert self._telemetry is not None, "only asked when there is one"
        method = request.method.decode("latin-1")
        told = {"http.request.method": method, "http.route": route, "tidemill.endpoint": endpoint.config.key}
        return self._telemetry.begin(f"{method} {route}", request.headers, request.started, told)

    def _ending(self, traced: Traced, done: Done) -> Done:
        """Return what calls done and ends the span then."""

        def end(outcome: Reply | TidemillError | None) -> None:
            done(outcome)
            if self._telemetry is not None and outcome is not None:
                status = status_of(outcome) if isinstance(outcome, TidemillError) else outcome.status
                self._telemetry.end(traced, {"http.response.status_code": status}, failed=status >= 500)

        return end

    def _trace_refused(self, request: Request, reply: Reply) -> None:
        assert self._telemetry is not None, "only asked when there is one"
        method = request.method.decode("latin-1")
        told = {"http.request.method": method, "http.response.status_code": reply.status}
        traced = self._telemetry.begin(method, request.headers, request.started, told)
        if traced is not None:
            self._telemetry.end(traced, {}, failed=reply.status >= 500)

    def _feedback(self, request: Request, endpoint: str | None) -> Reply:
        world = self._served()

        def options_of(name: str) -> EndpointOptions:
            world.admit(request.headers, project=project_of(name), writes=True, now=self._now(world))
            return world.options(name)

        answer = labels.take_labels(
            request.body, self._labels, self._clock, options_of=options_of,
            media=_text(request.headers.get(b"content-type", b"")), endpoint=endpoint,
        )  # fmt: skip
        self._metrics.labels.inc(answer.accepted)
        return Reply(200, encode(answer), wait_for=partial(self._held, self._labels))

    def _feast(self, request: Request) -> Reply:
        """Answer callers of Feast's server."""
        self._admit(request, writes=request.path == b"/push")  # before telling what there is
        if request.path == b"/push":
            pushed = feast.read_push(request.body)
            rows = [dict(zip(pushed.df, values, strict=True)) for values in zip(*pushed.df.values(), strict=True)]
            return self._push(request, pushed.push_source_name, encode(PushRequest(rows=rows)))
        asked, world = self._features.decode(request.body), self._served()
        world.admit(request.headers, project=self._features.project(asked), writes=False, now=self._now(world))
        return Reply(200, encode(self._features.answer(world, asked, self._clock.now())))

    def _push(self, request: Request, name: str, body: bytes) -> Reply:
        """Take events of a source into every view over it."""
        world = self._served()
        self._admit(request, writes=True)  # before telling which sources there are
        source = world.source(name)
        world.admit(request.headers, project=source.project, writes=True, now=self._now(world))
        rows = decode(body, PushRequest, what="request").rows
        if not rows:
            raise Invalid("request has no rows; expected at least one")
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        answer = PushAnswer(views=source.push(columns, body, now=self._clock.now()))
        for view, pushed in answer.views.items():
            self._metrics.pushed.labels(view).inc(pushed.stored)
        return Reply(200, encode(answer), wait_for=partial(self._held, source.journal) if source.journal is not None else None)

    def _describe(self, request: Request) -> Reply:
        """Answer with the OpenAPI document, in which rows of those endpoints are described that the caller may ask."""
        world = self._served()
        self._admit(request, writes=False)
        shown: dict[str, Any] = {}
        for key, endpoint in sorted(world.endpoints.items()):
            with suppress(NotPermitted):
                self._pass(request, world, key)
                shown[key] = endpoint.schema.request
        return Reply(200, encode(document(shown)))

    def _probe(self, request: Request, *, ready: bool) -> Reply:
        world = self.world
        if world is None:
            return Reply(503 if ready else 200, encode(Ready(ready=False, generation=-1)))
        try:
            world.admit(request.headers, project=None, writes=False, now=self._now(world))
            not_ready = tuple(world.unready)
        except NotPermitted:
            not_ready = ()  # which endpoints there are is told to those who show a key
        answer = Ready(ready=world.ready, generation=world.config.generation, not_ready=not_ready)
        return Reply(503 if ready and not world.ready else 200, encode(answer))

    def _served(self) -> World:
        if self.world is None:
            raise Unavailable("this worker could not load what it is to serve; its log says why, and so does: tidemill status")
        return self.world

    def _endpoint(self, request: Request, name: str) -> Endpoint:
        world = self._served()
        self._pass(request, world, name)
        return world.endpoint(name)

    def _answers(self, request: Request, name: str) -> bool:
        """Return whether an endpoint answers; ask, and it need not come into memory for that."""
        world = self._served()
        self._pass(request, world, name)
        return world.answers(name)

    def _pass(self, request: Request, world: World, name: str) -> None:
        """Let a caller pass to an endpoint, before telling whether there is one."""
        project = project_of(name) if world.config.keys is not None else None
        world.admit(request.headers, project=project, writes=False, now=self._now(world))

    def _admit(self, request: Request, *, writes: bool) -> None:
        world = self._served()
        world.admit(request.headers, project=None, writes=writes, now=self._now(world))

    def _now(self, world: World) -> datetime:
        return self._clock.now() if world.config.keys is not None else world.config.published_at

    def _method(self, request: Request, allowed: bytes) -> None:
        if request.method != allowed:
            raise MethodRefused(_text(request.method), _text(request.path)[:200], allowed.decode())

    def _count(self, name: str, status: int) -> None:
        if status == PENDING:
            return
        count = self._counted.get((name, status))
        if count is None:
            count = self._counted[name, status] = self._metrics.requests.of(name, str(status)).add
        count()


def _until(request: Request) -> float:
    """Return until when the caller wants an answer. Raises Invalid."""
    told = request.headers.get(TIMEOUT) or request.headers.get(ENVOYS_TIMEOUT)
    if told is None:
        return inf
    if not told.isdigit():
        raise Invalid(f"the request's timeout reads {_text(told[:20])!r}; expected whole milliseconds")
    return request.started + int(told) / 1e3


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
