"""What a worker logs of requests: nothing, unless told to tell of slow ones."""

import json
from collections.abc import Callable

import pytest

from tests.serving.plant import Plant, row

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.slow
def test_slow_requests_are_logged_with_endpoint_and_trace(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant(slow_request_ms=30)
    slow = plant.endpoint(plant.variant(body="sleep(0.05)\n    return [0.5 for _ in columns['a']]"), name="slow")
    plant.publish(plant.endpoint(), slow)
    with plant.worker() as caller:
        caller.predict(row())
        header = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        assert caller.call("POST", "/predict/slow", {"rows": [row()]}, header).status == 200
        lines = [json.loads(line) for line in caller.log.read_text().splitlines()]
    told = [line for line in lines if line["logger"] == "tidemill.serving.routes"]
    assert [(line["endpoint"], line["trace_id"]) for line in told] == [("slow", TRACE)]
    assert "ms for 1 rows (predict)" in told[0]["message"]
