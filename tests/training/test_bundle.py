"""Bundles: what model.json says, and that equal models are one digest."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.training import worlds
from tidemill.core.codec import decode
from tidemill.core.signature import ModelSpec
from tidemill.store.table import open_store
from tidemill.store.trees import read_tree
from tidemill.training.bundle import model_spec, write_bundle
from tidemill.training.encoding import fit_encoding
from tidemill.training.export import to_onnx
from tidemill.training.model import train
from tidemill.training.splits import split_by_time
from tidemill.training.trees import TreeParams


@pytest.mark.slow
def test_a_bundle_holds_the_model_and_how_to_feed_it(tmp_path: Path) -> None:
    before, after = split_by_time(worlds.flights(600), timestamp="at", last=timedelta(hours=200))
    params = TreeParams(rounds=3, min_data_in_leaf=20)
    model = train(before, after, label="late", numeric=worlds.NUMERIC, categorical=worlds.CATEGORICAL, params=params)
    spec = model_spec(model.encoding, feature_service="delay@1", features=("wind",), optional=("rain",), threshold=0.3)
    store = open_store("file:objects", cache=tmp_path / "cache", base=tmp_path)
    digest = write_bundle(store, to_onnx(model), spec)
    assert write_bundle(store, to_onnx(model), spec) == digest
    tree = read_tree(store, digest)
    assert [entry.path for entry in tree.entries] == ["model.json", "model.onnx"]
    assert store.get(tree.entry("model.onnx").digest) == to_onnx(model)
    assert decode(store.get(tree.entry("model.json").digest), ModelSpec) == spec


def test_the_spec_tells_what_is_looked_up_and_what_comes_with_the_request() -> None:
    encoding = fit_encoding(worlds.flights(50), numeric=worlds.NUMERIC, categorical=worlds.CATEGORICAL)
    spec = model_spec(encoding, feature_service="delay@1", features=("wind",), optional=("rain",))
    assert spec.tensors == {"numeric": ("wind", "hour", "rain"), "categorical": ("carrier", "dest")}
    assert spec.request_columns == ("hour", "rain", "carrier", "dest")
    assert {column.name: (column.kind, column.required) for column in spec.signature.inputs} == {
        "wind": ("double", False),
        "hour": ("double", True),
        "rain": ("double", False),
        "carrier": ("string", True),
        "dest": ("string", True),
    }
    assert all(column.categories == () for column in spec.signature.inputs)
    assert (spec.output, spec.output_index, spec.runtime) == ("probability", 0, "onnx")
