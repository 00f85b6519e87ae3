"""Spans of requests for OpenTelemetry: the request, looking features up, running models, writing the journal.

A step of the path only notes when it began and ended; spans are made of that once the answer is out, and sent in the background. A receiver
that is slow or away delays nobody: beyond `WAITING_SPANS` requests are not traced, and what could not be sent is counted and forgotten.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from threading import Thread
from typing import Any, NamedTuple

from tidemill.core.clock import elapsed, wall_micros
from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.settings import mask
from tidemill.core.values import Passed
from tidemill.serving.metrics import Metrics
from tidemill.serving.trace import TRACEPARENT

LOG = logging.getLogger(__name__)
WAITING_SPANS = 4096
SEND_S = 5.0
LINKS = 32
IDS = 16
OFF = "off"


class Step(NamedTuple):
    """What was done for requests that are answered together, and when, by `elapsed`. variant: name, model and version of who ran."""

    what: str
    began: float
    ended: float
    variant: tuple[str, str, int] | None = None


class Traced(Passed):
    """A request that is traced, and what its path notes of it. together: all traced requests that were scored at once with it."""

    trace_id: str
    span: Any
    zero_ns: int
    started: float
    began: float = 0.0
    answered: float = 0.0
    requests: int = 0
    rows: int = 0
    ids: Sequence[str] = ()
    steps: Sequence[Step] = ()
    together: Sequence["Traced"] = ()


class Telemetry:
    """Makes spans and hands them to an exporter of OpenTelemetry's. For the thread of the event loop."""

    def __init__(self, exporter: Any, metrics: Metrics, *, ratio: float, instance: str) -> None:
        """ratio: of the requests whose callers trace nothing, so many are traced. Raises ExtraMissing."""
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise ExtraMissing(error.name or "opentelemetry-sdk", "otel") from error
        self._api, self._ratio, self._metrics = trace, ratio, metrics
        self._propagator = TraceContextTextMapPropagator()
        about = {"service.name": "tidemill", "service.version": version("tidemill"), "service.instance.id": instance}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=Resource.create(about), shutdown_on_exit=False
        )
        self._sent = _Sent(exporter, metrics)
        sent: Any = self._sent  # an exporter in all but its base class, which only the library has
        self._provider.add_span_processor(BatchSpanProcessor(sent, max_queue_size=2 * WAITING_SPANS, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("tidemill.serving", version("tidemill"))
        self._dropped = metrics.spans.of("dropped")
        self._made = 0

    def begin(self, what: str, headers: Mapping[bytes, bytes], started: float, attributes: Mapping[str, Any]) -> Traced | None:
        """Begin to trace a request, None when it is not to be. started: by `elapsed`."""
        traceparent = headers.get(b"traceparent", b"")
        parent = TRACEPARENT.fullmatch(traceparent)
        if (not int(parent[3], 16) & 1) if parent is not None else not self._ratio:
            return None
        if self._made - self._sent.count >= WAITING_SPANS:
            self._dropped.add()
            return None
        context = None
        if parent is not None:
            carrier = {"traceparent": traceparent.decode(), "tracestate": headers.get(b"tracestate", b"").decode("latin-1")}
            context = self._propagator.extract(carrier)
        zero_ns = wall_micros() * 1000 - int(elapsed() * 1e9)
        span = self._tracer.start_span(
            what, context=context, kind=self._api.SpanKind.SERVER, attributes=attributes, start_time=zero_ns + int(started * 1e9)
        )
        if not span.is_recording():
            return None
        return Traced(format(span.get_span_context().trace_id, "032x"), span, zero_ns, started)

    def end(self, traced: Traced, attributes: Mapping[str, Any], *, failed: bool) -> None:
        """End the span of a request that is answered, and make those of its steps."""
        span, now = traced.span, elapsed()
        span.set_attributes(attributes)
        if traced.rows:
            span.set_attributes({"tidemill.queue_ms": (traced.began - traced.started) * 1e3, "tidemill.prediction_ids": tuple(traced.ids)})
        context = self._api.set_span_in_context(span)
        for step in traced.steps:
            self._step(traced, step, context)
        if traced.answered:
            self._child(traced, "journal", context, {}, traced.answered, now)
        if failed:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(traced.zero_ns + int(now * 1e9))
        self._made += 1

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most so long."""
        closing = Thread(target=self._provider.shutdown, name="spans-close", daemon=True)
        closing.start()
        closing.join(timeout_s)

    def _step(self, traced: Traced, step: Step, context: Any) -> None:
        attributes: dict[str, Any] = {"tidemill.rows": traced.rows, "tidemill.requests_together": traced.requests}
        name = step.what
        if step.variant is not None:
            variant, model, number = step.variant
            name = f"{step.what} {model}"
            attributes |= {"tidemill.variant": variant, "tidemill.model": model, "tidemill.model_version": number}
        # What was done for several requests is told in the trace of each, and each names the others.
        others = [other for other in traced.together if other is not traced][:LINKS]
        links = [self._api.Link(other.span.get_span_context()) for other in others]
        self._child(traced, name, context, attributes, step.began, step.ended, links)

    def _child(
        self, traced: Traced, name: str, context: Any, attributes: Mapping[str, Any], began: float, ended: float, links: Any = ()
    ) -> None:  # fmt: skip
        child = self._tracer.start_span(
            name, context=context, attributes=attributes, links=links, start_time=traced.zero_ns + int(began * 1e9)
        )
        child.end(traced.zero_ns + int(ended * 1e9))
        self._made += 1


class _Sent:
    """An exporter of OpenTelemetry's with what became of its spans counted. Called by one thread."""

    def __init__(self, exporter: Any, metrics: Metrics) -> None:
        self._exporter, self._exported, self._failed = exporter, metrics.spans.of("exported"), metrics.spans.of("failed")
        self.count = 0
        self._away = False

    def export(self, spans: Any) -> Any:
        result = None
        try:
            result = self._exporter.export(spans)
        finally:
            sent = result is not None and result.name == "SUCCESS"
            (self._exported if sent else self._failed).add(len(spans))
            self.count += len(spans)
            if sent == self._away:
                self._away = not sent
                LOG.log(
                    logging.INFO if sent else logging.WARNING, "spans %s", "are taken again" if sent else "cannot be sent; they are lost"
                )
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))


def receiver_of(traces: str) -> str | None:
    """Return the address that the setting `traces` sends spans to, None for none. Raises Invalid."""
    if traces == OFF:
        return None
    kind, _, url = traces.partition(" ")
    url = url.strip().rstrip("/")
    if kind != "otlp" or not url.startswith(("http://", "https://")):
        raise Invalid(f'setting traces was not understood: {mask(traces)!r}; expected "off", or for example "otlp http://127.0.0.1:4318"')
    return url if url.endswith("/v1/traces") else f"{url}/v1/traces"


def open_telemetry(traces: str, metrics: Metrics, *, ratio: float, instance: str) -> Telemetry | None:
    """Return what traces requests, None when the setting `traces` is off. Raises Invalid, ExtraMissing.

    Headers for the receiver (a key, MLflow's experiment) come from OTEL_EXPORTER_OTLP_HEADERS, as with every exporter of OpenTelemetry's.
    """
    url = receiver_of(traces)
    if url is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter
    except ModuleNotFoundError as error:
        raise ExtraMissing(error.name or "opentelemetry-exporter-otlp-proto-http", "otel") from error
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what it says of every batch is said here once, and counted
    return Telemetry(trace_exporter.OTLPSpanExporter(endpoint=url, timeout=SEND_S), metrics, ratio=ratio, instance=instance)
