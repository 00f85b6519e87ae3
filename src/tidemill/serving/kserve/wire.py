"""The shapes that KServe's v1 protocol dictates, lenient about unknown fields.

Source: kserve.github.io, "Data Plane (V1)"; kserve 0.21, kserve/protocol/rest/v1_endpoints.py.
"""

from typing import Any

from tidemill.core.codec import Raw
from tidemill.core.values import UNSET, UnsetType, Wire


class ErrorAnswer(Wire, frozen=True, kw_only=True):
    """Every error."""

    error: str


class AliveAnswer(Wire, frozen=True, kw_only=True):
    """GET /."""

    status: str


class ModelList(Wire, frozen=True, kw_only=True):
    """GET /v1/models."""

    models: list[str]


class ModelReady(Wire, frozen=True, kw_only=True):
    """GET /v1/models/{model}."""

    name: str
    ready: bool


class PredictRequest(Wire, frozen=True, kw_only=True):
    """POST /v1/models/{model}:predict; KServe's own server takes the rows as inputs, too."""

    instances: Raw | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET
    parameters: dict[str, Any] | None = None
