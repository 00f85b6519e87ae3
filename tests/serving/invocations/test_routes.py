"""MLflow's scoring protocol, spoken to a real worker: what is understood, what is refused, and how."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.plant import NOW, Answer, Caller, Plant, landed_view, python_spec
from tidemill.core.clock import SimulatedClock
from tidemill.core.signature import Column
from tidemill.core.values import replace
from tidemill.features.online import ReadPlan
from tidemill.serving.config import KeyHash
from tidemill.serving.history import inputs, read_predictions

pytestmark = pytest.mark.slow

DELAY, NUMBERS, MIXED = (f"/endpoints/{name}/invocations" for name in ("delay", "numbers", "mixed"))
JSON, CSV, LINES = ({"content-type": kind} for kind in ("application/json", "text/csv", "application/jsonlines"))
FRAMES: dict[str, Any] = {
    "split": {"dataframe_split": {"columns": ["b", "a"], "data": [[1, 1.0], [3, 9.0]], "index": [7, 8]}},
    "split without names": {"dataframe_split": {"data": [[1.0, 1], [9.0, 3]]}},
    "split of an array": {"dataframe_split": {"columns": [0, 1], "data": [[1.0, 1.0], [9.0, 3.0]]}},
    "records": {"dataframe_records": [{"a": 1.0, "b": 1}, {"b": 3, "a": 9.0}]},
    "records, whole numbers as floats": {"dataframe_records": [{"a": 1.0, "b": 1.0}, {"a": 9.0, "b": 3.0}]},
    "instances, objects": {"instances": [{"a": 1.0, "b": 1}, {"a": 9.0, "b": 3}]},
    "instances, lists": {"instances": [[1.0, 1], [9.0, 3]]},
    "instances, dense": {"instances": [{"features": [1.0, 1]}, {"features": [9.0, 3.0]}]},
    "instances, columns": {"instances": {"a": [1.0, 9.0], "b": [1, 3]}},
    "inputs, columns": {"inputs": {"a": [1.0, 9.0], "b": [1.0, 3.0]}},
    "inputs, columns of shape [n, 1]": {"inputs": {"a": [[1.0], [9.0]], "b": [[1], [3]]}},
    "inputs, the model's tensor": {"inputs": {"x": [[1.0, 1], [9.0, 3]]}},
    "inputs, objects": {"inputs": [{"a": 1.0, "b": 1}, {"a": 9.0, "b": 3}]},
    "inputs, lists": {"inputs": [[1, 1], [9, 3]]},
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_every_shape_of_rows_is_understood(caller: Caller, frame: Any) -> None:
    answer = caller.post(DELAY, frame, **JSON)
    assert answer.status == 200, answer.body
    assert answer.json() == {"predictions": pytest.approx([0.11, 0.93], abs=1e-6)}


NUMBER_FRAMES = [
    {"dataframe_split": {"columns": ["y", "x"], "data": [[20.0, 1], [None, 2]]}},
    {"instances": [[1, 20], [2, None]]},
    {"inputs": [[1, 20], [2, float("nan")]]},
    {"inputs": {"x": [1, 2], "y": [20, None]}},
    {"dataframe_records": [{"x": 1.0, "y": 20}, {"x": 2}]},
]


@pytest.mark.parametrize("frame", NUMBER_FRAMES)
def test_null_and_nan_are_missing_and_optional_columns_may_be_left_out(caller: Caller, frame: Any) -> None:
    assert caller.post(NUMBERS, frame).json() == {"predictions": pytest.approx([0.3, 0.25])}
    assert caller.post(NUMBERS, {"inputs": [[1.0], [2.0]]}).json() == {"predictions": pytest.approx([0.15, 0.25])}
    assert caller.post(NUMBERS, {"inputs": [1.0, 2.0]}).json() == {"predictions": pytest.approx([0.15, 0.25])}
    assert caller.post(NUMBERS, {"inputs": {"x": 1.0, "y": 20.0}}).json() == {"predictions": pytest.approx([0.3])}


def test_the_word_nan_stays_in_texts(caller: Caller) -> None:
    body = b'{"dataframe_split": {"columns": ["carrier", "stops"], "data": [["NaN \\" Infinity", NaN], ["EV", 3]]}}'
    answer = caller.post(MIXED, body)
    assert answer.json() == {"predictions": pytest.approx([0.0, 0.53])}


CSVS = {
    "with a header": b"a,b\n1.0,1\n9.0,3\n",
    "in another order, quoted, CRLF": b'"b","a"\r\n1,1.0\r\n3,"9.0"',
    "with a frame's index": b",a,b\n0,1.0,1\n1,9.0,3\n",
    "with a mark in front and empty lines": b"\xef\xbb\xbfa,b\n\n1,1\n\n9,3\n\n",
    "without a header": b"1.0,1\n9.0,3\n",
    "whole numbers as floats": b"1.0,1.0\n9e0,3.0\n",
}


@pytest.mark.parametrize("body", CSVS.values(), ids=CSVS.keys())
def test_csv_is_understood(caller: Caller, body: bytes) -> None:
    for kind in ("text/csv", "text/csv; charset=utf-8", 'Text/CSV;charset="UTF-8"'):
        answer = caller.post(DELAY, body, **{"content-type": kind})
        assert answer.status == 200, answer.body
        assert answer.json() == {"predictions": pytest.approx([0.11, 0.93], abs=1e-6)}


def test_a_content_type_may_say_whether_csv_has_a_header(caller: Caller) -> None:
    absent, present = ({"content-type": f"text/csv; header={word}"} for word in ("absent", "present"))
    assert caller.post(DELAY, b"1.0,1\n9.0,3", **absent).status == 200
    assert caller.post(DELAY, b"a,b\n1.0,1", **absent).status == 400
    assert "column '1.0' is not known" in caller.post(DELAY, b"1.0,1\n9.0,3", **present).json()["message"]


def test_cells_are_missing_when_empty_and_outside_of_texts_as_pandas_reads_them(caller: Caller) -> None:
    body = b"carrier,stops,night\nNA,NA,true\nEV,,False\nEV,3,nan\n,1,1\n"
    answer = caller.post(MIXED, body, **CSV)
    assert answer.status == 400
    assert "row 3: column 'carrier'" in answer.json()["message"]
    assert caller.post(MIXED, body.rpartition(b",1,1")[0].rstrip(), **CSV).json() == {"predictions": pytest.approx([0.25, 0.5, 0.53])}
    assert caller.post(NUMBERS, b"x,y\n1,nan\n1,20", **CSV).json() == {"predictions": pytest.approx([0.15, 0.3])}


def test_prediction_ids_are_in_a_header(caller: Caller, plant: Plant) -> None:
    answer = caller.post(DELAY, FRAMES["split"])
    ids = answer.headers["tidemill-prediction-ids"].split(",")
    assert len(ids) == 2
    assert set(ids) <= set(read_predictions(plant.state, "delay")["id"].to_pylist())


def test_prediction_ids_that_are_too_many_for_a_header_are_in_the_answer(caller: Caller) -> None:
    answer = caller.post(NUMBERS, {"inputs": [[1.0, 2.0]] * 1000})
    told = answer.json()
    assert "tidemill-prediction-ids" not in answer.headers
    assert (len(told["predictions"]), len(set(told["prediction_ids"]))) == (1000, 1000)


def test_params_bring_ids_and_time_and_others_are_ignored(caller: Caller, plant: Plant) -> None:
    params = {"prediction_ids": ["a\r\nb", "mine-2"], "at": "2013-06-01T12:00:00Z", "temperature": 1}
    for frame in (FRAMES["split"], FRAMES["records"]):
        answer = caller.post(DELAY, {**frame, "params": params})
        assert answer.status == 200, answer.body
        assert "tidemill-prediction-ids" not in answer.headers
    found = read_predictions(plant.state, "delay")["id"].to_pylist()
    assert {"a\r\nb", "mine-2"} <= set(found)


A_B = {"columns": ["a", "b"], "data": [[1.0, 1]]}
REFUSED = {
    "nothing": (JSON, b"", "not valid JSON"),
    "not JSON": (JSON, b"{", "not valid JSON"),
    "a list": (JSON, b"[[1, 2]]", "Expected `object`"),
    "null": (JSON, b"null", "Expected `object`"),
    "none of the forms": (JSON, {"messages": []}, "exactly one of dataframe_split"),
    "two of the forms": (JSON, {"inputs": [[1, 1]], "instances": [[1, 1]]}, "it has instances, inputs"),
    "params of a wrong type": (JSON, {"inputs": [[1, 1]], "params": [1]}, "params"),
    "ids of a wrong type": (JSON, {"inputs": [[1, 1]], "params": {"prediction_ids": 3}}, "prediction_ids"),
    "too few ids": (JSON, {"inputs": [[1, 1], [1, 1]], "params": {"prediction_ids": ["x"]}}, "2 rows and 1 ids"),
    "a time of no time": (JSON, {"inputs": [[1, 1]], "params": {"at": "soon"}}, "time 'soon'"),
    "no rows": (JSON, {"dataframe_split": {"columns": ["a", "b"], "data": []}}, "no rows"),
    "no records": (JSON, {"dataframe_records": []}, "no rows"),
    "no instances": (JSON, {"instances": []}, "no rows"),
    "no columns": (JSON, {"inputs": {}}, "no rows"),
    "split that is none": (JSON, {"dataframe_split": [[1, 1]]}, "Expected `object`"),
    "split with more": (JSON, {"dataframe_split": {**A_B, "dtypes": []}}, "unknown field `dtypes`"),
    "split without data": (JSON, {"dataframe_split": {"columns": ["a"]}}, "required field `data`"),
    "split, one name twice": (JSON, {"dataframe_split": {"columns": ["a", "a"], "data": [[1.0, 1]]}}, "'a' comes twice"),
    "records that are none": (JSON, {"dataframe_records": {"a": 1}}, "no list"),
    "records among others": (JSON, {"dataframe_records": [{"a": 1.0, "b": 1}, 3]}, "row 1: is int"),
    "instances that are none": (JSON, {"instances": 3}, "neither a list nor an object"),
    "rows that are uneven": (JSON, {"inputs": [[1.0, 1], [1.0]]}, "row 1 has 1 values; expected 2"),
    "rows among values": (JSON, {"inputs": [[1.0, 1], 3]}, "rows that are lists and others that are none"),
    "columns that are uneven": (JSON, {"inputs": {"a": [1.0], "b": [1, 2]}}, "'b' has 2 values, the others 1"),
    "a tensor that is too narrow": (JSON, {"inputs": {"x": [[1.0]]}}, "row 0 of 'x' has 1 values; expected 2"),
    "a tensor that is flat": (JSON, {"inputs": {"x": [1.0]}}, "expected 2 values: a, b"),
    "a tensor beside its column": (JSON, {"inputs": {"x": [[1.0, 1]], "a": [1.0]}}, "'a' comes twice"),
    "too many values": (JSON, {"inputs": [[1.0, 1, 2]]}, "3 values; endpoint 'delay' takes 2: a, b"),
    "an unknown column": (JSON, {"inputs": {"a": [1.0], "b": [1], "c": [1]}}, "'c' is not known"),
    "a missing column": (JSON, {"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}, "'b' is missing"),
    "a missing value": (JSON, {"dataframe_records": [{"a": 1.0, "b": 1}, {"a": 1.0}]}, "row 1: column 'b' is missing"),
    "a value of a wrong type": (JSON, {"inputs": [["x", 1]]}, "column 'a': Expected `float`, got `str`"),
    "a broken whole number": (JSON, {"inputs": [[1.0, 1.5]]}, "column 'b': Expected `int`, got `float`"),
    "NaN where a value is required": (JSON, b'{"inputs": [[NaN, 1]]}', "column 'a'"),
    "infinity": (JSON, b'{"inputs": [[-Infinity, 1]]}', "holds -Infinity"),
    "a number beyond floats": (JSON, b'{"inputs": [[1e999, 1]]}', "out of range"),
    "text that is not UTF-8": (JSON, b'{"inputs": [["\xff", 1]]}', "not valid JSON"),
    "deep JSON": (JSON, b'{"inputs":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    "deep JSON in a field that is not known": (JSON, b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    "an empty CSV": (CSV, b"\n\n", "no rows"),
    "a CSV of a header": (CSV, b"a,b\n", "no rows"),
    "a CSV with uneven rows": (CSV, b"a,b\n1.0,1\n2.0", "row 1 of the CSV has 1 cells; expected 2"),
    "a CSV with too many columns": (CSV, b"1,2,3", "3 values; endpoint 'delay' takes 2"),
    "a CSV with an unknown column": (CSV, b"a,b,c\n1.0,1,1", "'c' is not known"),
    "a CSV without a column": (CSV, b"a\n1.0", "'b' is missing"),
    "a CSV with a column twice": (CSV, b"a,b,a\n1.0,1,1", "column 'a' twice"),
    "a CSV with text for a number": (CSV, b"a,b\n1.0,1\nx,1", "row 1: column 'a': Expected `float`, got `str`"),
    "a CSV with infinity": (CSV, b"a,b\ninf,1", "column 'a'"),
    "a CSV with a number of Python's": (CSV, b"a,b\n1_0,1", "column 'a'"),
    "a CSV that is not UTF-8": (CSV, b"a,b\n\xff,1", "not UTF-8: invalid start byte at byte 4"),
    "a CSV with half a quote": (CSV, b'a,b\n"1.0,1', "CSV was not understood"),
    "a CSV with a cell that is too large": (CSV, b"a,b\n" + b"1" * 150_000 + b",1", "CSV was not understood"),
    "no lines": (LINES, b"\n", "no rows"),
    "lines that are none": (LINES, b"[1.0\n1]", "2 lines and 1 rows"),
    "lines of several rows": (LINES, b"[1.0,1],[9.0,3]", "1 lines and 2 rows"),
    "lines that are uneven": (LINES, b"[1.0,1]\n[1.0]", "row 1 has 1 values"),
    "lines of several kinds": (LINES, b'{"a":1.0,"b":1}\n[1.0,1]', "row 1: is list"),
    "lines that are not JSON": (LINES, b"{}}\n", "not valid JSON"),
}


@pytest.mark.parametrize(("kind", "body", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_a_400_in_mlflows_shape(caller: Caller, kind: dict[str, str], body: Any, says: str) -> None:
    answer = caller.post(DELAY, body, **kind)
    told = answer.json()
    assert (answer.status, set(told)) == (400, {"error_code", "message"}), told
    assert told["error_code"] == "BAD_REQUEST"
    assert says in told["message"]
    assert caller.post(DELAY, FRAMES["split"]).status == 200


@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "application/json; charset=latin-1", "text/csv; delimiter=;", "application/json; header=absent",
     "application/vnd.apache.parquet", "text/plain", ";", "application/json; format=pandas-split", "text/csv; header=perhaps"],
)  # fmt: skip
def test_another_content_type_is_a_415(caller: Caller, kind: str) -> None:
    answer = caller.post(DELAY, b"a,b\n1.0,1", **{"content-type": kind})
    assert (answer.status, answer.json()["error_code"]) == (415, "BAD_REQUEST")
    assert "expected application/json, text/csv or application/jsonlines" in answer.json()["message"]


def test_json_is_what_a_body_without_content_type_is(caller: Caller) -> None:
    assert caller.post(DELAY, json.dumps(FRAMES["split"]).encode()).status == 200
    assert caller.post(DELAY, FRAMES["split"], **{"content-type": "application/json; charset=UTF-8"}).status == 200


def test_several_endpoints_are_told_apart_by_path(caller: Caller) -> None:
    answer = caller.post("/invocations", FRAMES["split"])
    assert (answer.status, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert "there are several endpoints here (delay, lab/other, mixed, numbers, odd, split); say which" in answer.json()["message"]
    assert caller.post("/endpoints/lab/other/invocations", FRAMES["split"]).status == 200
    answer = caller.post("/endpoints/nobody/invocations", FRAMES["split"])
    assert (answer.status, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    answer = caller.post("/endpoints/delay/invocation", FRAMES["split"])
    assert (answer.status, answer.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")


def test_the_only_endpoint_needs_no_name(alone: Caller) -> None:
    assert alone.post("/invocations", FRAMES["split"]).status == 200


def test_a_worker_without_endpoints_is_not_ready_and_says_so(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "home")
    plant.publish()
    with plant.worker() as caller:
        assert caller.get("/ping").status == caller.get("/health").status == 503
        answer = caller.post("/invocations", FRAMES["split"])
        assert (answer.status, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
        assert "no endpoint is served here yet" in answer.json()["message"]


def test_a_model_that_fails_is_a_500_that_says_so(caller: Caller) -> None:
    answer = caller.post("/endpoints/odd/invocations", {"inputs": [[13.0, 1]]})
    assert (answer.status, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert "not a finite number" in answer.json()["message"]


def test_more_than_may_wait_are_refused_in_mlflows_shape(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "home", trusted_runtimes=["python"], waiting_limit=1)
    plant.publish(plant.endpoint(plant.variant(body="sleep(columns['b'][0]); return columns['a'] / 10")))
    with plant.worker() as caller, ThreadPoolExecutor(3) as threads:

        def ask(_: int) -> Answer:
            own = Caller(caller.port, caller.process, caller.log)
            answer = own.post("/invocations", {"inputs": [[1.0, 1]]})
            own.close()
            return answer

        answered, *refused = sorted(threads.map(ask, range(3)), key=lambda answer: answer.status)
    assert (answered.status, answered.json()) == (200, {"predictions": [0.1]})
    for answer in refused:
        assert (answer.status, answer.headers["retry-after"], answer.json()["error_code"]) == (429, "1", "REQUEST_LIMIT_EXCEEDED")
        assert "is busy" in answer.json()["message"]


def test_a_web_page_may_not_call_a_server_without_keys(caller: Caller) -> None:
    for path in (DELAY, "/invocations"):
        answer = caller.post(path, FRAMES["split"], Origin="https://example.org")
        assert (answer.status, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_keys_are_asked_of_all_but_ping(tmp_path: Path) -> None:
    def key(name: str, project: str) -> KeyHash:
        digest = hashlib.sha256(f"secret of {name}".encode()).hexdigest()
        return KeyHash(id=name, sha256=digest, project=project, writes=False, expires_at=NOW + timedelta(days=10**4))

    plant = Plant(tmp_path / "home")
    plant.publish(plant.endpoint(), keys=(key("viewer", "*"), key("lab", "lab")))
    viewer, lab = ({"Authorization": f"Bearer tm_{name}_secret of {name}"} for name in ("viewer", "lab"))
    with plant.worker() as caller:
        assert [caller.get(path).status for path in ("/ping", "/health", "/version", "/")] == [200] * 4
        for path in (DELAY, "/invocations", "/endpoints/nobody/invocations"):
            answer = caller.post(path, {"inputs": [[1.0, 1]]})
            assert (answer.status, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
            assert "www-authenticate" in answer.headers
        assert caller.get("/endpoints/delay/ping").status == caller.get("/v1/models").status == caller.get("/v1/models/delay").status == 401
        for path, body in (("/invocations", {"inputs": [[1.0, 1]]}), ("/v1/models/delay:predict", {"instances": [[1.0, 1]]})):
            assert caller.post(path, body, **viewer).status == 200
            assert caller.post(path, body, **lab).status == 403


def test_keys_of_features_come_as_texts_and_numbers(tmp_path: Path) -> None:
    view = replace(landed_view(), key_kinds=("long",))
    columns = (Column(name="a", kind="double"), Column(name="flights_2h", kind="double"))
    plan = ReadPlan(project="default", services=("delay@1",), views=(view,), features=("flights_2h",))
    SimulatedClock.create(tmp_path / "clock", NOW)
    plant = Plant(tmp_path / "home", trusted_runtimes=["python"], clock=f"simulated:{tmp_path}/clock")
    body = "return columns['a'] + columns['flights_2h']"
    plant.publish(plant.endpoint(plant.variant(spec=python_spec(inputs=columns), body=body), features=plan), views=(view,))
    event = {"carrier": 7, "flight": "x", "landed_at": (NOW - timedelta(minutes=30)).isoformat(), "delay": 3}
    with plant.worker() as caller:
        assert caller.post("/push/flights", {"rows": [event]}).status == 200
        for frame in ({"inputs": [[1.0, 7.0], [1.0, 8]]}, {"instances": [{"a": 1, "carrier": 7.0}, {"a": 1, "carrier": 8}]}):
            assert caller.post("/invocations", frame).json() == {"predictions": [2.0, 1.0]}
        assert caller.post("/invocations", b"carrier,a\n7,1\n,1", **CSV).json() == {"predictions": [2.0, 1.0]}
        assert inputs(read_predictions(plant.state, "delay"))["carrier"].to_pylist() == [7, 8, 7, 8, 7, None]


def test_other_methods_are_refused_in_mlflows_shape(caller: Caller) -> None:
    answer = caller.get(DELAY)
    assert (answer.status, answer.headers["allow"], set(answer.json())) == (405, "POST", {"error_code", "message"})


# 99 is the number on which the example model fails.
cells = st.none() | st.booleans() | (st.integers() | st.floats()).filter(lambda number: number != 99) | st.text(max_size=4)
values = st.recursive(cells, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list("abx")), inner, max_size=3))
records = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c", "features"]), cells, max_size=3) | values, max_size=3)
split = st.fixed_dictionaries(
    {"data": values}, optional={"columns": st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=3), "index": values}
)
rows = st.lists(st.tuples(st.floats(-1, 9) | st.just(float("nan")), st.integers(0, 9) | st.floats(0, 3)), max_size=4)
columns = st.dictionaries(st.sampled_from(list("abcx")), st.lists(cells, max_size=3) | values, max_size=3)
parts = {"dataframe_split": split, "dataframe_records": records, "instances": records | rows | columns, "inputs": rows | columns | values}
parameters = st.dictionaries(st.sampled_from(["prediction_ids", "at"]), values, max_size=2) | values
bodies = (
    st.binary(max_size=80)
    | values.map(json.dumps).map(str.encode)
    | st.fixed_dictionaries({}, optional={**parts, "params": parameters}).map(json.dumps).map(str.encode)
    | st.one_of(*(part.map(lambda found, form=form: json.dumps({form: found}).encode()) for form, part in parts.items()))
    | st.lists(st.lists(st.text('a,b"1.0\n', max_size=4), max_size=3).map(",".join), max_size=4).map("\n".join).map(str.encode)
    | st.lists(values.map(json.dumps), max_size=4).map("\n".join).map(str.encode)
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([DELAY, NUMBERS, MIXED]),
    kind=st.sampled_from(["application/json", "text/csv", "text/csv; header=absent", "application/jsonlines", "text/html"]),
    accept=st.sampled_from(["*/*", "text/csv", "application/jsonlines"]),
    body=bodies,
)
def test_any_body_is_answered_or_refused_in_mlflows_shape(caller: Caller, path: str, kind: str, accept: str, body: bytes) -> None:
    answer = caller.post(path, body, **{"content-type": kind, "accept": accept})
    if answer.status == 200:
        if accept == "*/*":
            assert all(isinstance(score, float) for score in answer.json()["predictions"])
    else:
        assert answer.status == (415 if kind == "text/html" else 400), answer.body
        assert set(answer.json()) == {"error_code", "message"}
