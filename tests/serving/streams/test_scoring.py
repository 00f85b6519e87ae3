"""Streams through a model: each key answered once, bad records put aside, killed and started again without loss."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import world
from tests.services import kafka_cluster
from tests.serving import plant
from tidemill.core.clock import wait_until
from tidemill.core.codec import canonical
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.signature import SPEC_FILE, Column
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.publish import publish
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import register
from tidemill.serving.history import find_prediction
from tidemill.serving.metrics import Metrics, forget_streams
from tidemill.serving.streams.scoring import StreamRequest, score_stream
from tidemill.store.table import open_topic
from tidemill.store.trees import put_tree

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(params=["file", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("redis", "kafka"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for topics of each kind, with none in it."""
    if request.param == "file":
        yield f"file:{tmp_path}/log"
    elif request.param == "kafka":
        with kafka_cluster() as url:
            yield url
    else:
        redis = pytest.importorskip("redis")
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as connection:
            connection.flushdb()
        yield request.getfixturevalue("redis_url")


@pytest.fixture
def served(ws: Workspace) -> Workspace:
    """A workspace with delay@1 behind the endpoint late."""
    world.model(ws)
    create_endpoint(ws, "late", "delay@1")
    publish(ws)
    return ws


def put(url: str, *records: Any, keys: Sequence[str] = ()) -> None:
    topic = open_topic(url)
    datas = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    topic.append(list(zip(keys or ["m"] * len(datas), datas, strict=True)))  # of one key: Kafka keeps their order
    topic.close()


def found(url: str) -> list[dict[str, Any]]:
    topic = open_topic(url)
    messages = topic.messages()
    topic.close()
    return [json.loads(message.data) for message in messages]


def request(place: str, **named: Any) -> StreamRequest:
    idle_s = 2.0 if place.startswith("kafka") else 0.2  # a consumer of Kafka takes its time to begin
    given = {"source": f"{place}/in", "target": f"{place}/out", "endpoint": "late", "key": "id", "until_idle_s": idle_s, **named}
    return StreamRequest(**{name: value for name, value in given.items() if value is not None})


def test_records_are_answered_once_by_key_and_journaled(served: Workspace, place: str) -> None:
    put(f"{place}/in", {"id": "a", "x": 0.0, "more": "is ignored"}, {"id": 7, "x": 1.0}, {"id": "a", "x": 5.0})
    done = score_stream(served, request(place))
    assert (done.read, done.answered, done.again, done.refused) == (3, 2, 1, 0)
    second, first = sorted(found(f"{place}/out"), key=lambda each: str(each["key"]))
    assert (first["key"], first["score"], first["label"], first["variant"], first["version"]) == ("a", 0.5, True, "v1", 1)
    assert (second["key"], second["model"]) == ("7", "delay")
    assert find_prediction(served.state, first["id"], endpoints=["late"]).score == 0.5
    put(f"{place}/in", {"id": "a", "x": 1.0}, {"id": "b", "x": 1.0})
    assert score_stream(served, request(place)).answered == 1
    assert sorted(each["key"] for each in found(f"{place}/out")) == ["7", "a", "b"]


def test_what_is_told_beside_the_score_stands_in_the_answer(ws: Workspace, tmp_path: Path) -> None:
    files = {"model.onnx": plant.several_onnx(), SPEC_FILE: canonical(plant.several_spec(*plant.SEVERAL[:2]))}
    register(ws, "weather", put_tree(ws.objects, files))
    local = f"file:{tmp_path}/log"
    put(f"{local}/in", {"id": "a", "a": 1.0, "b": 1}, {"id": "b", "a": 0.0, "b": 6})
    assert score_stream(ws, request(local, endpoint=None, model="weather@1")).answered == 2
    first, second = found(f"{local}/out")
    assert [first["outputs"]["label"], second["outputs"]["label"]] == ["calm", "windy"]
    assert first["outputs"]["probabilities"][1] == pytest.approx(first["score"])


def test_workers_tell_of_streams(served: Workspace, tmp_path: Path) -> None:
    local = f"file:{tmp_path}/log"
    put(f"{local}/in", {"id": "a", "x": 0.0}, {"id": "a", "x": 1.0}, {"id": "b"}, {"id": "c", "x": 1.0}, {"id": "d", "x": 1.0})
    score_stream(served, request(local, limit=4))
    worker = Metrics(served.state / "run", 0)
    told = worker.exposition([0])[0].decode().splitlines()
    who = f'worker="stream-{os.getpid()}"'
    for outcome, count in (("answered", 2), ("again", 1), ("refused", 1)):
        assert f'tidemill_stream_records_total{{endpoint="late",outcome="{outcome}",topic="in",{who}}} {count}.0' in told
    assert f'tidemill_stream_lag_records{{endpoint="late",topic="in",{who}}} 1.0' in told
    (path,) = (served.state / "run").glob("stream-*")
    os.utime(path, (0, 0))
    assert who not in worker.exposition([0])[0].decode()
    forget_streams(served.state / "run")
    assert not path.exists()


def test_bad_records_are_put_aside_with_the_reason_and_the_rest_goes_on(served: Workspace, place: str) -> None:
    bad = [b"{", b"\xff", [1], {"x": 1.0}, {"id": "c", "x": "high"}, {"id": "d"}, {"id": True, "x": 1.0}, {"id": "e" * 201, "x": 1}]
    put(f"{place}/in", *bad, {"id": "z", "x": 1.0})
    done = score_stream(served, request(place))
    assert (done.read, done.answered, done.refused) == (9, 1, 8)
    reasons = [each["reason"] for each in found(f"{place}/in.refused")]
    for reason, says in zip(
        reasons,
        (
            "not valid JSON",
            "not valid JSON",
            "is list; expected an object",
            "holds no key",
            "column 'x'",
            "'x' is missing",
            "no key",
            "no key",
        ),
        strict=True,
    ):
        assert says in reason
    assert found(f"{place}/in.refused")[4]["data"] == '{"id": "c", "x": "high"}'
    assert [each["key"] for each in found(f"{place}/out")] == ["z"]


def test_one_record_that_the_model_fails_on_holds_up_no_other(ws: Workspace, place: str) -> None:
    spec = plant.onnx_spec()
    register(ws, "example", put_tree(ws.objects, {"model.onnx": plant.example_onnx(), SPEC_FILE: canonical(spec)}))
    a, b = (column.name for column in spec.signature.inputs)
    put(f"{place}/in", *({"id": str(n), a: 1.0, b: 99 if n == 3 else 1} for n in range(6)))
    done = score_stream(ws, request(place, endpoint=None, model="example@1"))
    assert (done.answered, done.refused) == (5, 1)
    assert "is not a finite number" in found(f"{place}/in.refused")[0]["reason"]


@pytest.mark.slow
def test_code_of_a_bundle_is_given_one_record(tmp_path: Path) -> None:
    """It might say something of the rows as a whole."""
    spec = plant.python_spec(inputs=(Column(name="a", kind="double"),))
    code = plant.PYTHON.format(body="return [each / sum(columns['a']) for each in columns['a']]")
    with world.workspace(tmp_path / "home", trusted_runtimes=["python"]) as ws:
        register(ws, "share", put_tree(ws.objects, {"model.py": code.encode(), SPEC_FILE: canonical(spec)}))
        place = f"file:{tmp_path}/log"
        put(f"{place}/in", *({"id": str(n), "a": 1.0 + n} for n in range(5)))
        score_stream(ws, request(place, endpoint=None, model="share@1"))
        assert [each["score"] for each in found(f"{place}/out")] == [1.0] * 5


def test_without_a_key_field_the_message_s_own_key_counts(served: Workspace, place: str) -> None:
    put(f"{place}/in", {"x": 1.0}, {"x": 2.0}, {"x": 3.0}, {"x": 4.0}, keys=["k", "k", "", ""])
    assert score_stream(served, request(place, key=None)).answered == 3


def test_a_limit_ends_it(served: Workspace, place: str) -> None:
    if place.startswith("kafka"):
        pytest.skip("the mock cluster forgets the offsets that a transaction commits")
    put(f"{place}/in", *({"id": str(n), "x": 1.0} for n in range(5)))
    assert score_stream(served, request(place, limit=3, until_idle_s=None)).read == 3
    assert score_stream(served, request(place)).read == 2


@pytest.mark.slow
def test_the_trace_of_an_entry_goes_with_its_answer(served: Workspace, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as connection:
        connection.flushdb()
        connection.xadd("in", {"data": '{"id": "a", "x": 1.0}', "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        connection.xadd("in", {"x": "1.0"})
    assert score_stream(served, request(redis_url)).refused == 1
    assert found(f"{redis_url}/out")[0]["trace"] == TRACE


@pytest.mark.parametrize(
    ("named", "error", "says"),
    [
        ({"model": "delay@1"}, Invalid, "scored by one thing"),
        ({"endpoint": "early"}, NotFound, r"no endpoint 'early' is served here \(served: late\)"),
        ({"endpoint": None, "model": "delay@9"}, NotFound, "delay@9"),
    ],
)
def test_what_cannot_answer_is_told(served: Workspace, tmp_path: Path, named: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        score_stream(served, request(f"file:{tmp_path}/log", **named))


def test_only_who_may_read_endpoints_scores(served: Workspace, tmp_path: Path) -> None:
    nobody = world.acting(served, "vic", "viewer")
    put(f"file:{tmp_path}/log/in", {"id": "a", "x": 1.0})
    with pytest.raises(ActionRefused, match=r"serving\.write"):
        score_stream(nobody, request(f"file:{tmp_path}/log"))


@pytest.mark.slow
def test_killed_at_any_moment_every_key_is_answered_once(served: Workspace, place: str) -> None:
    distinct = 15_000 if place.startswith("kafka") else 3000
    keys, late = [f"k{n % distinct}" for n in range(distinct + 1000)], [f"late{n}" for n in range(200)]
    put(f"{place}/in", *({"id": key, "x": 0.1} for key in keys))
    command = [
        sys.executable, "-m", "tidemill", "predict", "stream", "late", "--home", str(served.home), "--from", f"{place}/in",
        "--to", f"{place}/out", "--key", "id", "--claim-after", "0.2", "--json",
    ]  # fmt: skip
    for share in (1, 1000):
        with started(command) as process:
            assert wait_until(lambda share=share: count(f"{place}/out") >= share, timeout_s=60)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    put(f"{place}/in", *({"id": key, "x": 0.1} for key in late))  # something is left, however quick the two were
    with started([*command, "--until-idle", "3"]) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    answers = [each["key"] for each in found(f"{place}/out")]
    assert sorted(answers) == sorted({*keys, *late})
    assert json.loads(out)["refused"] == 0


@pytest.mark.slow
def test_told_to_stop_it_settles_what_it_has_read(served: Workspace, place: str) -> None:
    put(f"{place}/in", *({"x": 0.1} for _ in range(10)), keys=[str(n) for n in range(10)])
    command = [
        sys.executable, "-m", "tidemill", "predict", "stream", "delay@1", "--home", str(served.home), "--from", f"{place}/in",
        "--to", f"{place}/out",
    ]  # fmt: skip
    with started(command) as process:
        assert wait_until(lambda: count(f"{place}/out") == 10, timeout_s=60)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("10 messages")


def count(url: str) -> int:
    return len(found(url))


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command; it is gone when the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()
