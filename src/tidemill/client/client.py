"""The SDK's front: one object a server and project, with the nouns as attributes."""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from tidemill.client.answers import Answer
from tidemill.client.audit import Audit
from tidemill.client.batches import Batches
from tidemill.client.call import Caller, Doc, Docs, segment
from tidemill.client.datasets import Datasets
from tidemill.client.endpoints import Endpoints
from tidemill.client.experiments import Experiments
from tidemill.client.features import Features
from tidemill.client.inference import InferenceClient
from tidemill.client.model_versions import ModelVersions
from tidemill.client.models import Models
from tidemill.client.monitors import Alerts, Monitors
from tidemill.client.rules import Jobs, Pipelines, Rules
from tidemill.client.runs import Runs
from tidemill.client.tables import Row
from tidemill.client.transport import Transport, open_transport
from tidemill.core.settings import caller_environment, find_home


class Client:
    """Calls one server for one project. Safe from several threads; close it, or use it in a `with` block."""

    def __init__(
        self,
        transport: Transport,
        *,
        project: str = "default",
        url: str | None = None,
        token: str | None = None,
        serving_url: str | None = None,
    ) -> None:
        """url and token: how the server was reached, for processes that branch off and need connections of their own."""
        self.transport, self.project, self.url, self.token = transport, project, url, token
        self._serving_url = serving_url
        self.caller = Caller(transport, project)
        self.datasets = Datasets(self.caller)
        self.experiments = Experiments(self.caller)
        self.runs = Runs(self.caller)
        self.models = Models(self.caller)
        self.model_versions = ModelVersions(self.caller)
        self.endpoints = Endpoints(self.caller)
        self.features = Features(self.caller)
        self.monitors = Monitors(self.caller)
        self.alerts = Alerts(self.caller)
        self.rules = Rules(self.caller)
        self.jobs = Jobs(self.caller)
        self.pipelines = Pipelines(self.caller)
        self.batches = Batches(self.caller)
        self.audit = Audit(self.caller)

    def __repr__(self) -> str:
        return f"Client({self.transport!r}, project={self.project!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()
        if "predictions" in self.__dict__:
            self.predictions.close()

    def status(self) -> Doc:
        """Return which server this is, who the caller is, what time it is and where predictions are served."""
        return self.caller.server("/status")

    def settings(self) -> Docs:
        """Return the server's settings and where each value came from."""
        return self.caller.server("/settings")

    def controller(self) -> Doc:
        """Return up to which moment the controller has done all that was due, and when it next has something to do."""
        return self.caller.get("/controller")

    def trace(self, prediction: str, *, endpoint: str | None = None) -> Doc:
        """Return the way from an answer back to feature values, model, run, code, data, checks and the decision that released it."""
        return self.caller.get(f"/predictions/{segment(prediction)}/trace", endpoint=endpoint)

    @cached_property
    def predictions(self) -> InferenceClient:
        """The data plane, at the address that was given or that the control plane names."""
        return InferenceClient(self._serving_url or self.status()["serving_url"], token=self.token, project=self.project)

    def predict(self, endpoint: str, rows: Any, *, ids: Sequence[str] | None = None, at: datetime | None = None) -> Answer:
        """Score rows with an endpoint: a dict, a list of dicts, an array or a table. ids name the predictions."""
        return self.predictions.predict(endpoint, rows, ids=ids, at=at)

    def feedback(
        self, ids: str | Sequence[str], values: Any, *, at: datetime | Sequence[datetime] | None = None, endpoint: str | None = None
    ) -> int:
        """Tell what came true for predictions, a value an id; at: since when that is known. Return how many labels are kept.

        endpoint: in the place of ids stand values of its label key.
        """
        return self.predictions.feedback(ids, values, at=at, endpoint=endpoint)

    def push(self, source: str, rows: Sequence[Row]) -> Doc:
        """Send events of a source (a dataset's name) to every feature view over it."""
        return self.predictions.push(source, rows)


def connect(url: str | None = None, *, token: str | None = None, project: str | None = None, serving_url: str | None = None) -> Client:
    """Return a client of the server at url: http://…, https://…, or workspace:FOLDER, which needs no server.

    What is not given comes from TIDEMILL_URL, TIDEMILL_TOKEN and TIDEMILL_PROJECT; without any URL it is the workspace that
    the current folder lies in. Raises NotFound when there is none.
    """
    said = caller_environment()
    place = url or said.get("url") or f"workspace:{find_home()}"
    key = token or said.get("token")
    return Client(
        open_transport(place, token=key), project=project or said.get("project", "default"), url=place, token=key, serving_url=serving_url
    )
