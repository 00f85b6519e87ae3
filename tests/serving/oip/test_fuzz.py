"""Ten thousand requests in the protocol's shape, right and wrong: every one is answered, none with a server error, memory stays flat."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.serving.plant import Caller, Plant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EXAMPLES, AT_ONCE = 500, 20
GROWTH_BYTES = 24 << 20

NAMES = st.sampled_from(["x", "a", "b", "score", "", "X", "nothing", "ü", "a" * 300])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.sampled_from([0, 1, 1.0, 1e300, -1e39, 2**63]),
)  # fmt: skip
DATA = st.one_of(
    st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8),
    st.lists(SCALARS, max_size=8),
    st.lists(st.lists(SCALARS, max_size=3), max_size=3),
)
SHAPES = st.one_of(st.sampled_from([[1], [2], [1, 2], [2, 2], [1, 1], [4, 1]]), st.lists(st.integers(-2, 2**40), max_size=4))
DATATYPES = st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL", "FP16", "BF16", "UINT8", "FP65", ""])
PARAMETERS = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "at", "prediction_ids", "priority"]), SCALARS, max_size=2
)
TENSORS = st.fixed_dictionaries(
    {"name": NAMES, "shape": SHAPES, "datatype": DATATYPES}, optional={"data": DATA, "parameters": PARAMETERS, "more": SCALARS}
)
OUTPUTS = st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"parameters": PARAMETERS}), max_size=2)
# What is right, so that answers are fuzzed as well as refusals.
RIGHT = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 9)), min_size=1, max_size=4).map(
    lambda rows: json.dumps(
        {
            "inputs": [
                {"name": "a", "shape": [len(rows)], "datatype": "FP64", "data": [a for a, _ in rows]},
                {"name": "b", "shape": [len(rows), 1], "datatype": "INT64", "data": [[b] for _, b in rows]},
            ]
        }
    ).encode()
)
BODIES = st.one_of(
    RIGHT,
    st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=3)}, optional={"id": SCALARS, "parameters": PARAMETERS, "outputs": OUTPUTS}
    ).map(lambda body: json.dumps(body).encode()),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)).map(
        lambda body: json.dumps(body).encode()
    ),
    st.binary(max_size=50),
)
PATHS = st.sampled_from(
    ["/v2/models/delay/infer"] * 12 + ["/v2/models/delay/versions/3/infer", "/v2/models/delay/versions/9/infer", "/v2/models/none/infer"]
    + ["/v2/models/delay", "/v2", "/v2/health/ready", "/v2/models//infer", "/v2/models/a/b/c/infer"]
)  # fmt: skip
REQUESTS = st.tuples(st.sampled_from(["POST"] * 8 + ["GET"]), PATHS, BODIES, st.none() | st.integers(0, 60))


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    plant = Plant(tmp_path_factory.mktemp("home"))
    plant.publish(plant.endpoint(plant.variant(version=3)))
    with plant.worker() as found:
        yield found


def test_ten_thousand_requests_are_answered_and_memory_stays_flat(caller: Caller) -> None:
    process, seen, sizes = psutil.Process(caller.process.pid), Counter[int](), []

    @settings(
        max_examples=EXAMPLES, deadline=None, phases=[Phase.generate], derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(st.lists(REQUESTS, min_size=AT_ONCE, max_size=AT_ONCE))
    def ask(requests: list[tuple[str, str, bytes, int | None]]) -> None:
        for method, path, body, length in requests:
            answer = caller.call(method, path, body, {} if length is None else {"inference-header-content-length": str(length)})
            seen[answer.status] += 1
            told: Any = answer.json() if answer.headers["content-type"] == "application/json" else {}
            assert answer.status < 500, (method, path, body, answer.body)
            assert answer.status == 200 or (list(told) == ["error"] and len(told["error"]) > 15 and "\n" not in told["error"]), answer.body
        sizes.append(process.memory_info().rss)

    ask()
    assert sum(seen.values()) >= EXAMPLES * AT_ONCE * 0.9
    assert {200, 400, 404, 405} <= set(seen), seen
    assert seen[200] > 100
    assert max(sizes[-20:]) - min(sizes[len(sizes) // 4 :]) < GROWTH_BYTES, "memory grew"
    assert caller.get("/v2/health/live").status == 200
