"""What a worker counts, for Prometheus: names `tidemill_…`, base units, labels bounded by the config.

Told as OpenMetrics 1.0, with exemplars, to those who ask for it, and in Prometheus' text format 0.0.4 to all others.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, chain
from math import inf
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from tidemill.core.clock import wall
from tidemill.core.codec import pack, unpack
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.serving.config import VariantConfig, write_atomic

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


SUFFIX, STREAM = ".counters", "stream-"
STREAM_S = 30.0  # what a stream told of itself longer ago is told no more


class SavedDistribution(Value, frozen=True, kw_only=True):
    """A distribution as it lies in a file. marks: by bucket, the labels of an exemplar, what was measured, and when."""

    labels: tuple[str, ...]
    counts: list[int]
    total: float
    marks: dict[int, tuple[dict[str, str], float, float]]


class SavedFamily(Value, frozen=True, kw_only=True):
    """A family of the library's as it lies in a file. samples: name, labels and value of each."""

    name: str
    text: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


class SavedCounters(Value, frozen=True, kw_only=True):
    """The counters of one worker, for the others. As numbers: to write and to read them as text takes a hundred times as long."""

    distributions: dict[str, list[SavedDistribution]]
    tallies: dict[str, list[tuple[tuple[str, ...], int]]]
    families: list[SavedFamily]


class Distribution:
    """How often something measured so much, in buckets. A tenth of the cost of the library's histogram; one thread at a time adds."""

    __slots__ = ("bounds", "counts", "marks", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0
        self.marks: dict[int, Exemplar] = {}

    def add(self, measured: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, measured)] += 1
        self.total += measured

    def mark(self, measured: float, trace_id: str) -> None:
        """Name the trace of what was counted: the newest of its bucket is told as an exemplar (OpenMetrics 1.0, section 4.7)."""
        self.marks[bisect_left(self.bounds, measured)] = Exemplar({"trace_id": trace_id}, measured, wall())


class Tally:
    """A count that grows."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add(self, count: int = 1) -> None:
        """Count so many."""
        self.count += count


class Distributions:
    """The distributions of one thing by their labels, as a histogram of the library's for those who read."""

    def __init__(self, what: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels, self._bounds = f"tidemill_{what}", text, labels, bounds
        self._found: dict[tuple[str, ...], Distribution] = {}

    def of(self, *labels: str) -> Distribution:
        """Return the distribution of these labels' values."""
        return self._found.setdefault(labels, Distribution(self._bounds))

    def saved(self) -> list[SavedDistribution]:
        """Return all of them as they are kept in a file."""
        return [
            SavedDistribution(
                labels=labels, counts=list(found.counts), total=found.total,
                marks={place: (dict(mark.labels), mark.value, float(mark.timestamp or 0.0)) for place, mark in list(found.marks.items())},
            )
            for labels, found in list(self._found.items())
        ]  # fmt: skip

    def told(self, saved: Iterable[SavedDistribution]) -> "Distributions":
        """Return what another worker has saved of the same thing."""
        theirs = Distributions(self._name.removeprefix("tidemill_"), self._text, self._labels, self._bounds)
        for each in saved:
            if len(each.counts) == len(self._bounds) + 1:
                found = theirs.of(*each.labels)
                found.counts, found.total = each.counts, each.total
                found.marks = {place: Exemplar(*mark) for place, mark in each.marks.items()}
        return theirs

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, found in list(self._found.items()):  # told in a thread, while others are added
            sums = accumulate(found.counts)
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for place, (bound, count) in enumerate(zip((*self._bounds, inf), sums, strict=True)):
                bucket = ("+Inf" if bound == inf else str(float(bound)), float(count))
                buckets.append((*bucket, found.marks[place]) if place in found.marks else bucket)
            family.add_metric(labels, buckets, found.total)
        yield family


class Tallies:
    """The tallies of one thing by their labels, as a counter of the library's for those who read."""

    def __init__(self, what: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = f"tidemill_{what}", text, labels
        self._found: dict[tuple[str, ...], Tally] = {}

    def of(self, *labels: str) -> Tally:
        """Return the tally of these labels' values."""
        return self._found.setdefault(labels, Tally())

    def saved(self) -> list[tuple[tuple[str, ...], int]]:
        """Return all of them as they are kept in a file."""
        return [(labels, tally.count) for labels, tally in list(self._found.items())]

    def told(self, saved: Iterable[tuple[tuple[str, ...], int]]) -> "Tallies":
        """Return what another worker has saved of the same thing."""
        theirs = Tallies(self._name.removeprefix("tidemill_"), self._text, self._labels)
        for labels, count in saved:
            theirs.of(*labels).add(count)
        return theirs

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, tally in list(self._found.items()):  # the same
            family.add_metric(labels, tally.count)
        yield family


class EndpointMetrics:
    """The counters of one endpoint, its labels bound."""

    def __init__(self, metrics: "Metrics", endpoint: str) -> None:
        self._metrics, self._endpoint = metrics, endpoint
        self.features = metrics.feature_seconds.of(endpoint).add
        self.waited = metrics.queue_seconds.of(endpoint).add
        self.scored = metrics.batch_rows.of(endpoint).add
        self._requests = metrics.request_seconds.of(endpoint)
        self.recalled = metrics.recalled.of(endpoint).add
        self._ran: dict[str, Callable[[float], None]] = {}
        self._predicted: dict[tuple[str, int], Callable[[int], None]] = {}

    def responded(self, seconds: float, trace_id: str) -> None:
        """A request was answered; trace_id: of the caller's trace, empty without one."""
        self._requests.add(seconds)
        if trace_id:
            self._requests.mark(seconds, trace_id)

    def ran(self, variant: str, seconds: float) -> None:
        """A model ran."""
        if variant not in self._ran:
            self._ran[variant] = self._metrics.model_seconds.of(self._endpoint, variant).add
        self._ran[variant](seconds)

    def predicted(self, variant: VariantConfig, rows: int) -> None:
        """A variant answered rows."""
        key = (variant.name, variant.version)
        if key not in self._predicted:
            self._predicted[key] = self._metrics.predictions.of(self._endpoint, variant.name, variant.model, str(variant.version)).add
        self._predicted[key](rows)


class Metrics:
    """The counters of one worker. The others' lie beside it as files, so that whichever worker is asked tells of all of them."""

    def __init__(self, folder: Path, index: int | str) -> None:
        """index: of a worker, or the name that a process with a stream has of `stream_name`."""
        self._folder, self._index = folder, index
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._timed: dict[str, Distributions] = {}
        self._tallied: dict[str, Tallies] = {}
        self.requests = self._tallies("requests", "Requests answered.", ["route", "code"])
        self.predictions = self._tallies("predictions", "Rows answered.", ["endpoint", "variant", "model", "model_version"])
        self.recalled = self._tallies("recalled_rows", "Rows answered by what the model said of the same row before.", ["endpoint"])
        self.streamed = self._tallies(
            "stream_records", "Records of streams: answered, again (by key, before), refused.", ["endpoint", "topic", "outcome"]
        )
        self.stream_lag = Gauge(
            "tidemill_stream_lag_records", "Records of a stream that nobody has settled.", ["endpoint", "topic"], registry=registry
        )
        self.labels = Counter("tidemill_labels", "Labels taken.", registry=registry)
        self.pushed = Counter("tidemill_pushed_rows", "Events stored by feature views, by version.", ["view"], registry=registry)
        self.shadow_failures = Counter(
            "tidemill_shadow_failures", "Requests that a shadow did not answer.", ["endpoint"], registry=registry
        )
        self.request_seconds = self._timings("request", "From the whole request to its answer.", ["endpoint"])
        self.queue_seconds = self._timings("queue", "From the whole request until its rows are worked on.", ["endpoint"])
        self.batch_rows = self._distributions("batch_rows", "Rows scored at once, of one request or of several.", ["endpoint"], ROWS)
        self.feature_seconds = self._timings("feature_lookup", "Looking up the features of a request.", ["endpoint"])
        self.model_seconds = self._timings("model", "Running a model on the rows of a request.", ["endpoint", "variant"])
        self.journal_seconds = self._timings("journal_write", "Writing the records of the requests that arrived together.", [])
        self.spans = self._tallies("trace_spans", "Spans handed on, lost on the way, or not made for too many waited.", ["outcome"])
        self.connections = Gauge("tidemill_connections", "Open connections.", registry=registry)
        self.generation = Gauge("tidemill_config_generation", "Generation of the config that is served.", registry=registry)
        self.memory = Gauge("tidemill_resident_memory_bytes", "Memory of the worker.", registry=registry)
        self.refused = Counter("tidemill_configs_refused", "Configs that could not be read.", registry=registry)
        self.models = Gauge("tidemill_models_loaded", "Models in memory.", registry=registry)
        self.models_memory = Gauge(
            "tidemill_models_memory_bytes", "What the models in memory took when they were loaded.", registry=registry
        )
        self.unready = Gauge("tidemill_endpoints_not_ready", "Endpoints that cannot answer.", registry=registry)
        self.outdated = Gauge("tidemill_endpoints_outdated", "Endpoints answered by what was served before.", registry=registry)
        self.evictions = Counter("tidemill_evictions", "Endpoints that made room in memory for others.", registry=registry)
        self.load_failures = Counter(
            "tidemill_load_failures", "Loads of an endpoint's models that failed.", ["endpoint"], registry=registry
        )
        self.load_seconds = self._timings("load", "Loading and warming up the models of an endpoint.", [])
        self._endpoints: dict[str, EndpointMetrics] = {}

    def endpoint(self, key: str) -> EndpointMetrics:
        """Return the counters of an endpoint."""
        if key not in self._endpoints:
            self._endpoints[key] = EndpointMetrics(self, key)
        return self._endpoints[key]

    def save(self) -> None:
        """Put this worker's counters where the others find them."""
        saved = SavedCounters(
            distributions={name: found.saved() for name, found in self._timed.items()},
            tallies={name: found.saved() for name, found in self._tallied.items()},
            families=[
                SavedFamily(
                    name=family.name, text=family.documentation, kind=family.type,
                    samples=[(sample.name, sample.labels, sample.value) for sample in family.samples],
                )
                for family in self._registry.collect()
            ],
        )  # fmt: skip
        write_atomic(self._path(self._index), pack(saved), sync=False)

    def exposition(self, others: Iterable[int], *, accept: bytes = b"") -> tuple[bytes, str]:
        """Return the counters of this worker, of the others that live and of streams, told apart by the label worker; and their media type.

        accept: the caller's header, which may ask for OpenMetrics.
        """
        timed, tallied = (each.collect() for each in self._timed.values()), (each.collect() for each in self._tallied.values())
        workers: dict[int | str, Iterable[Metric]] = {self._index: chain(self._registry.collect(), *timed, *tallied)}
        told: list[int | str] = [*others, *self._streams()]
        for index in told:
            if index != self._index and (saved := self._saved(index)) is not None:
                workers[index] = self._collected(saved)
        merged = CollectorRegistry(auto_describe=False)
        merged.register(_Merged(workers))
        return (_openmetrics(merged), OPENMETRICS_TYPE) if wants_openmetrics(accept) else (generate_latest(merged), TEXT_TYPE)

    def _timings(self, what: str, text: str, labels: list[str]) -> Distributions:
        return self._distributions(f"{what}_seconds", text, labels, SECONDS)

    def _distributions(self, what: str, text: str, labels: list[str], bounds: Sequence[float]) -> Distributions:
        made = self._timed[what] = Distributions(what, text, labels, bounds)
        return made

    def _tallies(self, what: str, text: str, labels: list[str]) -> Tallies:
        made = self._tallied[what] = Tallies(what, text, labels)
        return made

    def _streams(self) -> list[str]:
        """Return the processes with streams that have told of themselves of late."""
        found = []
        for path in self._folder.glob(f"{STREAM}*{SUFFIX}"):
            with suppress(FileNotFoundError):
                if wall() - path.stat().st_mtime < STREAM_S:
                    found.append(path.stem)
        return found

    def _saved(self, index: int | str) -> SavedCounters | None:
        """Return what another worker has saved, None where it has not yet, or another version of Tidemill did."""
        try:
            return unpack(self._path(index).read_bytes(), SavedCounters)
        except (FileNotFoundError, Invalid):
            return None

    def _collected(self, saved: SavedCounters) -> Iterator[Metric]:
        for family in saved.families:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric
        for what, distributions in saved.distributions.items():
            if what in self._timed:
                yield from self._timed[what].told(distributions).collect()
        for what, tallies in saved.tallies.items():
            if what in self._tallied:
                yield from self._tallied[what].told(tallies).collect()

    def _path(self, index: int | str) -> Path:
        return self._folder / f"{index if isinstance(index, str) else f'serve-{index}'}{SUFFIX}"


class _Merged:
    """Families of several workers as one, each sample with the label worker."""

    def __init__(self, workers: dict[int | str, Iterable[Metric]]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for index, found in sorted(self._workers.items(), key=lambda item: str(item[0])):
            for family in found:
                into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    into.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value, exemplar=sample.exemplar)
        yield from families.values()

    def describe(self) -> list[Metric]:
        return []


def stream_name() -> str:
    """Return what this process is called among those that tell of streams."""
    return f"{STREAM}{os.getpid()}"


def forget_streams(folder: Path) -> None:
    """Remove what streams told of themselves that have ended."""
    for path in folder.glob(f"{STREAM}*{SUFFIX}"):
        with suppress(FileNotFoundError):
            if wall() - path.stat().st_mtime > STREAM_S:
                path.unlink()


def wants_openmetrics(accept: bytes) -> bool:
    """Return whether a caller's Accept header names OpenMetrics in a version that is told here, or in none."""
    for part in accept.decode("latin-1").lower().split(","):
        media, *parameters = (word.strip() for word in part.split(";"))
        told = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media == "application/openmetrics-text" and told.get("version", "1.0.0") == "1.0.0" and told.get("q") not in ("0", "0.0"):
            return True
    return False


def _openmetrics(registry: CollectorRegistry) -> bytes:
    text: bytes = openmetrics.generate_latest(registry, version="1.0.0")  # type: ignore[no-untyped-call]  # the library's
    return text


def process_memory_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process, of this one unless told, 0 where the system does not say."""
    try:
        with Path(f"/proc/{pid or 'self'}/statm").open() as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
