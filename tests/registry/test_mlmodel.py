"""The MLmodel file: what the real MLflow writes is read, what is written the real MLflow reads, and nothing in it runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import world
from tests.registry.mlflow_models import MLMODEL
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.govern.workspace import Workspace
from tidemill.registry.bundles import read_spec
from tidemill.registry.mlmodel import MLmodel, MLmodelSignature, mlmodel_of, parse_mlmodel, signature_columns, write_mlmodel
from tidemill.store.trees import checkout


def test_what_mlflow_writes_is_read() -> None:
    found = parse_mlmodel(MLMODEL)
    assert sorted(found.flavors) == ["python_function", "sklearn"]
    assert found.flavors["sklearn"]["code"] is None
    assert (found.model_uuid, found.run_id, found.mlflow_version, found.model_size_bytes) == ("m-0a", "aa", "3.17.2", 1036)
    assert signature_columns(found) == {"in wind": "double", "in carrier": "string, optional", "out 0": "tensor int64 [-1]"}
    assert found.more == {"is_signature_from_type_hint": False, "prompts": None, "type_hint_from_example": False}


def test_what_was_read_is_written_the_same() -> None:
    found = parse_mlmodel(MLMODEL)
    assert parse_mlmodel(write_mlmodel(found)) == found
    bare = MLmodel(flavors={})
    assert parse_mlmodel(write_mlmodel(bare)) == bare
    assert signature_columns(bare) == {}


@pytest.mark.slow
def test_the_real_mlflow_reads_what_is_written(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    (tmp_path / "MLmodel").write_bytes(write_mlmodel(parse_mlmodel(MLMODEL)))
    theirs = mlflow.models.Model.load(tmp_path)
    assert theirs.signature.inputs.input_names() == ["wind", "carrier"]
    assert (theirs.model_uuid, theirs.run_id, theirs.flavors["sklearn"]["sklearn_version"]) == ("m-0a", "aa", "1.8.0")
    again = parse_mlmodel(theirs.to_yaml().encode())
    assert again == parse_mlmodel(MLMODEL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")
def test_mlflow_answers_with_a_bundle_of_ours(ws: Workspace, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    bundle = world.bundle(ws, slope=2.0)
    checkout(ws.objects, bundle, tmp_path / "model")
    (tmp_path / "model" / "MLmodel").write_bytes(write_mlmodel(mlmodel_of(read_spec(ws, bundle), run_id="aa", made_at=world.START)))
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    answer = loaded.predict({"numeric": np.array([[0.0], [1.0]], np.float32)})
    assert answer["score"].ravel() == pytest.approx([0.5, 1 / (1 + np.exp(-2.0))])


class Trap:
    """Would tell if anything built it."""

    built: list[Any] = []  # noqa: RUF012

    def __init__(self, *arguments: Any) -> None:
        self.built.append(arguments)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"!!python/object/new:tests.registry.test_mlmodel.Trap [x]", "MLmodel is not valid YAML: could not determine a constructor"),
        (b"flavors: !!python/name:os.system ''", "MLmodel is not valid YAML: could not determine a constructor"),
        (b"", "expected keys and values"),
        (b"- a\n- b", "expected keys and values"),
        (b"a: b", "expected flavors, each with its options"),
        (b"flavors: [sklearn]", "expected flavors, each with its options"),
        (b"flavors: {sklearn: 3}", "expected flavors, each with its options"),
        (b"flavors: {", "MLmodel is not valid YAML"),
        (b"\x80\x04pickle", "MLmodel is not valid YAML"),
        (b"flavors: {}\nsignature: {inputs: '{'}", "inputs of the signature in MLmodel is not valid JSON"),
        (b"flavors: {}\nsignature: {inputs: '[1]'}", "are not a list of column or tensor specs"),
        (b"[" * 5000, "MLmodel"),
        (b"a: " + b"9" * 5000, "MLmodel"),
        (b"x" * (9 << 20), "MLmodel has 9,437,184 bytes; expected at most"),
    ],
)
def test_what_is_no_mlmodel_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        parse_mlmodel(text)
    assert Trap.built == []


def test_a_file_that_unfolds_without_end_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(Invalid, match="MLmodel unfolds to more than 500,000 values"):
        parse_mlmodel("\n".join([*lines, "flavors: {}"]).encode())
    with pytest.raises(Invalid, match="MLmodel unfolds to more than"):
        parse_mlmodel(b"a: &a\n  b: *a\nflavors: {}")


def test_odd_values_become_plain_ones() -> None:
    found = parse_mlmodel(b"flavors: {}\nutc_time_created: 2026-11-20 10:00:00\n1: 2\nbig: 99999999999999999999\nnan: .nan\nset: !!set {a}")
    assert found.utc_time_created == "2026-11-20 10:00:00"
    assert (found.more["1"], found.more["big"], found.more["set"]) == (2, "99999999999999999999", ["a"])
    encode(found)


def test_a_signature_of_params_survives() -> None:
    made = MLmodel(flavors={}, signature=MLmodelSignature(params=({"name": "t", "type": "double", "default": 0.5, "shape": None},)))
    assert parse_mlmodel(write_mlmodel(made)) == made
