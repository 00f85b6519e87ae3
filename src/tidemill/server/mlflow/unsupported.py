"""The parts of MLflow's API that Tidemill does not have, so that it can say so by name."""

import re
from collections.abc import Mapping

_PREFIX = re.compile(r"/(?:ajax-)?api/[23]\.0/mlflow")
PARTS: Mapping[str, str] = {
    "/gateway": "the AI gateway",
    "/scorers": "scorers",
    "/scorer": "scorers",
    "/issues": "issues of traces",
    "/label-schemas": "label schemas",
    "/review-queues": "review queues",
    "/prompt-optimization": "prompt optimisation",
    "/genai": "evaluation on the server",
    "/datasets": "evaluation datasets",
    "/webhooks": "webhooks",
    "/jobs": "jobs of MLflow",
    "/demo": "demo data",
    "/assistant": "the assistant",
    "/mcp-servers": "MCP servers",
    "/traces/metrics": "metrics of traces",
    "/traces/calculate-filter-correlation": "correlations between trace filters",
    "/unified-traces": "traces in a warehouse",
    "/get-online-trace-details": "traces in a warehouse",
    "/runs/create-promptlab-run": "the prompt laboratory",
    "/ui-telemetry": "telemetry of MLflow's pages",
}


def unsupported(path: str) -> str | None:
    """Return what a path of MLflow's API is for when Tidemill does not have it, None when MLflow does not know it either."""
    match = _PREFIX.match(path)
    rest = path[match.end() :] if match else path
    return next((what for part, what in PARTS.items() if rest == part or rest.startswith((part + "/", part + "-"))), None)
