"""Models in processes of their own are waited for by those who ask them, and by nobody else."""

import threading
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from tests.serving.plant import Answer, Caller, Plant, row
from tidemill.core.clock import wait_until
from tidemill.serving.history import count_failures, read_predictions

pytestmark = pytest.mark.slow
# Sleeps as many seconds as the row's b says; the score tells that it has run.
SLEEPS = "sleep(columns['b'][0]); return columns['a'] / 10"


def another(caller: Caller) -> Caller:
    return Caller(caller.port, caller.process, caller.log)


class Asked:
    """A request that was sent, and whose answer a thread waits for."""

    def __init__(self, caller: Caller, path: str, body: Any) -> None:
        self._caller, self.answers = another(caller), []
        self._caller.send("POST", path, body)
        self._thread = threading.Thread(target=lambda: self.answers.append(self._caller.receive()))
        self._thread.start()

    def answer(self) -> Answer:
        self._thread.join(30)
        self._caller.close()
        return self.answers[0]


@pytest.fixture
def slow(make_plant) -> Plant:
    plant: Plant = make_plant(trusted_runtimes=["onnx", "python"], model_deadline_s=2, waiting_limit=3)
    plant.publish(plant.endpoint(plant.variant(body=SLEEPS), name="slow"), plant.endpoint(name="quick"))
    return plant


def test_others_are_answered_while_a_model_thinks(slow: Plant) -> None:
    with slow.worker() as caller:
        pending = Asked(caller, "/predict/slow", {"rows": [row(3.0, 1)], "ids": ["late"]})
        begin = perf_counter()
        for number in range(20):
            caller.predict(row(), endpoint="quick", ids=[str(number)])
        assert perf_counter() - begin < 1.0
        assert not pending.answers
        assert pending.answer().json()["predictions"][0] == {
            "id": "late",
            "score": 0.3,
            "label": False,
            "variant": "champion",
            "version": 1,
        }
    assert read_predictions(slow.state, "slow")["id"].to_pylist() == ["late"]


def test_a_model_that_hangs_is_told_in_time_in_every_protocols_shape(slow: Plant) -> None:
    with slow.worker() as caller:
        tensors = [
            {"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]}, {"name": "b", "shape": [1], "datatype": "INT64", "data": [60]},
        ]  # fmt: skip
        begin = perf_counter()
        answers = [
            caller.post("/predict/slow", {"rows": [row(1.0, 60)]}),
            caller.post("/v2/models/slow/infer", {"inputs": tensors}),
        ]
        assert perf_counter() - begin < 20
        assert [answer.status for answer in answers] == [500, 500]
        assert "gave no answer in 2 s" in answers[0].json()["detail"]
        assert "gave no answer in 2 s" in answers[1].json()["error"]
        assert wait_until(lambda: caller.post("/predict/slow", {"rows": [row(3.0, 0)]}).status == 200, timeout_s=20)
        told = caller.get("/metrics").body.decode()
        assert 'tidemill_requests_total{code="500",route="predict",worker="0"} ' in told
    assert count_failures(slow.state, "slow", "champion") >= 2


def test_more_than_may_wait_are_refused_at_once(slow: Plant) -> None:
    with slow.worker() as caller:
        pending = [Asked(caller, "/predict/slow", {"rows": [row(1.0, 1)]})]
        assert caller.get("/livez").status == 200
        pending += [Asked(caller, "/predict/slow", {"rows": [row(1.0, 1)]}) for _ in range(6)]
        answers = [each.answer() for each in pending]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) == 4
        for answer in refused:
            assert answer.headers["retry-after"] == "1"
            assert "endpoint 'slow' is busy: 3 requests wait for its model already" in answer.json()["detail"]
        # Of the three that were let in, those whose time ran out while others were answered are told so.
        assert {answer.status for answer in answers} <= {200, 429, 503, 500}
        assert answers[0].status == 200


def test_who_waits_no_longer_is_not_scored(slow: Plant) -> None:
    with slow.worker() as caller:
        pending = Asked(caller, "/predict/slow", {"rows": [row(1.0, 1)]})
        assert caller.get("/livez").status == 200
        hasty = caller.post("/predict/slow", {"rows": [row(2.0, 0)], "ids": ["hasty"]}, **{"Tidemill-Timeout-Ms": "100"})
        assert (hasty.status, hasty.headers["retry-after"]) == (504, "1")
        assert "the deadline passed while the request waited; nothing was predicted" in hasty.json()["detail"]
        assert pending.answer().status == 200
        odd = caller.post("/v2/models/quick/infer", {"inputs": []}, **{"X-Envoy-Expected-Rq-Timeout-Ms": "soon"})
        assert odd.status == 400
        refused = caller.post("/predict/quick", {"rows": [row()]}, **{"Tidemill-Timeout-Ms": "-1"})
        assert "the request's timeout reads '-1'; expected whole milliseconds" in refused.json()["detail"]
        assert caller.post("/predict/quick", {"rows": [row()]}, **{"Tidemill-Timeout-Ms": "5000"}).status == 200
    assert "hasty" not in read_predictions(slow.state, "slow")["id"].to_pylist()


def test_a_swap_lets_the_waiting_finish(slow: Plant, tmp_path: Path) -> None:
    with slow.worker() as caller:
        pending = Asked(caller, "/predict/slow", {"rows": [row(5.0, 1)]})
        assert caller.get("/livez").status == 200
        slow.wait(slow.publish(slow.endpoint(name="quick")))
        assert pending.answer().status == 200
        assert caller.post("/predict/slow", {"rows": [row()]}).status == 404
    assert read_predictions(slow.state, "slow").num_rows == 1
