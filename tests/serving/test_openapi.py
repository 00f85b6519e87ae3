"""The OpenAPI document of the data plane says what its routes do: read by a validator, and asked of a worker by schemathesis.

`pytest --fuzz-requests 10000` asks more than the 1,000 of every run.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.serving.plant import Caller, Plant, row
from tidemill.core.codec import decode_any, encode
from tidemill.serving.openapi import ROUTES, document

GROWTH_BYTES = 24 << 20
# MLflow's scoring server calls "\n" and its bare version JSON, and its clients look at the content type.
NO_JSON = {"GET /ping", "GET /health", "GET /version", "GET /endpoints/{endpoint}/ping"}
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    plant = Plant(tmp_path_factory.mktemp("home"))
    plant.publish(plant.endpoint(plant.variant(version=3)))
    with plant.worker() as found:
        yield found


def test_the_document_is_valid_and_names_every_route() -> None:
    found = decode_any(encode(document({})))
    OpenAPIV31SpecValidator(found).validate()
    assert {f"{method.upper()} {path}" for path, methods in found["paths"].items() for method in methods} == set(ROUTES)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            assert operation["summary"].endswith("."), path
            assert {"200", "default"} <= set(operation["responses"]), path


def test_a_worker_describes_the_rows_of_its_endpoints(caller: Caller) -> None:
    found = caller.get("/openapi.json").json()
    OpenAPIV31SpecValidator(found).validate()
    body = found["paths"]["/predict/delay"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    request = found["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    shape = found["components"]["schemas"][request["properties"]["rows"]["items"]["$ref"].rpartition("/")[2]]
    assert set(shape["properties"]) == set(row())
    assert shape["additionalProperties"] is False


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_requests_made_up_from_the_document_are_answered_as_it_says(caller: Caller, pytestconfig: pytest.Config) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{caller.port}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    # Whoever predicts or gives labels is asked in earnest, all others a few times.
    earnest = [found for found in operations if found.label.startswith("POST") and "push" not in found.label]
    count = pytestconfig.getoption("fuzz_requests") // len(earnest)
    process, seen, sizes = psutil.Process(caller.process.pid), Counter[int](), []

    def ask(operation: Any, examples: int) -> None:
        unchecked = [response_schema_conformance] if operation.label in NO_JSON else []

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def answered(case: schemathesis.Case) -> None:
            if "endpoint" in (case.path_parameters or {}) and sum(seen.values()) % 2:  # else nearly all would ask for nothing
                case.path_parameters["endpoint"] = "delay"
            answer = case.call(timeout=10, session=session)
            seen[answer.status_code] += 1
            assert answer.status_code < 500, (operation.label, case.body, answer.text)
            case.validate_response(answer, checks=[check for check in CHECKS if check not in unchecked])

        answered()
        sizes.append(process.memory_info().rss)

    with requests.Session() as session:
        for operation in operations:
            ask(operation, count if operation in earnest else 10)
    assert sum(seen.values()) >= count * len(earnest) * 0.5
    assert {200, 400, 404, 422} <= set(seen), seen
    assert sizes[-1] - sizes[0] < GROWTH_BYTES
    assert caller.get("/livez").status == 200
