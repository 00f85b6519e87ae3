"""What a worker tells Prometheus: both formats, exemplars, bounded labels, names by the conventions."""

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.serving.plant import Caller, Plant, row
from tidemill.core.errors import TidemillError
from tidemill.serving.background import Exposition
from tidemill.serving.metrics import OPENMETRICS_TYPE, TEXT_TYPE, Metrics, wants_openmetrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# What Prometheus 2 and 3 send.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3"
)
UNITS = ("_seconds", "_bytes")
ODD_PATHS = 10_000


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    plant = Plant(tmp_path_factory.mktemp("home"))
    plant.publish(plant.endpoint())
    with plant.worker() as found:
        yield found


def counted(metrics: Metrics) -> Metrics:
    """Return counters with something in all of them."""
    metrics.requests.of("predict", "200").add()
    endpoint = metrics.endpoint("delay")
    endpoint.responded(0.003, "")
    endpoint.responded(0.004, TRACE)
    endpoint.waited(0.0002)
    endpoint.scored(3)
    endpoint.ran("champion", 0.001)
    return metrics


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [("", False), ("*/*", False), ("text/plain", False), (PROMETHEUS, True), ("application/openmetrics-text", True),
     ("application/openmetrics-text; version=1.0.0", True), ("application/openmetrics-text;version=7", False),
     ("application/openmetrics-text;q=0, text/plain", False), ("application/openmetrics-text;version=abc", False), (",;=,", False)],
)  # fmt: skip
def test_who_asks_for_openmetrics_gets_it(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept.encode()) is openmetrics


def test_both_formats_tell_the_same_and_only_openmetrics_has_exemplars(tmp_path: Path) -> None:
    metrics = counted(Metrics(tmp_path, 0))
    text, told = metrics.exposition([0])
    assert told == TEXT_TYPE
    assert TRACE not in text.decode()
    richer, told = metrics.exposition([0], accept=PROMETHEUS.encode())
    assert told == OPENMETRICS_TYPE
    assert richer.endswith(b"# EOF\n")
    families = {family.name: family for family in read_openmetrics(richer.decode())}
    for family in read_text(text.decode()):
        if not family.name.endswith("_created"):  # which is a family of its own in the older format
            assert families[family.name].type == family.type, family.name
            assert {(s.name, *s.labels.items()) for s in family.samples} <= {
                (s.name, *s.labels.items()) for s in families[family.name].samples
            }
    marked = [s for s in families["tidemill_request_seconds"].samples if s.exemplar is not None]
    assert [(s.labels["le"], s.exemplar.labels, s.exemplar.value) for s in marked] == [("0.005", {"trace_id": TRACE}, 0.004)]


def test_other_workers_are_told_of_with_their_exemplars(tmp_path: Path) -> None:
    counted(Metrics(tmp_path, 1)).save()
    text, _ = counted(Metrics(tmp_path, 0)).exposition([0, 1], accept=PROMETHEUS.encode())
    (family,) = [family for family in read_openmetrics(text.decode()) if family.name == "tidemill_request_seconds"]
    assert {s.labels["worker"] for s in family.samples if s.exemplar is not None} == {"0", "1"}
    assert {s.labels["worker"]: s.value for s in family.samples if s.name.endswith("_count")} == {"0": 2, "1": 2}


def test_what_other_workers_told_is_what_they_would_tell(tmp_path: Path) -> None:
    other = counted(Metrics(tmp_path, 1))
    other.labels.inc(3)
    other.save()
    both, _ = Metrics(tmp_path, 0).exposition([0, 1], accept=PROMETHEUS.encode())
    own, _ = other.exposition([1], accept=PROMETHEUS.encode())
    theirs = {line for line in both.decode().splitlines() if 'worker="1"' in line}
    assert theirs == {line for line in own.decode().splitlines() if 'worker="1"' in line}
    assert any(line.startswith('tidemill_labels_total{worker="1"} 3') for line in theirs)


@pytest.mark.parametrize("data", [b"", b"# TYPE tidemill_labels counter\n", b"\x83"])
def test_what_another_version_left_is_passed_over(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "serve-1.counters").write_bytes(data)
    text, _ = counted(Metrics(tmp_path, 0)).exposition([0, 1])
    assert 'worker="1"' not in text.decode()


def test_names_and_units_go_by_the_conventions(tmp_path: Path) -> None:
    text, _ = counted(Metrics(tmp_path, 0)).exposition([0], accept=PROMETHEUS.encode())
    for family in read_openmetrics(text.decode()):
        assert family.name.startswith("tidemill_"), family.name
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_mb")), family.name
        if family.type == "counter":
            assert all(s.name.removeprefix(family.name) in ("_total", "_created") for s in family.samples)
        if family.type == "histogram":
            assert family.name.endswith(UNITS) or family.name == "tidemill_batch_rows", family.name


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_promtool_finds_nothing_to_object_to(tmp_path: Path) -> None:
    text, _ = counted(Metrics(tmp_path, 0)).exposition([0])
    told = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=30)
    assert told.returncode == 0, told.stderr.decode()


def test_the_text_is_made_beside_the_event_loop_and_a_failure_is_told() -> None:
    made_in: list[str] = []

    def make(accept: bytes) -> tuple[bytes, str]:
        made_in.append(threading.current_thread().name)
        if accept == b"odd":
            raise RuntimeError(accept)
        return accept, TEXT_TYPE

    async def ask(*accepts: bytes) -> list[Any]:
        loop = asyncio.get_running_loop()
        exposition, found = Exposition(loop, make), [loop.create_future() for _ in accepts]
        for accept, future in zip(accepts, found, strict=True):
            exposition(accept, future.set_result)
        return await asyncio.gather(*found)

    well, odd = asyncio.run(ask(b"text", b"odd"))
    assert (well.status, well.body, well.media) == (200, b"text", TEXT_TYPE.encode())
    assert isinstance(odd, TidemillError)
    assert "the counters cannot be told (RuntimeError); the worker's log has the reason" in str(odd)
    assert all(name.startswith("metrics") for name in made_in)


def test_a_worker_tells_how_many_rows_it_scored_at_once_and_which_trace_was_slow(caller: Caller) -> None:
    answer = caller.call("POST", "/predict/delay", {"rows": [row()] * 3}, {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert answer.status == 200
    told = caller.call("GET", "/metrics", headers={"accept": PROMETHEUS})
    assert told.headers["content-type"] == OPENMETRICS_TYPE
    assert f'trace_id="{TRACE}"' in told.body.decode()
    families = {family.name: family for family in read_openmetrics(told.body.decode())}
    sizes = {s.labels["le"]: s.value for s in families["tidemill_batch_rows"].samples if s.name.endswith("_bucket")}
    assert sizes["2.0"] < sizes["4.0"] == sizes["+Inf"]
    (waited,) = [s.value for s in families["tidemill_queue_seconds"].samples if s.name.endswith("_count")]
    assert waited >= 1
    assert caller.get("/metrics").headers["content-type"] == TEXT_TYPE


@pytest.mark.slow
def test_ten_thousand_odd_paths_make_no_series(caller: Caller) -> None:
    caller.predict(row())
    for path in ("/nothing", "/predict/nothing", "/v2/models/nothing", "/v1/models/nothing", "/endpoints/nothing/ping"):
        caller.call("POST" if "predict" in path else "GET", path, b"")

    def series() -> set[tuple[str, ...]]:
        found = read_text(caller.get("/metrics").body.decode())
        return {(s.name, *sorted(s.labels.values())) for family in found for s in family.samples}

    caller.get("/metrics")
    before, size = series(), psutil.Process(caller.process.pid).memory_info().rss
    forms = ("/predict/x{}", "/v2/models/x{}/infer", "/v1/models/x{}:predict", "/endpoints/x{}/invocations", "/x{}")
    for place in range(ODD_PATHS):
        assert caller.call("POST", forms[place % len(forms)].format(place), b"{}").status in (400, 404)
    grown = {each for each in series() - before if each[0] != "tidemill_requests_total"}
    assert not grown
    assert len(series()) - len(before) <= len(forms)
    assert psutil.Process(caller.process.pid).memory_info().rss - size < 16 << 20
