"""A Grafana dashboard over what workers tell Prometheus, made from a table of panels."""

from typing import Any, NamedTuple

COLUMNS, WIDTH, HEIGHT = 24, 8, 8
_OF = '{endpoint=~"$endpoint"}'
_SPAN = "[$__rate_interval]"
_FAILED = "5..|INTERNAL|UNAVAILABLE|UNKNOWN"  # codes of HTTP and of gRPC


class Query(NamedTuple):
    """One line of a panel, or one for each set of labels."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One chart. unit: as Grafana names units."""

    title: str
    unit: str
    queries: tuple[Query, ...]


def _rate(metric: str, by: str, of: str = _OF) -> str:
    return f"sum by ({by}) (rate({metric}{of}{_SPAN}))"


def _mean(metric: str, by: str, of: str = _OF) -> str:
    return f"{_rate(metric + '_sum', by, of)} / {_rate(metric + '_count', by, of)}"


def _quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, {_rate(metric + '_bucket', f'le, {by}')})"


PANELS = (
    Panel("Requests by code", "reqps", (Query(_rate("tidemill_requests_total", "code", ""), "{{code}}"),)),
    Panel(
        "Requests that failed",
        "percentunit",
        (
            Query(
                f'sum(rate(tidemill_requests_total{{code=~"{_FAILED}"}}{_SPAN})) / sum(rate(tidemill_requests_total{_SPAN})) or vector(0)',
                "failed",
            ),
        ),
    ),
    Panel("Answers", "reqps", (Query(_rate("tidemill_request_seconds_count", "endpoint"), "{{endpoint}}"),)),
    Panel(
        "Latency",
        "s",
        tuple(
            Query(_quantile(share, "tidemill_request_seconds", "endpoint"), f"{{{{endpoint}}}} p{share * 100:g}")
            for share in (0.5, 0.95, 0.99)
        ),
    ),
    Panel("Waiting", "s", (Query(_quantile(0.99, "tidemill_queue_seconds", "endpoint"), "{{endpoint}} p99"),)),
    Panel(
        "Where the time goes, on average",
        "s",
        (
            Query(_mean("tidemill_queue_seconds", "endpoint"), "{{endpoint}} waiting"),
            Query(_mean("tidemill_feature_lookup_seconds", "endpoint"), "{{endpoint}} features"),
            Query(_mean("tidemill_model_seconds", "endpoint, variant"), "{{endpoint}} model {{variant}}"),
            Query(_mean("tidemill_journal_write_seconds", "worker", ""), "journal of worker {{worker}}"),
        ),
    ),
    Panel(
        "Rows scored at once",
        "short",
        (
            Query(_mean("tidemill_batch_rows", "endpoint"), "{{endpoint}} mean"),
            Query(_quantile(0.95, "tidemill_batch_rows", "endpoint"), "{{endpoint}} p95"),
        ),
    ),
    Panel(
        "Rows by model version",
        "rowsps",
        (
            Query(
                _rate("tidemill_predictions_total", "endpoint, variant, model, model_version"),
                "{{endpoint}} {{variant}} {{model}}@{{model_version}}",
            ),
        ),
    ),
    Panel("Rows recalled", "rowsps", (Query(_rate("tidemill_recalled_rows_total", "endpoint"), "{{endpoint}}"),)),
    Panel("Feature look-up, p99", "s", (Query(_quantile(0.99, "tidemill_feature_lookup_seconds", "endpoint"), "{{endpoint}}"),)),
    Panel("Model, p99", "s", (Query(_quantile(0.99, "tidemill_model_seconds", "endpoint, variant"), "{{endpoint}} {{variant}}"),)),
    Panel(
        "Labels and events taken",
        "rowsps",
        (
            Query(f"sum(rate(tidemill_labels_total{_SPAN}))", "labels"),
            Query(_rate("tidemill_pushed_rows_total", "view", ""), "{{view}}"),
        ),
    ),
    Panel(
        "Memory",
        "bytes",
        (
            Query("sum by (worker) (tidemill_resident_memory_bytes)", "worker {{worker}}"),
            Query("sum by (worker) (tidemill_models_memory_bytes)", "models of worker {{worker}}"),
        ),
    ),
    Panel("Connections", "short", (Query("sum by (worker) (tidemill_connections)", "worker {{worker}}"),)),
    Panel(
        "Models in memory",
        "short",
        (
            Query("sum by (worker) (tidemill_models_loaded)", "worker {{worker}}"),
            Query("sum by (worker) (increase(tidemill_evictions_total[$__rate_interval]))", "made room in worker {{worker}}"),
        ),
    ),
    Panel(
        "Endpoints that do not answer",
        "short",
        (
            Query("sum by (worker) (tidemill_endpoints_not_ready)", "not ready, worker {{worker}}"),
            Query("sum by (worker) (tidemill_endpoints_outdated)", "outdated, worker {{worker}}"),
            Query(f"sum by (endpoint) (increase(tidemill_load_failures_total{_OF}{_SPAN}))", "{{endpoint}} failed to load"),
        ),
    ),
    Panel(
        "Configs",
        "short",
        (
            Query("sum by (worker) (tidemill_config_generation)", "served by worker {{worker}}"),
            Query(f"sum by (worker) (increase(tidemill_configs_refused_total{_SPAN}))", "refused by worker {{worker}}"),
        ),
    ),
    Panel(
        "Lost beside the path",
        "short",
        (
            Query(f"sum by (endpoint) (increase(tidemill_shadow_failures_total{_OF}{_SPAN}))", "{{endpoint}} shadows"),
            Query(f'sum by (outcome) (increase(tidemill_trace_spans_total{{outcome!="exported"}}{_SPAN}))', "spans {{outcome}}"),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it (schema 39: Grafana 10.3 and later). Whoever imports it chooses the data source."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": "tidemill-serving",
        "title": "Tidemill: serving",
        "tags": ["tidemill"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
                {
                    "name": "endpoint",
                    "label": "Endpoint",
                    "type": "query",
                    "datasource": source,
                    "definition": "label_values(tidemill_request_seconds_count, endpoint)",
                    "query": {"query": "label_values(tidemill_request_seconds_count, endpoint)", "refId": "endpoint"},
                    "refresh": 2,
                    "sort": 1,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [_panel(place, panel, source) for place, panel in enumerate(PANELS)],
    }


def _panel(place: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(place, COLUMNS // WIDTH)
    return {
        "id": place + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"drawStyle": "line", "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": source,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
                "exemplar": "_request_seconds_bucket" in query.expression,
            }
            for number, query in enumerate(panel.queries)
        ],
    }
