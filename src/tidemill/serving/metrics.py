"""What a worker counts, in Prometheus' text format: names `tidemill_…`, base units, labels bounded by the config."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tidemill.serving.config import VariantConfig, write_atomic

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class EndpointMetrics:
    """The counters of one endpoint, its labels bound."""

    def __init__(self, metrics: "Metrics", endpoint: str) -> None:
        self._metrics, self._endpoint = metrics, endpoint
        self.features = metrics.feature_seconds.labels(endpoint).observe
        self.journaled = metrics.journal_seconds.labels(endpoint).observe
        self.responded = metrics.request_seconds.labels(endpoint).observe
        self._ran: dict[str, Any] = {}
        self._predicted: dict[tuple[str, str, int], Any] = {}

    def ran(self, variant: str, seconds: float) -> None:
        """A model ran."""
        if variant not in self._ran:
            self._ran[variant] = self._metrics.model_seconds.labels(self._endpoint, variant).observe
        self._ran[variant](seconds)

    def predicted(self, variant: VariantConfig, rows: int) -> None:
        """A variant answered rows."""
        key = (variant.name, variant.model, variant.version)
        if key not in self._predicted:
            labels = (self._endpoint, variant.name, variant.model, str(variant.version))
            self._predicted[key] = self._metrics.predictions.labels(*labels).inc
        self._predicted[key](rows)


class Metrics:
    """The counters of one worker. The others' lie beside it as files, so that whichever worker is asked tells of all of them."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder, self._index = folder, index
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self.requests = Counter("tidemill_requests", "Requests answered.", ["route", "code"], registry=registry)
        self.predictions = Counter(
            "tidemill_predictions", "Rows answered.", ["endpoint", "variant", "model", "model_version"], registry=registry
        )
        self.labels = Counter("tidemill_labels", "Labels taken.", registry=registry)
        self.pushed = Counter("tidemill_pushed_rows", "Events stored by feature views, by version.", ["view"], registry=registry)
        self.shadow_failures = Counter(
            "tidemill_shadow_failures", "Requests that a shadow did not answer.", ["endpoint"], registry=registry
        )
        self.request_seconds = self._histogram("request", "From the whole request to its answer.", ["endpoint"])
        self.feature_seconds = self._histogram("feature_lookup", "Looking up the features of a request.", ["endpoint"])
        self.model_seconds = self._histogram("model", "Running a model on the rows of a request.", ["endpoint", "variant"])
        self.journal_seconds = self._histogram("journal_write", "Writing a request's record.", ["endpoint"])
        self.connections = Gauge("tidemill_connections", "Open connections.", registry=registry)
        self.generation = Gauge("tidemill_config_generation", "Generation of the config that is served.", registry=registry)
        self.memory = Gauge("tidemill_resident_memory_bytes", "Memory of the worker.", registry=registry)
        self.refused = Counter("tidemill_configs_refused", "Configs that could not be served.", registry=registry)
        self._endpoints: dict[str, EndpointMetrics] = {}

    def endpoint(self, key: str) -> EndpointMetrics:
        """Return the counters of an endpoint."""
        if key not in self._endpoints:
            self._endpoints[key] = EndpointMetrics(self, key)
        return self._endpoints[key]

    def save(self) -> None:
        """Put this worker's counters where the others find them."""
        write_atomic(self._path(self._index), generate_latest(self._registry), sync=False)

    def exposition(self, others: Iterable[int]) -> bytes:
        """Return the counters of this worker and of the others that live, told apart by the label worker."""
        texts = {self._index: generate_latest(self._registry).decode()}
        for index in others:
            if index != self._index and (path := self._path(index)).exists():
                texts[index] = path.read_text("utf-8")
        merged = CollectorRegistry(auto_describe=False)
        merged.register(_Merged(texts))
        return generate_latest(merged)

    def _histogram(self, what: str, text: str, labels: list[str]) -> Histogram:
        return Histogram(f"tidemill_{what}_seconds", text, labels, buckets=SECONDS, registry=self._registry)

    def _path(self, index: int) -> Path:
        return self._folder / f"serve-{index}.prom"


class _Merged:
    """Families of several workers as one, each sample with the label worker."""

    def __init__(self, texts: dict[int, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for index, text in sorted(self._texts.items()):
            for family in text_string_to_metric_families(text):
                into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    into.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value)
        yield from families.values()

    def describe(self) -> list[Metric]:
        return []


def process_memory_bytes() -> int:
    """Return the resident memory of this process, 0 where the system does not say."""
    try:
        with Path("/proc/self/statm").open() as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
