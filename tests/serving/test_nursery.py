"""Several workers share the memory of their models; one that dies is forked again, and all go when their parent does."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.services import end
from tests.serving.plant import Caller, Plant, row
from tidemill.core.clock import wait_until
from tidemill.core.process import lives
from tidemill.serving.config import read_states
from tidemill.serving.history import read_predictions

pytestmark = pytest.mark.slow


class Family:
    """A nursery with two workers on one port."""

    def __init__(self, plant: Plant, *, before: str = "") -> None:
        """before: what is done in its process before it begins."""
        self.plant = plant
        (plant.state / "logs").mkdir(parents=True)
        self.log = plant.home / "nursery.log"
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listener, self.log.open("wb") as output:
            self.port, fd = listener.getsockname()[1], listener.fileno()
            code = f"import sys, time; from tidemill.serving import nursery; {before}\nsys.exit(nursery.main())"
            command = [sys.executable, "-c", code, "--home", str(plant.home), "--workers", "2", "--fd", str(fd)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=(fd,))
        assert wait_until(lambda: len(self.pids()) == 2, timeout_s=30), self.told()

    def pids(self) -> dict[int, int]:
        return {index: state.pid for index, state in read_states(self.plant.state).items() if state.ready}

    def told(self) -> str:
        return "".join(path.read_text() for path in (self.log, *(self.plant.state / "logs").glob("*.log")))

    def ask(self, index: int) -> int:
        """Ask until a worker has answered; return the version of the model that it has."""
        while True:
            caller = Caller(self.port, self.process, self.log)
            answer = caller.predict(row())
            mine = f'worker="{index}"' in caller.get("/metrics").body.decode()
            caller.close()
            if mine:
                version: int = answer["version"]
                return version

    def gone(self, pids: list[int]) -> bool:
        return wait_until(lambda: not any(map(lives, pids)), timeout_s=20)

    def end(self) -> None:
        pids = list(self.pids().values())
        end(self.process)
        if self.process.stdin is not None:
            self.process.stdin.close()
        assert self.gone(pids), self.told()


@pytest.fixture
def family(make_plant) -> Iterator[Family]:
    plant = make_plant(serve_workers=2)
    plant.publish(plant.endpoint(), plant.endpoint(plant.variant(body="return [0.5 for _ in columns['a']]"), name="code"))
    made = Family(plant)
    yield made
    made.end()


def test_workers_share_models_answer_and_come_back(family: Family) -> None:
    plant, before = family.plant, family.pids()
    assert "serving worker 1 is process" in family.told()
    assert "shares 1 models" in family.told(), "code of a bundle is loaded by each worker"
    caller = Caller(family.port, family.process, family.log)
    assert caller.predict(row(), endpoint="code")["predictions"][0]["score"] == 0.5
    caller.close()
    # A later config reaches both, and the one that is forked next.
    plant.publish(plant.endpoint(plant.variant(version=2, offset=0.1)))
    assert wait_until(lambda: {state.generation for state in read_states(plant.state).values()} == {plant.generation}, timeout_s=20)
    os.kill(before[0], signal.SIGKILL)
    assert wait_until(lambda: family.pids().get(0, before[0]) != before[0], timeout_s=20), family.told()
    assert family.pids()[1] == before[1]
    assert [family.ask(index) for index in (0, 1)] == [2, 2]
    assert read_predictions(plant.state, "delay")["version"].to_pylist().count(2) >= 2


def test_workers_go_when_their_parent_is_killed_or_told_to(family: Family) -> None:
    pids = list(family.pids().values())
    family.process.kill()
    assert family.gone(pids), family.told()
    again = Family(Plant(family.plant.home / "again", trusted_runtimes=["onnx"], serve_workers=2))
    pids = list(again.pids().values())
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(20) == 0, again.told()
    assert again.gone(pids)
    assert not read_states(again.plant.state)
    again.end()


def test_they_go_when_the_supervisor_has_gone(make_plant) -> None:
    plant = make_plant(serve_workers=2)
    family = Family(plant)
    pids = list(family.pids().values())
    assert family.process.stdin is not None
    family.process.stdin.close()
    assert family.process.wait(20) == 0, family.told()
    assert family.gone(pids)
    family.end()


def test_a_worker_that_does_not_come_up_after_its_fork_is_started_by_itself(make_plant) -> None:
    plant = make_plant(serve_workers=2)
    plant.publish(plant.endpoint())
    family = Family(plant, before="nursery.READY_S = 1.0; nursery.Nursery._grow = lambda *_: time.sleep(60)")
    try:
        assert "serving worker 0 did not come up in 1 s after its fork; it is started by itself" in family.told()
        assert [family.ask(index) for index in (0, 1)] == [1, 1]
    finally:
        family.end()
