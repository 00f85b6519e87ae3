"""Many models in one worker: those that cannot be loaded keep no other away, and a budget of memory decides who is in it."""

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import grpc
import psutil
import pytest

from tests.serving.grpc.lines import line
from tests.serving.plant import Answer, Caller, Plant, now_s, row
from tests.serving.test_models import crashing
from tidemill.core.clock import wait_until
from tidemill.core.digest import digest_bytes
from tidemill.core.values import replace
from tidemill.serving.config import read_states
from tidemill.serving.grpc.wire import MESSAGES
from tidemill.serving.history import read_predictions
from tidemill.serving.metrics import process_memory_bytes

pytestmark = pytest.mark.slow
weighs = pytest.mark.skipif(not process_memory_bytes(), reason="this system does not say what a process takes")
SLOWLY = "return columns['a'] * 0\n\nsleep({seconds})"  # when it is imported
TENSORS = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 1]}]}


def gauge(caller: Caller, name: str) -> float:
    """Return a figure of the worker, of all labels together."""
    lines = caller.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"tidemill_{name}{{", f"tidemill_{name} ")))


def ask(caller: Caller, name: str) -> Answer:
    """Ask an endpoint over a connection of its own."""
    with closing(Caller(caller.port, caller.process, caller.log)) as mine:
        return mine.post(f"/predict/{name}", {"rows": [row()]})


def request(name: str) -> Any:
    """Return a call over gRPC of one row."""
    found = MESSAGES["ModelInferRequest"](model_name=name)
    found.inputs.add(name="x", datatype="FP64", shape=(1, 2)).contents.fp64_contents.extend((1.0, 1.0))
    return found


def test_what_cannot_be_loaded_is_a_503_of_each_protocol_and_all_else_is_served(plant: Plant) -> None:
    missing = plant.endpoint(replace(plant.variant(version=2), bundle=digest_bytes(b"never stored")), name="missing")
    plant.publish(plant.endpoint(), missing, plant.endpoint(plant.variant(body="return 1 / 0"), name="broken"))
    with plant.worker() as caller:
        assert caller.predict(row())["version"] == 1
        shapes = {
            "/predict/missing": ({"rows": [row()]}, "detail"),
            "/v2/models/missing/infer": (TENSORS, "error"),
            "/v1/models/missing:predict": ({"instances": [row()]}, "error"),
            "/endpoints/missing/invocations": ({"dataframe_records": [row()]}, "message"),
        }
        for path, (body, field) in shapes.items():
            answer = caller.post(path, body)
            assert answer.status == 503, path
            assert int(answer.headers["retry-after"]) >= 1
            told = answer.json()[field]
            assert told.startswith("endpoint 'missing' is not ready: model example@2 cannot be loaded: "), path
            assert "it is tried again in " in told
        assert "ZeroDivisionError" in caller.post("/predict/broken", {"rows": [row()]}).json()["detail"]
        for path, field in (("/v2/models/{}/ready", "ready"), ("/v1/models/{}", "ready"), ("/endpoints/{}/ping", None)):
            well, ill = caller.get(path.format("delay")), caller.get(path.format("missing"))
            assert (well.status, ill.status) == (200, 503), path
            assert field is None or (well.json()[field], ill.json()[field]) == (True, False)
        assert caller.get("/v2/models/missing").status == 503
        ready = caller.get("/readyz")
        assert (ready.status, ready.json()["ready"], ready.json()["not_ready"]) == (200, True, ["broken", "missing"])
        assert caller.get("/v1/models").json() == {"models": ["broken", "delay", "missing"]}
        assert (caller.get("/v2/health/ready").status, caller.get("/ping").status) == (200, 200)
        assert gauge(caller, "endpoints_not_ready") == 2
        assert gauge(caller, "load_failures_total") >= 2
        troubles = read_states(plant.state)[0].troubles
        assert [(each.endpoint, each.serves) for each in troubles] == [("broken", ()), ("missing", ())]


def test_an_endpoint_heals_once_the_object_store_is_back(plant: Plant) -> None:
    plant.publish(plant.endpoint(), plant.endpoint(plant.variant(version=2, offset=0.2), name="other"))
    objects, away = plant.state / "objects", plant.state / "objects-away"
    objects.rename(away)
    with plant.worker(ready=False) as caller:
        assert caller.post("/predict/delay", {"rows": [row()]}).status == 503
        if objects.exists():
            objects.rename(plant.state / "objects-empty")
        away.rename(objects)
        assert wait_until(lambda: caller.get("/readyz").json().get("not_ready") is None, timeout_s=20)
        assert caller.predict(row())["predictions"][0]["score"] == pytest.approx(0.11, abs=1e-6)
        assert caller.predict(row(), endpoint="other")["predictions"][0]["score"] == pytest.approx(0.31, abs=1e-6)
        assert wait_until(lambda: read_states(plant.state)[0].troubles == (), timeout_s=5)


def test_a_new_process_serves_what_was_served_where_the_published_cannot_be(plant: Plant) -> None:
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        caller.predict(row())
    plant.publish(plant.endpoint(replace(plant.variant(version=2), bundle=digest_bytes(b"never stored"))))
    with plant.worker() as caller:
        assert caller.predict(row())["version"] == 1
        assert read_states(plant.state)[0].troubles[0].serves == ("example@1",)


@weighs
def test_models_come_when_asked_and_go_when_others_need_their_memory(make_plant) -> None:
    plant = make_plant(serve_memory_mb=1, serve_pinned=["e0"])
    count = 12
    plant.publish(*(plant.endpoint(plant.variant(offset=number / 100, version=number + 1), name=f"e{number}") for number in range(count)))
    with plant.worker() as caller:
        assert (gauge(caller, "models_loaded"), caller.get("/readyz").json()) == (1, {"ready": True, "generation": 1})
        assert caller.get("/v2/models/e5/ready").json() == {"name": "e5", "ready": True}
        assert gauge(caller, "models_loaded") == 1, "who only asks whether it is ready loads nothing"
        numbers = random.Random(1).choices(range(count), k=150)
        for number in numbers:
            answer = caller.predict(row(), endpoint=f"e{number}")
            assert answer["version"] == number + 1
            assert answer["predictions"][0]["score"] == pytest.approx(0.11 + number / 100, abs=1e-6)
        assert gauge(caller, "evictions_total") > 0
        assert 1 < gauge(caller, "models_loaded") < count
        assert gauge(caller, "models_memory_bytes") <= 1 << 20
        before = gauge(caller, "load_seconds_count")
        caller.predict(row(), endpoint="e0")
        assert gauge(caller, "load_seconds_count") == before, "one that is pinned stays"
    assert sum(read_predictions(plant.state, f"e{number}").num_rows for number in range(count)) == len(numbers) + 1


@weighs
def test_the_one_that_was_not_asked_for_longest_goes_first(make_plant) -> None:
    plant = make_plant(serve_memory_mb=100)  # two processes of Python's
    plant.publish(
        *(plant.endpoint(plant.variant(body=f"return columns['a'] * 0 + 0.{number}"), name=f"e{number}") for number in (1, 2, 3, 4))
    )
    with plant.worker() as caller:
        for number in (1, 2, 3, 4):
            caller.predict(row(), endpoint=f"e{number}")
        loads = gauge(caller, "load_seconds_count")
        assert gauge(caller, "evictions_total") >= 1
        worker = psutil.Process(caller.process.pid)
        assert wait_until(lambda: len(worker.children()) == gauge(caller, "models_loaded"), timeout_s=5), "who left left a process"
        caller.predict(row(), endpoint="e4")
        assert gauge(caller, "load_seconds_count") == loads
        assert caller.predict(row(), endpoint="e1")["predictions"][0]["score"] == pytest.approx(0.1)
        assert gauge(caller, "load_seconds_count") == loads + 1


@weighs
def test_a_hundred_callers_wait_for_one_load_and_others_do_not(make_plant) -> None:
    plant = make_plant(serve_memory_mb=1000)
    slow = plant.endpoint(plant.variant(body=SLOWLY.format(seconds=1.5)), name="slow")
    plant.publish(plant.endpoint(), slow)
    with plant.worker() as caller, ThreadPoolExecutor(101) as callers:
        caller.predict(row())
        before = gauge(caller, "load_seconds_count")
        answers = [callers.submit(ask, caller, "slow") for _ in range(100)]
        slowest = 0.0
        while not all(answer.done() for answer in answers):
            begun = now_s()
            caller.predict(row())
            slowest = max(slowest, now_s() - begun)
        assert {answer.result().status for answer in answers} == {200}
        assert slowest < 1.0
        assert gauge(caller, "load_seconds_count") == before + 1
    assert read_predictions(plant.state, "slow").num_rows == 100


@weighs
def test_who_waits_too_long_or_behind_too_many_is_told_so(make_plant) -> None:
    plant = make_plant(serve_memory_mb=1000, waiting_limit=2, model_deadline_s=1)
    plant.publish(plant.endpoint(), plant.endpoint(plant.variant(body=SLOWLY.format(seconds=3)), name="slow"))
    with plant.worker() as caller, ThreadPoolExecutor(5) as callers:
        answers = [callers.submit(ask, caller, "slow") for _ in range(5)]
        found = sorted((answer.result().status, answer.result().json()["detail"]) for answer in answers)
        assert [status for status, _ in found] == [429] * 3 + [503] * 2
        assert "2 requests wait for its model already" in found[0][1]
        assert "endpoint 'slow' was not in memory within 1 s; it is still being loaded" in found[-1][1]
        assert all("retry-after" in answer.result().headers for answer in answers)
        assert wait_until(lambda: caller.post("/predict/slow", {"rows": [row()]}).status == 200, timeout_s=20)


@weighs
def test_a_config_under_a_budget_swaps_what_is_in_memory_and_leaves_the_rest(make_plant) -> None:
    plant = make_plant(serve_memory_mb=1000)
    other = plant.endpoint(plant.variant(), name="other")
    plant.publish(plant.endpoint(), other)
    stop, failures = threading.Event(), []
    with plant.worker() as caller:
        caller.predict(row())

        def load() -> None:
            while not stop.is_set():
                if (status := ask(caller, "delay").status) != 200:
                    failures.append(status)

        thread = threading.Thread(target=load)
        thread.start()
        for version in range(2, 12):
            plant.wait(plant.publish(plant.endpoint(plant.variant(version=version, offset=version / 100)), other))
            assert caller.predict(row())["version"] == version
        stop.set()
        thread.join(20)
        assert gauge(caller, "models_loaded") == 1, "nobody has asked for the other one"
    assert not failures


def test_a_model_that_ends_the_worker_is_left_out_and_all_else_is_served(make_plant) -> None:
    plant = make_plant(trusted_runtimes=["lightgbm", "onnx"])
    plant.publish(plant.endpoint(), plant.endpoint(crashing(plant), name="crashing"))
    for _ in range(3):
        command = [sys.executable, "-m", "tidemill.serving.worker", "--home", str(plant.home), "--host", "127.0.0.1", "--port", "0"]
        assert subprocess.run(command, capture_output=True, check=False, timeout=30).returncode < 0
    with plant.worker() as caller:
        assert caller.predict(row())["version"] == 1
        told = caller.post("/predict/crashing", {"rows": [row()]})
        assert told.status == 503
        assert "model crashing@1 cannot be loaded: the worker died 3 times in a row while loading it" in told.json()["detail"]
        assert read_states(plant.state)[0].troubles[0].endpoint == "crashing"


@weighs
def test_over_grpc_who_asks_waits_and_what_cannot_come_is_unavailable(make_plant) -> None:
    plant = make_plant(serve_memory_mb=1000, grpc_port=0)
    missing = plant.endpoint(replace(plant.variant(), bundle=digest_bytes(b"never stored")), name="missing")
    plant.publish(plant.endpoint(), missing)
    with plant.worker() as caller, line(plant) as asked:
        assert asked.call("ModelReady", MESSAGES["ModelReadyRequest"](name="delay")).ready
        assert asked.infer(request("delay")).model_name == "delay"
        assert gauge(caller, "models_loaded") == 1
        for _ in range(2):  # once by the one who waits for it, once by the one who comes later
            code, told = asked.refusal(request("missing"))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert told.startswith("endpoint 'missing' is not ready: model example@1 cannot be loaded: ")
        assert not asked.call("ModelReady", MESSAGES["ModelReadyRequest"](name="missing")).ready
        assert asked.call("ServerReady", MESSAGES["ServerReadyRequest"]()).ready
