"""The shapes that MLflow's scoring server dictates, lenient about unknown fields. Parts with rows stay as they lie in the body.

Source: mlflow 3.17, mlflow/pyfunc/scoring_server; AWS, "Custom Inference Code with Hosting Services".
"""

from typing import Any

from tidemill.core.codec import Raw
from tidemill.core.values import UNSET, UnsetType, Value, Wire


class ErrorAnswer(Wire, frozen=True, kw_only=True):
    """Every error."""

    error_code: str
    message: str


class ScoringRequest(Wire, frozen=True, kw_only=True):
    """POST /invocations: exactly one of the four, and params."""

    dataframe_split: Raw | UnsetType = UNSET
    dataframe_records: Raw | UnsetType = UNSET
    instances: Raw | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET
    params: dict[str, Any] | None = None


class SplitFrame(Value, frozen=True, kw_only=True):
    """A frame as pandas' `to_dict("split")` has it; the index is not looked at."""

    data: Raw
    columns: list[str | int] | None = None
    index: Any = None


class AnswerLine(Wire, frozen=True, kw_only=True):
    """One line of an answer in JSON Lines."""

    prediction: float | list[Any] | dict[str, Any]
    id: str
