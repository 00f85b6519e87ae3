"""MLflow's own client against a worker, and MLflow's own scoring code on the same bodies."""

import importlib
import json
import warnings
from typing import Any

import pytest

from tests.serving.plant import Caller

pytest.importorskip("mlflow")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The module that imports MLflow's scoring server: seconds, which only these tests are to wait for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow says of itself
        return importlib.import_module("tests.serving.invocations.theirs")


@pytest.fixture(scope="module")
def scoring(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return theirs.Scoring(tmp_path_factory.mktemp("mlflow") / "model")


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
    ({"dataframe_split": {"columns": ["a", "b"], "data": [["1.5", 1]]}}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": [[True, 1]]}}, JSON),
    ({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 1.5]]}}, JSON),
]
# What MLflow refuses and a worker takes: rows without names fill the columns in their order.
WIDER = [
    ({"inputs": [[1.0, 1], [9.0, 3]]}, JSON),
    ({"dataframe_split": {"data": [[1.0, 1], [9.0, 3]]}}, JSON),
    (b"1.0,1\n9.0,3\n", "text/csv"),
]


def ask(caller: Caller, body: Any, kind: str) -> tuple[bytes, int, list[float] | None]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = caller.post("/invocations", data, **{"content-type": kind})
    return data, answer.status, answer.json()["predictions"] if answer.status == 200 else None


@pytest.mark.parametrize(("body", "kind"), SAME)
def test_a_worker_answers_as_mlflows_scoring_server_does(alone: Caller, scoring: Any, body: Any, kind: str) -> None:
    data, status, predictions = ask(alone, body, kind)
    expected_status, expected = scoring.score(data, kind)
    assert status == expected_status
    if expected is not None:
        assert predictions == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "kind", "ours", "theirs_status"), [*((*each, 400, 200) for each in STRICTER), *((*each, 200, 400) for each in WIDER)]
)
def test_where_a_worker_differs_it_is_on_purpose(
    alone: Caller, scoring: Any, body: Any, kind: str, ours: int, theirs_status: int
) -> None:  # fmt: skip
    data, status, _ = ask(alone, body, kind)
    assert (status, scoring.score(data, kind)[0]) == (ours, theirs_status)


def test_mlflows_client_scores_frames_arrays_and_lists(alone: Caller, theirs: Any) -> None:
    client = theirs.ScoringServerClient("127.0.0.1", alone.port)
    client.wait_server_ready(timeout=5)
    client.ping()
    assert client.get_version()
    frame = theirs.pd.DataFrame({"b": [1, 3], "a": [1.0, 9.0]}, index=[7, 8])
    for data in (frame, frame[["a", "b"]].to_numpy(), [[1.0, 1], [9.0, 3]], frame.to_dict("records")):
        found = client.invoke(data)
        assert found.get_predictions()[0].tolist() == pytest.approx([0.11, 0.93], abs=1e-6)
    assert client.invoke(frame, params={"at": "2013-06-01T12:00:00Z"}).get_predictions("ndarray").shape == (2,)
    with pytest.raises(Exception, match=r"error code 400.*column 'a' is missing"):
        client.invoke(frame[["b"]])


def test_mlflows_client_is_pointed_at_one_of_several_endpoints_by_its_address(caller: Caller, theirs: Any) -> None:
    client = theirs.ScoringServerClient("127.0.0.1", f"{caller.port}/endpoints/numbers")
    client.wait_server_ready(timeout=5)
    assert client.get_version()
    frame = theirs.pd.DataFrame({"x": [1.0, 2.0], "y": [20.0, float("nan")]})  # sent as NaN, which is no JSON
    assert client.invoke(frame).get_predictions("ndarray").tolist() == pytest.approx([0.3, 0.25])
    with pytest.raises(Exception, match="ping failed"):
        theirs.ScoringServerClient("127.0.0.1", f"{caller.port}/endpoints/nobody").ping()
