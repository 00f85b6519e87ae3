"""KServe's v1 protocol over HTTP: a model is an endpoint, an instance a row, a prediction its score."""

from typing import Literal, NamedTuple

from tidemill.core.codec import Raw, encode
from tidemill.core.errors import Invalid, TidemillError
from tidemill.serving.frames import read_instances, read_json
from tidemill.serving.http import Reply
from tidemill.serving.kserve.wire import AliveAnswer, ErrorAnswer, ModelList, ModelReady, PredictRequest
from tidemill.serving.parameters import read_parameters
from tidemill.serving.predict import Endpoint
from tidemill.serving.problems import RouteNotFound, headers_of, status_of
from tidemill.serving.rows import Rows, RowsRefused
from tidemill.serving.world import World


class Target(NamedTuple):
    """What a path asks: of which model, and what."""

    model: str
    verb: Literal["list", "ready", "predict"]


class KserveRoutes:
    """Answers the protocol's requests."""

    def error_reply(self, error: TidemillError) -> Reply:
        """Return an error in the protocol's shape, which knows 400 for whatever is wrong with the input."""
        status = 400 if isinstance(error, RowsRefused) else status_of(error)
        return Reply(status, encode(ErrorAnswer(error=str(error))), extra=headers_of(error))

    def alive(self) -> Reply:
        return Reply(200, encode(AliveAnswer(status="alive")))

    def models(self, world: World) -> Reply:
        return Reply(200, encode(ModelList(models=world.names)))

    def ready(self, name: str, *, ready: bool) -> Reply:
        return Reply(200 if ready else 503, encode(ModelReady(name=name, ready=ready)))

    def decode(self, endpoint: Endpoint, body: bytes) -> Rows:
        """Read a request as rows. Raises Invalid, RowsRefused."""
        request = read_json(body, PredictRequest, what="predict request")
        found = request.instances or request.inputs
        if not isinstance(found, Raw) or not (data := bytes(found)).startswith(b"["):
            raise Invalid('predict request has no list of instances; expected {"instances": [...]}, one a row')
        return read_instances(endpoint, data, read_parameters(request.parameters or {}), what="the list of instances")


def target_of(path: bytes) -> Target:
    """Read `/v1/models`, `/v1/models/[PROJECT/]MODEL` or the latter with `:predict`. Raises RouteNotFound."""
    text = path.decode("utf-8", "replace")
    if text == "/v1/models":
        return Target("", "list")
    prefix, _, rest = text.partition("/v1/models/")
    name, colon, verb = rest.partition(":")
    if prefix or not 1 <= len(name.split("/")) <= 2 or "" in name.split("/") or (colon and verb != "predict"):
        raise RouteNotFound(text[:200])
    return Target(name, "predict" if colon else "ready")
