"""A receiver of OTLP over HTTP for tests: keeps the spans that it is sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tidemill.core.clock import wait_until


class Collector:
    """What came. hold: while set, senders wait for their answer."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.release = threading.Event()
        self.release.set()
        self.url = ""

    def wait(self, count: int, *, named: str = "") -> list[Any]:
        """Wait for so many spans whose names start so."""

        def found() -> list[Any]:
            return [span for span in self.spans if span.name.startswith(named)]

        assert wait_until(lambda: len(found()) >= count, timeout_s=15), [span.name for span in self.spans]
        return found()


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of loopback."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.release.wait(20)
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                collector.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
                for scope in resource.scope_spans:
                    collector.spans += scope.spans
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.release.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def told(span: Any) -> dict[str, Any]:
    """Return the attributes of a span."""
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found
