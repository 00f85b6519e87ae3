"""Fixtures of the data plane."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.plant import Plant


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "home", trusted_runtimes=["onnx", "python"])


@pytest.fixture
def make_plant(tmp_path: Path) -> Callable[..., Plant]:
    def make(**settings: Any) -> Plant:
        return Plant(tmp_path / "home", **{"trusted_runtimes": ["onnx", "python"], **settings})

    return make
