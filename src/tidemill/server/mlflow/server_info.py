"""What MLflow's clients ask of the server itself."""

from typing import Any

from tidemill.core.values import Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.exchange import Exchange, Stream

# The release of MLflow whose API this is.
EMULATED = "3.17.2"


class Nothing(Wire, frozen=True, kw_only=True):
    """A request that brings nothing."""


def server_info(ws: Workspace, request: Nothing) -> dict[str, Any]:
    """Say which of the optional parts of the API are there.

    Uploads in parts and downloads in ranges are there, but not offered: MLflow's client sends a part once and gives the whole
    upload up when one fails, while it sends a whole file again when a connection breaks; and it asks one time more for each
    file that it gets in ranges. A client that wants them sets MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD or …_DOWNLOAD.
    """
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": True,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": True,
        "presigned_upload_model_id_supported": True,
        "features_enabled": {"gateway": False},
    }


async def version(exchange: Exchange) -> None:
    """Say which release of MLflow is spoken."""
    await exchange.answer(200, EMULATED.encode(), b"text/html; charset=utf-8")


ENDPOINTS = (Endpoint("GET", "/mlflow/server-info", Nothing, server_info, versions=(3,)),)
STREAMS = (Stream("GET", ("/version",), version),)
