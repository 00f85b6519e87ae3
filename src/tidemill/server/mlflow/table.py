"""All of MLflow's API that Tidemill speaks: each noun brings its endpoints."""

from tidemill.server.mlflow import (
    artifacts,
    assessments,
    batches,
    experiments,
    histories,
    inputs,
    logged_models,
    model_versions,
    otlp,
    registered_models,
    runs,
    server_info,
    traces,
    traces_v2,
    transfers,
    workspaces,
)
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.exchange import Stream

ENDPOINTS: tuple[Endpoint, ...] = (
    *server_info.ENDPOINTS,
    *experiments.ENDPOINTS,
    *runs.ENDPOINTS,
    *batches.ENDPOINTS,
    *histories.ENDPOINTS,
    *inputs.ENDPOINTS,
    *logged_models.ENDPOINTS,
    *registered_models.ENDPOINTS,
    *model_versions.ENDPOINTS,
    *artifacts.ENDPOINTS,
    *traces.ENDPOINTS,
    *traces_v2.ENDPOINTS,
    *assessments.ENDPOINTS,
    *workspaces.ENDPOINTS,
)
STREAMS: tuple[Stream, ...] = (*server_info.STREAMS, *artifacts.STREAMS, *transfers.STREAMS, *otlp.STREAMS)
