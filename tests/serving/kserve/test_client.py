"""KServe's own client, unchanged, over each protocol that it speaks."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.serving.plant import Plant
from tidemill.serving.config import read_states
from tidemill.serving.history import read_predictions

# KServe wants older libraries than Tidemill's own tests, so it has an environment of its own; .ci/run makes it.
PYTHON = Path(__file__).resolve().parents[3] / ".kserve" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="KServe's client is not installed; make its environment as .ci/run does")
def test_kserves_client_is_answered(make_plant) -> None:
    plant: Plant = make_plant(grpc_port=0)
    plant.publish(plant.endpoint(plant.variant(version=3)))
    with plant.worker() as caller:
        grpc = read_states(plant.state)[0].grpc_port
        places = [f"http://127.0.0.1:{caller.port}", f"127.0.0.1:{grpc}", "delay"]
        done = subprocess.run([PYTHON, Path(__file__).with_name("calls.py"), *places], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        rows = [{"a": a, "b": b} for a, b in ((1.0, 1), (2.0, 2), (4.0, 3))]
        answers = caller.predict(*rows)["predictions"]
    outputs = {name: [each[name] for each in answers] for name in ("score", "label")}
    assert told.pop("v1 predict") == {"predictions": outputs["score"]}
    assert [told.pop(name) for name in ("v2 infer, JSON", "v2 infer, binary", "grpc infer")] == [outputs] * 3
    assert told == dict.fromkeys(("v1 ready", "v2 live", "v2 ready", "v2 model ready", "grpc live", "grpc model ready"), True)
    assert read_predictions(plant.state, "delay").num_rows == 15, "each call is journaled"
