"""All of MLflow's API that Tidemill speaks: each noun brings its endpoints."""

from tidemill.server.mlflow import server_info
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.exchange import Stream

ENDPOINTS: tuple[Endpoint, ...] = (*server_info.ENDPOINTS,)
STREAMS: tuple[Stream, ...] = (*server_info.STREAMS,)
