"""Every native route against requests made up from its own OpenAPI document: answered, or refused in one sentence, never failed."""

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests import world
from tidemill.server.app import create_app, openapi

HOST = "testserver"  # the name under which the test client calls
OPERATIONS = sorted(f"{method.upper()} {path}" for path, methods in openapi()["paths"].items() for method in methods)
FAILED = {500, 501, 502, 504}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", OPERATIONS)
def test_made_up_requests_are_answered(label: str, tmp_path: Path) -> None:
    with world.workspace(tmp_path / "home") as ws:
        schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(ws, hosts=(HOST,)))
        method, _, path = label.partition(" ")
        operation = schema[path][method]

        @given(case=operation.as_strategy())
        @settings(max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def answered(case: schemathesis.Case) -> None:
            answer = case.call()
            assert answer.status_code not in FAILED, answer.text
            if answer.status_code >= 400:
                problem = answer.json()
                assert set(problem) >= {"type", "title", "status", "detail"}
                assert problem["detail"]
                assert "Traceback" not in problem["detail"]

        answered()
