"""Two workers: one serves several endpoints, one a single one, as a container does."""

from collections.abc import Iterator

import pytest

from tests.serving.plant import Caller, Plant, python_spec
from tidemill.core.signature import Column

NUMBERS = (Column(name="x", kind="double"), Column(name="y", kind="double", required=False, high=50.0))
MIXED = (
    Column(name="carrier", kind="string"),
    Column(name="stops", kind="long", required=False),
    Column(name="night", kind="boolean", required=False),
)
SUM = "import numpy as np; return np.clip(columns['x'] / 10 + np.nan_to_num(columns['y'], nan=5) / 100, 0, 1)"
WEIGHED = (
    "import numpy as np; return [{'EV': 0.5, 'NA': 0.25}.get(c, 0) for c in columns['carrier']] + np.nan_to_num(columns['stops']) / 100"
)


@pytest.fixture(scope="package")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("several"), trusted_runtimes=["onnx", "python"], body_limit_bytes=200_000)
    numbers = plant.endpoint(plant.variant(spec=python_spec(inputs=NUMBERS), body=SUM), name="numbers")
    mixed = plant.endpoint(plant.variant(spec=python_spec(inputs=MIXED), body=WEIGHED), name="mixed")
    odd = plant.endpoint(plant.variant(body="return 1 / (columns['a'] != 13)"), name="odd")
    split = plant.endpoint(plant.variant("one"), plant.variant("two", version=2), shares={"one": 0.5, "two": 0.5}, name="split")
    plant.publish(plant.endpoint(), numbers, mixed, odd, split, plant.endpoint(name="other", project="lab"))
    return plant


@pytest.fixture(scope="package")
def caller(plant: Plant) -> Iterator[Caller]:
    with plant.worker() as found:
        yield found


@pytest.fixture(scope="package")
def container(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("alone"))
    plant.publish(plant.endpoint())
    return plant


@pytest.fixture(scope="package")
def alone(container: Plant) -> Iterator[Caller]:
    with container.worker() as found:
        yield found
