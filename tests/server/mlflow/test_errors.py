"""How errors are told to MLflow's clients: one table, the nearest class counts."""

import json

import pytest

from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.govern.keys import NotAuthenticated
from tidemill.server.mlflow.errors import CODES, error_answer, told_as
from tidemill.tracking.experiments import ExperimentNotFound
from tidemill.tracking.facts import ParamRewritten
from tidemill.tracking.runs import RunInTrash, RunNotFound


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RunNotFound("a"), 404, "RESOURCE_DOES_NOT_EXIST"),
        (ExperimentNotFound(5), 404, "RESOURCE_DOES_NOT_EXIST"),
        (RunInTrash("a"), 400, "INVALID_PARAMETER_VALUE"),
        (ParamRewritten("a", "k", "1", "2"), 400, "INVALID_PARAMETER_VALUE"),
        (Conflict("taken"), 400, "RESOURCE_ALREADY_EXISTS"),
        (Invalid("wrong"), 400, "INVALID_PARAMETER_VALUE"),
        (NotPermitted("no"), 403, "PERMISSION_DENIED"),
        (NotAuthenticated("who"), 401, "UNAUTHENTICATED"),
        (Unavailable("later"), 503, "TEMPORARILY_UNAVAILABLE"),
        (Corrupt("broken"), 500, "DATA_LOSS"),
        (TidemillError("other"), 500, "INTERNAL_ERROR"),
    ],
)
def test_errors_are_told_with_status_and_code(error: TidemillError, status: int, code: str) -> None:
    answered, body = error_answer(error, method="GET", path="/x")
    assert answered == status
    assert json.loads(body)["error_code"] == code
    assert json.loads(body)["message"] == str(error)


def test_every_kind_of_error_has_a_row() -> None:
    def below(kind: type[TidemillError]) -> set[type[TidemillError]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    for kind in (NotFound, Conflict, Invalid, NotPermitted, Unavailable, Corrupt):
        assert all(told_as(each.__new__(each)).status < 500 for each in below(kind) if kind not in (Unavailable, Corrupt))
    assert {told.status for told in CODES.values()} <= {400, 401, 403, 404, 405, 409, 413, 416, 500, 501, 503}
