"""The demo with its real processes: figures that agree, also when its processes are killed; the same seed gives the same figures."""

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tidemill.core.errors import Invalid
from tidemill.server.supervisor import read_running
from tidemill.simulate.demo import START, Demo
from tidemill.simulate.report import DemoReport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def replay(home: Path, days: float, at_slot: Callable[[datetime], None] | None = None, **named: Any) -> DemoReport:
    demo = Demo(home, say=print, show=lambda _: None, until=START + timedelta(days=days), at_slot=at_slot, **named)
    try:
        return demo.run()
    finally:
        demo.stop()


class Killer:
    """Kills a process of the server with SIGKILL when its hour has come, once."""

    def __init__(self, home: Path, plan: dict[str, datetime]) -> None:
        self.home, self.plan, self.killed = home, dict(plan), []

    def __call__(self, at: datetime) -> None:
        for name in [name for name, moment in self.plan.items() if at >= moment]:
            running = read_running(self.home)
            assert running is not None
            os.kill(running.children[name], signal.SIGKILL)
            del self.plan[name]
            self.killed.append(name)


def agree(report: DemoReport) -> None:
    assert report.predictions_acknowledged == report.predictions_journaled == report.flights_scored > 0
    assert 0 < report.labels_joined <= report.flights_scored
    assert report.flights_unlabelled == report.flights_scored - report.labels_joined
    assert report.audit_verified
    assert report.skew.predictions == report.flights_scored
    assert report.skew.values == 40 * report.flights_scored
    assert report.skew.differ == 0


def test_nothing_acknowledged_is_lost_when_processes_are_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    hours = {"serve-0": 9, "control": 12, "controller": 15, "worker-0": 18}
    killer = Killer(home, {name: START + timedelta(days=1, hours=hour) for name, hour in hours.items()})
    report = replay(home, 2.5, killer)
    assert sorted(killer.killed) == sorted(hours)
    agree(report)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    """What a replay told in which something moved, a candidate was trained and its release began."""
    return replay(tmp_path_factory.mktemp("one") / "home", 9, seed=3)


def test_the_same_seed_gives_the_same_figures(one: DemoReport, tmp_path: Path) -> None:
    other = replay(tmp_path / "other", 9, seed=3)
    agree(one)
    assert one.months == other.months
    assert one.champion_digests == other.champion_digests
    assert [(r.version, r.outcome, r.requests_touched) for r in one.rollouts] == [
        (r.version, r.outcome, r.requests_touched) for r in other.rollouts
    ]
    assert [(a.time, a.kind, a.what) for a in one.alerts] == [(a.time, a.kind, a.what) for a in other.alerts]


def test_the_trace_of_an_answer_leads_back_to_rows_code_and_release(one: DemoReport) -> None:
    found = one.trace
    assert found["label"] == 1.0
    assert {"origin_delay_2h", "temp", "carrier"} <= set(found["prediction"]["columns"])
    assert {dataset["name"] for dataset in found["datasets"]} == {"flights", "weather", "planes"}
    assert found["runs"][0]["kind"] == "pipeline"
    assert found["code"] == found["runs"][0]["tags"]["code"]
    assert "quality" in {record["result"]["name"] for record in found["checks"]}
    assert any(event["kind"] == "endpoint.created" for event in found["release"])
    assert found["route"]["route"]["shares"] == {"v1": 1.0}


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Invalid, match="is not empty; name another folder for the demo"):
        replay(tmp_path, 1)
    with pytest.raises(Invalid, match=r"the replay has 1 to 7 months \(June to December\), asked for 9"):
        replay(tmp_path / "home", 1, months=9)
