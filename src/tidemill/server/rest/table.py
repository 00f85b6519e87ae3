"""All nouns of the API and the paths they stand under."""

from collections.abc import Mapping

from tidemill.server.rest import (
    artifacts,
    audit,
    batches,
    datasets,
    endpoints,
    experiments,
    features,
    jobs,
    metrics,
    model_versions,
    models,
    monitors,
    pipelines,
    rules,
    runs,
    status,
)
from tidemill.server.rest.route import Route

SERVER_PREFIX = "/api/v1"
PROJECT_PREFIX = "/api/v1/projects/{project}"

SERVER_NOUNS: Mapping[str, tuple[Route, ...]] = {"status": status.ROUTES}
PROJECT_NOUNS: Mapping[str, tuple[Route, ...]] = {
    "datasets": datasets.ROUTES,
    "features": features.ROUTES,
    "experiments": experiments.ROUTES,
    "runs": runs.ROUTES,
    "metrics": metrics.ROUTES,
    "artifacts": artifacts.ROUTES,
    "models": (*models.ROUTES, *model_versions.ROUTES),
    "endpoints": endpoints.ROUTES,
    "batches": batches.ROUTES,
    "monitors": monitors.ROUTES,
    "rules": rules.ROUTES,
    "pipelines": pipelines.ROUTES,
    "jobs": jobs.ROUTES,
    "audit": audit.ROUTES,
}
