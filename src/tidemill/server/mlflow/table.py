"""All of MLflow's API that Tidemill speaks: each noun brings its endpoints."""

from tidemill.server.mlflow import artifacts, batches, experiments, histories, inputs, logged_models, runs, server_info, transfers
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
    *artifacts.ENDPOINTS,
)
STREAMS: tuple[Stream, ...] = (*server_info.STREAMS, *artifacts.STREAMS, *transfers.STREAMS)
