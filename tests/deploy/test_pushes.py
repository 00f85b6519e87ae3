"""What is pushed to a worker is online at once and a row of the dataset once, whoever is killed or away meanwhile."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import world
from tests.deploy.test_arrivals import KEYED, check_same, prepared, told
from tests.features import worlds as features
from tests.serving.plant import Plant
from tidemill.core.clock import SimulatedClock, micros
from tidemill.core.codec import encode
from tidemill.datasets.keys import set_key
from tidemill.datasets.marks import read_marks
from tidemill.datasets.versions import add, list_versions, open_table
from tidemill.deploy.publish import publish
from tidemill.deploy.pushes import SOURCE, collect_pushes
from tidemill.features.applied import apply
from tidemill.govern.actors import CONTROLLER, read_actor
from tidemill.govern.workspace import Workspace, create_project
from tidemill.serving.config import load
from tidemill.serving.journal import JournalWriter, PushRecord, pushes_folder, segments
from tidemill.store.table import open_online


def writer(ws: Workspace, worker: str = "0", source: str = "flights") -> JournalWriter:
    return JournalWriter(pushes_folder(ws.state, source), worker)


def push(journal: JournalWriter, *events: dict[str, Any]) -> None:
    """Write what a worker writes of a push."""
    journal.append(PushRecord(received=0, body=encode({"rows": [told(event) for event in events]})), at=micros(features.START))


def flights(ws: Workspace) -> list[str]:
    return open_table(ws, "flights")["flight"].to_pylist()


def test_pushes_become_rows_as_far_as_they_are_written_and_segments_go(ws: Workspace) -> None:
    prepared(ws, *KEYED)
    one, other = writer(ws), writer(ws, "1")
    push(one, features.event("F1", delay=1.0), features.event("F2", delay=1.0))
    push(other, features.event("F3", delay=1.0))
    assert collect_pushes(ws) == 3
    assert collect_pushes(ws) == 0
    push(one, features.event("F4", delay=1.0), features.event("F1", delay=9.0))
    assert collect_pushes(ws) == 1
    assert sorted(flights(ws)) == ["F1", "F2", "F3", "F4"]
    folder = pushes_folder(ws.state, "flights")
    assert len(segments(folder)) == 2
    push(other, features.event("F5", delay=1.0))
    one.close()
    other.close()
    assert collect_pushes(ws) == 1
    assert (segments(folder), read_marks(ws, "flights", SOURCE)) == ([], {})
    world.tick(ws, minutes=5)
    check_same(ws)


def test_a_collector_that_was_killed_is_followed_by_one_that_goes_on(ws: Workspace) -> None:
    prepared(ws, KEYED[0])
    journal = writer(ws)
    push(journal, features.event("F1", delay=1.0), {**features.event("F2", delay=1.0), "flight": None})
    journal.close()
    (segment,) = segments(pushes_folder(ws.state, "flights"))
    data = segment.read_bytes()
    assert collect_pushes(ws) == 1
    segment.write_bytes(data)  # as if killed before it was removed, and what is told of it is gone, too
    assert collect_pushes(ws) == 0
    assert flights(ws) == ["F1"]
    assert not segments(pushes_folder(ws.state, "flights"))


def test_a_torn_or_damaged_push_hides_no_other(ws: Workspace) -> None:
    prepared(ws, KEYED[0])
    journal = writer(ws)
    for number in range(3):
        push(journal, features.event(f"F{number}", delay=1.0))
    journal.close()
    (segment,) = segments(pushes_folder(ws.state, "flights"))
    data = segment.read_bytes()
    place = data.index(b'"F1"') + 1
    segment.write_bytes(data[:place] + b"X" + data[place + 1 :] + data[8:30])
    assert collect_pushes(ws) == 2
    assert flights(ws) == ["F0", "F2"]
    assert not segments(pushes_folder(ws.state, "flights"))


def test_a_push_has_what_views_need_and_the_rest_of_the_row_is_missing(ws: Workspace) -> None:
    prepared(ws, KEYED[1])
    journal = writer(ws)
    push(journal, {"origin": "EWR", "landed_at": features.START, "flight": "F1", "delay": 1.0, "plane": None, "more": 1})
    assert collect_pushes(ws) == 1
    (row,) = open_table(ws, "flights").to_pylist()
    assert (row["flight"], row["gate"], row["late"]) == ("F1", None, None)
    push(journal, {**features.event("F2", delay=1.0), "gate": "seven"})
    assert collect_pushes(ws) == 0
    (aside,) = open_table(ws, "flights.quarantine").to_pylist()
    assert "column 'gate' is \"seven\"" in aside["quarantine_reason"]
    assert len(list_versions(ws, "flights.quarantine")) == 1
    journal.close()


def test_each_project_collects_its_own(ws: Workspace) -> None:
    create_project(ws, "lab")
    lab = ws.acting(ws.actor, "lab")
    for each, source in ((prepared(ws, KEYED[0]), "flights"), (prepared(lab, KEYED[0]), "lab/flights")):
        push(writer(each, source=source), features.event(source, delay=1.0))
    publish(ws)
    found = load(ws.state)
    assert found is not None
    assert found.keyed == ("flights", "lab/flights")
    with ws.catalog.reading() as tx:
        controller = read_actor(tx, CONTROLLER, project="lab")  # who does it in a server
    assert (collect_pushes(lab.acting(controller, "lab")), flights(lab)) == (1, ["lab/flights"])
    assert (collect_pushes(ws), flights(ws)) == (1, ["flights"])


@pytest.mark.slow
def test_an_acknowledged_push_survives_a_kill_and_no_other_is_lost(ws: Workspace, tmp_path: Path) -> None:
    prepared(ws, *KEYED)
    SimulatedClock.create(tmp_path / "clock", features.START + timedelta(minutes=5))
    plant = Plant(ws.home, clock=f"simulated:{tmp_path}/clock")
    publish(ws)  # and the control plane is down from here on
    sent: list[str] = []
    for turn in range(2):
        with plant.worker() as caller:
            for number in range(20):
                name = f"F{turn}-{number:02}"
                body = {
                    "rows": [told({**features.event(name, delay=float(number)), "landed_at": features.START + timedelta(seconds=number)})]
                }
                stored = {"stored": 1, "skipped": 0}
                assert caller.post("/push/flights", body).json() == {"views": {"delays@1": stored, "last@1": stored}}
                sent.append(name)
            columns = {name: [value] for name, value in told(features.event(f"Feast{turn}", delay=1.0)).items()}
            assert caller.post("/push", {"push_source_name": "flights", "df": columns}).status == 200
            sent.append(f"Feast{turn}")
            assert "no column" in caller.post("/push/flights", {"rows": [{"flight": "bad"}]}).json()["detail"]
            os.kill(caller.process.pid, signal.SIGKILL)
            caller.process.wait(10)
    assert collect_pushes(ws) == len(sent)
    assert collect_pushes(ws) == 0
    assert sorted(flights(ws)) == sorted(sent)
    world.tick(ws, minutes=5)
    check_same(ws)


@pytest.mark.slow
def test_pushes_of_a_source_without_a_key_stay_online_only(ws: Workspace, tmp_path: Path) -> None:
    add(ws, "flights", features.events_table([]))
    apply(ws, [KEYED[0]])
    SimulatedClock.create(tmp_path / "clock", features.START + timedelta(minutes=5))
    plant = Plant(ws.home, clock=f"simulated:{tmp_path}/clock")
    generation = publish(ws)
    with plant.worker() as caller:
        body = {"rows": [told(features.event("F1", delay=1.0))]}
        assert caller.post("/push/flights", body).status == 200
        assert not segments(pushes_folder(ws.state, "flights"))
        set_key(ws, "flights", ["flight"])
        assert publish(ws) > generation
        plant.wait(publish(ws))
        assert caller.post("/push/flights", body).status == 200
        assert len(segments(pushes_folder(ws.state, "flights"))) == 1
    assert len(list(open_online("lmdb:online", base=ws.state).scan("features/default/delays@1"))) == 1
    assert collect_pushes(ws) == 1


@pytest.mark.slow
def test_a_push_that_cannot_be_journaled_is_refused_and_not_online(ws: Workspace, tmp_path: Path) -> None:
    prepared(ws, KEYED[0])
    publish(ws)
    folder = pushes_folder(ws.state, "flights")
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    SimulatedClock.create(tmp_path / "clock", features.START + timedelta(minutes=5))
    with Plant(ws.home, clock=f"simulated:{tmp_path}/clock").worker() as caller:
        answer = caller.post("/push/flights", {"rows": [told(features.event("F1", delay=1.0))]})
        assert (answer.status, "nothing was acknowledged" in answer.json()["detail"]) == (503, True)
    assert not list(open_online("lmdb:online", base=ws.state).scan("features/default/delays@1"))
