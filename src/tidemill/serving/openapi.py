"""The routes of a worker, and the OpenAPI 3.1 document that is made from them and from the shapes that they take and give."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from tidemill.client.problems import MEDIA_TYPE, RowsProblem
from tidemill.core.codec import schemas
from tidemill.serving.feast import wire as feast
from tidemill.serving.frames import PredictionsAnswer
from tidemill.serving.invocations import wire as invocations
from tidemill.serving.kserve import wire as kserve
from tidemill.serving.labels import CSV, LINES, Label, LabelsAnswer, LabelsRequest
from tidemill.serving.metrics import OPENMETRICS_TYPE, TEXT_TYPE
from tidemill.serving.oip import wire as oip
from tidemill.serving.predict import PredictAnswer
from tidemill.serving.wire import PushAnswer, PushRequest, Ready, RowsRequest

_JSON = "application/json"
_PARAMETER = re.compile(r"{(\w+)}")
# How errors look, by the start of the summary: each protocol keeps its own shape.
_ERRORS = {
    "Open Inference Protocol": (_JSON, oip.ErrorAnswer),
    "MLflow": (_JSON, invocations.ErrorAnswer),
    "KServe v1": (_JSON, kserve.ErrorAnswer),
    "": (MEDIA_TYPE, RowsProblem),
}


class Route(NamedTuple):
    """What a route does, takes and gives.

    also: what it takes beside JSON, by media type; texts: the media types of an answer that is no JSON; probes: its 503 looks like its 200.
    """

    summary: str
    takes: Any = None
    gives: Any = None
    texts: tuple[str, ...] = ()
    probes: bool = False
    also: tuple[str, ...] = ()


ROUTES: Mapping[str, Route] = {
    "POST /predict/{endpoint}": Route("Answer rows.", RowsRequest, PredictAnswer),
    "POST /feedback": Route(
        "Take labels by prediction id: JSON, a label a line (application/x-ndjson) or CSV (text/csv).",
        LabelsRequest | list[Label],
        LabelsAnswer,
        also=(LINES, CSV),
    ),
    "POST /feedback/{endpoint}": Route(
        "The same, and labels by the endpoint's label key.", LabelsRequest | list[Label], LabelsAnswer, also=(LINES, CSV)
    ),
    "POST /push/{source}": Route("Take events of a source into every feature view over it.", PushRequest, PushAnswer),
    "POST /get-online-features": Route(
        "Feast's call: features of entities, by view or by feature service.", feast.OnlineFeaturesRequest, feast.OnlineFeatures
    ),
    "POST /push": Route("Feast's call: take columns of rows of a source.", feast.PushFeaturesRequest, PushAnswer),
    "GET /livez": Route("The process answers.", gives=Ready),
    "GET /readyz": Route(
        "A config is served, and at least one of its endpoints answers; it lists those that do not.", gives=Ready, probes=True
    ),
    "GET /metrics": Route("Counters of all workers, for Prometheus.", texts=(TEXT_TYPE, OPENMETRICS_TYPE)),
    "GET /openapi.json": Route("This document, with the rows of the endpoints that are in memory.", gives=dict[str, Any]),
    "GET /v2": Route("Open Inference Protocol: the server.", gives=oip.ServerMetadata),
    "GET /v2/health/live": Route("Open Inference Protocol: the process answers.", gives=oip.LiveAnswer),
    "GET /v2/health/ready": Route("Open Inference Protocol: as /readyz.", gives=oip.ReadyAnswer, probes=True),
    "GET /v2/models/{endpoint}": Route("Open Inference Protocol: what it takes and gives.", gives=oip.ModelMetadata),
    "GET /v2/models/{endpoint}/ready": Route(
        "Open Inference Protocol: it answers, be it after it has been loaded.", gives=oip.ModelReady, probes=True
    ),
    "POST /v2/models/{endpoint}/infer": Route("Open Inference Protocol: answer tensors.", oip.InferenceRequest, oip.InferenceResponse),
    "POST /invocations": Route("MLflow and SageMaker: answer rows of the only endpoint.", invocations.ScoringRequest, PredictionsAnswer),
    "POST /endpoints/{endpoint}/invocations": Route("MLflow and SageMaker: answer rows.", invocations.ScoringRequest, PredictionsAnswer),
    "GET /ping": Route("MLflow and SageMaker: there is an endpoint that answers.", texts=(_JSON,), probes=True),
    "GET /health": Route("MLflow: the same.", texts=(_JSON,), probes=True),
    "GET /version": Route("MLflow: the version of Tidemill.", texts=(_JSON,)),
    "GET /endpoints/{endpoint}/ping": Route("MLflow and SageMaker: it is loaded; so do health and version.", texts=(_JSON,), probes=True),
    "GET /": Route("KServe v1: the process answers.", gives=kserve.AliveAnswer),
    "GET /v1/models": Route("KServe v1: the names of the endpoints.", gives=kserve.ModelList),
    "GET /v1/models/{endpoint}": Route("KServe v1: it is loaded.", gives=kserve.ModelReady, probes=True),
    "POST /v1/models/{endpoint}:predict": Route("KServe v1: answer instances.", kserve.PredictRequest, PredictionsAnswer),
}


def document(endpoints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document. endpoints: what requests of `/predict/NAME` look like, as a type, by the name."""
    kinds = list(dict.fromkeys(_kinds()))
    shapes, components = schemas(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(kinds, shapes, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for name, route in ROUTES.items():
        method, _, path = name.partition(" ")
        body = schema_of[route.takes] if route.takes is not None else None
        paths.setdefault(path, {})[method.lower()] = _operation(name, route, schema_of, body)
    general = ROUTES["POST /predict/{endpoint}"]
    for place, (key, request) in enumerate(endpoints.items()):
        # All of them are called the same, and the names of endpoints may hold what those of components may not.
        (body,), own = schemas([request], ref_template=f"#/components/schemas/endpoint{place}.{{name}}")
        components |= {f"endpoint{place}.{name}": schema for name, schema in own.items()}
        route = general._replace(summary=f"Answer rows of {key}.")
        paths[f"/predict/{key}"] = {"post": _operation(f"POST /predict/{key}", route, schema_of, body)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill's data plane",
            "version": version("tidemill"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Predictions and labels. Every protocol keeps its own shape of errors.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: tm_<id>_<secret>"}},
        },
        "security": [{}, {"key": []}],
    }


def _kinds() -> Iterator[Any]:
    for route in ROUTES.values():
        yield from (kind for kind in (route.takes, route.gives) if kind is not None)
    yield from (kind for _, kind in _ERRORS.values())


def _operation(name: str, route: Route, schema_of: Mapping[Any, Any], body: Any) -> dict[str, Any]:
    content = {media: {"schema": {"type": "string"}} for media in route.texts} or {_JSON: {"schema": schema_of[route.gives]}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    media, error = next(found for start, found in _ERRORS.items() if route.summary.startswith(start))
    responses["default"] = {"description": "What went wrong.", "content": {media: {"schema": schema_of[error]}}}
    if route.probes:
        away = {"schema": {"anyOf": [*(told["schema"] for told in content.values()), schema_of[error]]}}
        responses["503"] = {"description": "It does not answer now.", "content": dict.fromkeys((_JSON, media), away)}
    text = {"type": "string", "minLength": 1}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [{"name": each, "in": "path", "required": True, "schema": text} for each in _PARAMETER.findall(name)],
        "responses": responses,
    }
    if body is not None:
        others = {each: {"schema": {"type": "string"}} for each in route.also}
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}, **others}}
    return operation
