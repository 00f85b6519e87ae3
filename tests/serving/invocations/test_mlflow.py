"""MLflow's own client against a worker, and MLflow's own scoring code on the same bodies."""

import json
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.serving.plant import Caller

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what MLflow says of itself
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PythonModel, load_model, save_model, scoring_server
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    from mlflow.types.schema import ColSpec, Schema

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Told(NamedTuple):
    """What came of a body."""

    status: int
    predictions: list[float] | None


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, str], Told]:
    """MLflow's scoring server without its HTTP."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        class Example(PythonModel):
            """The example model of the runtimes' suite."""

            def predict(self, context, model_input, params=None):  # MLflow reads hints as a signature
                return np.clip(model_input["a"] * 0.1 + model_input["b"] * 0.01, 0, 1).to_numpy()

    folder = tmp_path_factory.mktemp("mlflow")
    signature = ModelSignature(inputs=Schema([ColSpec("double", "a"), ColSpec("long", "b")]), outputs=Schema([ColSpec("double", "score")]))
    save_model(folder / "model", python_model=Example(), signature=signature, pip_requirements=[])
    model = load_model(str(folder / "model"))

    def score(body: bytes, kind: str) -> Told:
        try:
            found = scoring_server.invocations(body, kind, model, model.metadata.get_input_schema())
        except MlflowException as error:
            return Told(error.get_http_status_code(), None)
        return Told(found.status, json.loads(found.response)["predictions"] if found.status == 200 else None)

    return score


JSON = "application/json"
SAME = [
    ({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 1], [9.0, 3]]}}, JSON),
    ({"dataframe_split": {"columns": ["b", "a"], "index": [3, 4], "data": [[1, 1.0], [3, 9.0]]}}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 1.0]]}}, f"{JSON}; charset=utf-8"),
    ({"dataframe_records": [{"a": 1.0, "b": 1}, {"b": 3, "a": 9.0}]}, JSON),
    ({"dataframe_records": [{"a": 1, "b": 1.0}]}, JSON),
    ({"instances": [{"a": 1.0, "b": 1}, {"a": 9.0, "b": 3}]}, JSON),
    ({"inputs": {"a": [1.0, 9.0], "b": [1, 3]}}, JSON),
    ({"inputs": [{"a": 1.0, "b": 1}, {"a": 9.0, "b": 3}]}, JSON),
    ({"inputs": {"a": [1.0], "b": [1]}, "params": {"unknown": 1}}, JSON),
    ({"inputs": {"a": [1.0], "b": [1]}, "comment": "nobody's"}, JSON),
    (b"a,b\n1.0,1\n9.0,3\n", "text/csv"),
    (b'"b","a"\r\n1,"1.0"\r\n', "text/csv; charset=utf-8"),
    # Refused by both.
    (b"", JSON),
    (b"{", JSON),
    (b"[[1.0, 1]]", JSON),
    (b"3", JSON),
    (b'{"inputs": ["\xff"]}', JSON),
    ({}, JSON),
    ({"predict": [[1.0, 1]]}, JSON),
    ({"inputs": [[1.0, 1]], "instances": [[1.0, 1]]}, JSON),
    ({"dataframe_split": [[1.0, 1]]}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"]}}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 1]], "more": 1}}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 1, 2]]}}, JSON),
    ({"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": [["x", 1]]}}, JSON),
    ({"dataframe_records": {"a": 1.0, "b": 1}}, JSON),
    ({"dataframe_records": [{"a": 1.0}]}, JSON),
    ({"instances": {"a": [1.0, 2.0], "b": [1]}}, JSON),
    ({"inputs": {"a": ["x"], "b": [1]}}, JSON),
    (b"a,b\nx,1\n", "text/csv"),
    (b"a\n1.0\n", "text/csv"),
    (b"a,b\n1.0,1\n1.0,1,1\n", "text/csv"),
    (b"\xff", "text/csv"),
    (b"a,b\n1.0,1\n", "text/plain"),
    (b"{}", f"{JSON}; charset=latin-1"),
    (b"{}", f"{JSON}; format=pandas-split"),
]
# What MLflow takes and a worker refuses, for it names what is wrong with rows instead of guessing.
STRICTER = [
    ({"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1.0, 1, 2]]}}, JSON),
    (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[NaN, 1]]}}', JSON),
    (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[Infinity, 1]]}}', JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": []}}, JSON),
    (b"a,b\n,1\n", "text/csv"),
]
# What MLflow refuses and a worker takes: rows without names fill the columns in their order.
WIDER = [
    ({"inputs": [[1.0, 1], [9.0, 3]]}, JSON),
    ({"dataframe_split": {"data": [[1.0, 1], [9.0, 3]]}}, JSON),
    (b"1.0,1\n9.0,3\n", "text/csv"),
]


def ask(caller: Caller, body: Any, kind: str) -> tuple[bytes, Told]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = caller.post("/invocations", data, **{"content-type": kind})
    return data, Told(answer.status, answer.json()["predictions"] if answer.status == 200 else None)


@pytest.mark.parametrize(("body", "kind"), SAME)
def test_a_worker_answers_as_mlflows_scoring_server_does(alone: Caller, scoring: Any, body: Any, kind: str) -> None:
    data, ours = ask(alone, body, kind)
    theirs = scoring(data, kind)
    assert ours.status == theirs.status
    if theirs.predictions is not None:
        assert ours.predictions == pytest.approx(theirs.predictions, abs=1e-6)


@pytest.mark.parametrize(("body", "kind", "ours_status"), [*((*each, 400) for each in STRICTER), *((*each, 200) for each in WIDER)])
def test_where_a_worker_differs_it_is_on_purpose(alone: Caller, scoring: Any, body: Any, kind: str, ours_status: int) -> None:
    data, ours = ask(alone, body, kind)
    assert (ours.status, scoring(data, kind).status) == (ours_status, 200 if ours_status == 400 else 400)


def test_mlflows_client_scores_frames_arrays_and_lists(alone: Caller) -> None:
    client = ScoringServerClient("127.0.0.1", alone.port)
    client.wait_server_ready(timeout=5)
    client.ping()
    assert client.get_version()
    frame = pd.DataFrame({"b": [1, 3], "a": [1.0, 9.0]}, index=[7, 8])
    for data in (frame, frame[["a", "b"]].to_numpy(), [[1.0, 1], [9.0, 3]], frame.to_dict("records")):
        found = client.invoke(data)
        assert found.get_predictions()[0].tolist() == pytest.approx([0.11, 0.93], abs=1e-6)
    assert client.invoke(frame, params={"at": "2013-06-01T12:00:00Z"}).get_predictions("ndarray").shape == (2,)
    with pytest.raises(Exception, match=r"error code 400.*column 'a' is missing"):
        client.invoke(frame[["b"]])


def test_mlflows_client_is_pointed_at_one_of_several_endpoints_by_its_address(caller: Caller) -> None:
    client = ScoringServerClient("127.0.0.1", f"{caller.port}/endpoints/numbers")
    client.wait_server_ready(timeout=5)
    assert client.get_version()
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [20.0, np.nan]})  # sent as NaN, which is no JSON
    assert client.invoke(frame).get_predictions("ndarray").tolist() == pytest.approx([0.3, 0.25])
    with pytest.raises(Exception, match="ping failed"):
        ScoringServerClient("127.0.0.1", f"{caller.port}/endpoints/nobody").ping()
