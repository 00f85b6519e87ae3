"""A run that code is in the middle of: what is logged arrives, in order and once, and the run ends as its block did."""

import logging
import math
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import tidemill as tm
from tests import world
from tests.client.conftest import Plane
from tests.client.faults import Proxy
from tidemill.client.active_run import texts
from tidemill.client.client import Client, connect
from tidemill.client.columns import MetricRefused
from tidemill.client.recorder import NotArrived, ParamChanged, RunOver
from tidemill.core.clock import wait_until
from tidemill.core.errors import Invalid, NotFound, NotPermitted
from tidemill.core.settings import caller_environment
from tidemill.govern.workspace import Workspace
from tidemill.server.app import create_app
from tidemill.server.inprocess import InProcessTransport


def values(client: Client, run: str, key: str) -> list[float]:
    return [point["value"] for point in client.runs.history(run, key)]


def test_what_is_logged_is_there_when_the_block_is_left(client: Client, runs: Path) -> None:
    with tm.run("delay", name="first", params={"depth": 3, "model": {"rate": 0.1}}, tags={"who": "me"}, client=client) as run:
        run.log(step=1, loss=0.5, auc=0.7)
        run.log({"valid/auc": 0.8, "a b.c": 2}, step=1)
        run.log(step=2, loss=0.25)
        run.param("seed", 7)
        run.tags({"who": "you", "note": None})
        assert run.metrics == {"loss": 0.25, "auc": 0.7, "valid/auc": 0.8, "a b.c": 2.0}
    found = client.runs.get(run.id)
    assert (found["experiment"], found["name"], found["status"], found["message"]) == ("delay", "first", "finished", "")
    assert found["params"] == {"depth": "3", "model.rate": "0.1", "seed": "7"}
    assert found["tags"] | {"who": "you", "note": "None"} == found["tags"]
    assert found["metrics"] == {"loss": 0.25, "auc": 0.7, "valid/auc": 0.8, "a b.c": 2.0}
    assert [(point["step"], point["value"]) for point in client.runs.history(run.id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert run.status == "finished"
    assert list(runs.iterdir()) == []


def test_values_that_are_no_numbers_are_kept_and_others_told_at_once(client: Client) -> None:
    with tm.run("delay", client=client) as run:
        for value in (math.nan, math.inf, -math.inf, np.float32(0.5)):
            run.log(loss=value)
        with pytest.raises(MetricRefused, match=r"metric 'loss' is of type str \('low'\)"):
            run.log(loss="low")
        run.flush()
        found = np.array([math.nan if v is None else v for v in values(client, run.id, "loss")], float)
        assert len(found) == 4
        assert math.isnan(found[0])


def test_an_exception_fails_the_run_with_its_last_line_and_goes_on(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), tm.run("delay", client=client) as run:
        run.log(loss=1 / 0)
    found = client.runs.get(run.id)
    assert (found["status"], found["message"]) == ("failed", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(KeyboardInterrupt(), "killed", "interrupted"), (SystemExit(0), "finished", ""), (SystemExit(3), "failed", "SystemExit: 3")],
)
def test_leaving_the_block_otherwise_ends_it_as_it_should(client: Client, error: BaseException, status: str, message: str) -> None:
    with pytest.raises(type(error)), tm.run("delay", client=client) as run:
        raise error
    found = client.runs.get(run.id)
    assert (found["status"], found["message"]) == (status, message)


def test_a_run_within_a_run_is_part_of_it(client: Client) -> None:
    with tm.run("tune", client=client) as whole:
        assert caller_environment()["run"] == whole.id
        with tm.run("tune", client=client) as part:
            assert caller_environment()["run"] == part.id
        assert caller_environment()["run"] == whole.id
        other = tm.run("tune", parent=part, client=client)
        other.end()
    alone = tm.run("tune", client=client)
    alone.end("failed", "by hand")
    parents = {run: client.runs.get(run)["parent"] for run in (whole.id, part.id, other.id, alone.id)}
    assert parents == {whole.id: None, part.id: whole.id, other.id: part.id, alone.id: None}
    assert "run" not in caller_environment()
    assert client.runs.get(alone.id)["message"] == "by hand"


def test_a_param_is_written_once(client: Client) -> None:
    with tm.run("delay", params={"depth": 3}, client=client) as run:
        run.param("depth", 3)
        with pytest.raises(
            ParamChanged, match=r"param 'depth' is '3' already and cannot become '4'; log a value that changes with run\.log"
        ):
            run.params({"rate": 1, "depth": 4})
    assert client.runs.get(run.id)["params"] == {"depth": "3"}


def test_of_params_that_the_server_refuses_the_others_are_written(client: Client, caplog: pytest.LogCaptureFixture, runs: Path) -> None:
    with tm.run("delay", client=client) as run:
        client.runs.log_params(run.id, {"depth": 3})
        run.params({"depth": 4, "rate": 1})
    assert client.runs.get(run.id)["params"] == {"depth": "3", "rate": "1"}
    assert [record.levelno for record in caplog.records if "refused" in record.message] == [logging.WARNING] * 2
    assert "param 'depth' of run" in caplog.text
    assert f"run {run.id}: 1 were refused in {runs}" in caplog.text
    assert "send them with: tidemill run sync" in caplog.text


def test_what_the_server_says_against_a_run_is_said_at_once(ws: Workspace, runs: Path) -> None:
    transport = InProcessTransport(create_app(world.acting(ws, "vic", "viewer")))
    with pytest.raises(NotPermitted, match=r"'vic' may not do tracking\.write"):
        tm.run("delay", client=Client(transport))
    transport.close()
    assert list(runs.iterdir()) == []
    with pytest.raises(Invalid, match=r"a run needs the name of its experiment: tm\.run\(\"delay\"\)"):
        tm.run()


def test_what_would_be_refused_later_is_refused_where_it_is_said(client: Client, runs: Path) -> None:
    for said, says in (
        ({"params": {"p": "x" * 6001}}, "param 'p' has 6001 characters; expected at most 6000; log long texts as an artifact"),
        ({"tags": {"t": "a\0b"}}, "tag 't' holds a NUL character"),
        ({"params": {"a//b": 1}}, "param key 'a//b' is not usable"),
    ):
        with pytest.raises(Invalid, match=says):
            tm.run("delay", offline=True, **said)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="experiment name '' is not usable"):
        tm.run("", offline=True)
    assert not runs.exists()
    with tm.run("delay", client=client, capture=False) as run:
        with pytest.raises(Invalid, match=r"a list is not metrics by key; log it as run\.log\(loss=0\.3\)"):
            run.log([0.3])  # type: ignore[arg-type]
        with pytest.raises(Invalid, match="tag 't' has 8001 characters"):
            run.tag("t", "x" * 8001)
    assert client.runs.get(run.id)["status"] == "finished"


def test_an_ended_run_takes_nothing_more(client: Client) -> None:
    run = tm.run("delay", client=client)
    run.end()
    for act in (lambda: run.log(loss=1.0), run.end):
        with pytest.raises(RunOver, match=r"run .* has ended and takes nothing more; go on with it: tm\.run\(resume='"):
            act()


def test_a_run_that_has_ended_is_gone_on_with(client: Client) -> None:
    with tm.run("delay", params={"depth": 3}, client=client) as first:
        first.log(loss=1.0)
        first.log(loss=0.9)
    with tm.run(resume=first.id, client=client) as again:
        assert (again.id, again.name, again.experiment) == (first.id, first.name, "delay")
        again.flush()
        assert client.runs.get(first.id)["status"] == "running"
        again.log(loss=0.8)
        with pytest.raises(ParamChanged, match="param 'depth' is '3' already"):
            again.param("depth", 4)
    assert [(point["step"], point["value"]) for point in client.runs.history(first.id, "loss")] == [(0, 1.0), (1, 0.9), (2, 0.8)]
    assert client.runs.get(first.id)["status"] == "finished"


def test_whoever_attaches_to_a_living_run_does_not_end_it(client: Client) -> None:
    with tm.run("delay", client=client) as run:
        with tm.run(resume=True, client=client) as part:
            assert part.id == run.id
            part.log(loss=1.0)
        assert client.runs.get(run.id)["status"] == "running"
        with tm.run(resume=run.id, client=client) as part:
            part.log(loss=2.0)
        assert client.runs.get(run.id)["status"] == "running"
    assert values(client, run.id, "loss") == [1.0, 2.0]


def test_what_cannot_be_resumed_is_told_so(client: Client) -> None:
    with pytest.raises(Invalid, match=r"no run was announced to this process \(TIDEMILL_RUN\)"):
        tm.run(resume=True, client=client)
    with pytest.raises(NotFound, match="there is no run 'nope'"):
        tm.run(resume="nope", client=client)
    with pytest.raises(NotFound, match=r"there is no run nope in .*runs"):
        tm.run(resume="nope", offline=True)


def test_threads_log_to_one_run(client: Client) -> None:
    def log(thread: int) -> None:
        for step in range(500):
            run.log({f"t{thread}": float(step), "shared": 1.0}, step=step)

    with tm.run("delay", client=client) as run:
        threads = [Thread(target=log, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(values(client, run.id, f"t{thread}") == [float(step) for step in range(500)] for thread in range(8))
    assert len(values(client, run.id, "shared")) == 4000


def test_a_run_in_a_notebook_shows_itself_and_its_cell_runs_again(client: Client) -> None:
    run = tm.run("delay <b>", name="x & y", client=client)
    run.log({"auc": 0.5})
    first, shown = run.id, run._repr_html_()
    assert "delay &lt;b&gt;" in shown
    assert "x &amp; y" in shown
    assert "<td>auc</td><td>0.5</td>" in shown
    run = tm.run("delay <b>", client=client)  # the cell again: nothing refers to the first one any more
    assert wait_until(lambda: client.runs.get(first)["status"] == "finished", timeout_s=10)
    assert run.id != first
    run.end()
    assert values(client, first, "auc") == [0.5]


def test_texts_are_flat_and_sendable() -> None:
    assert texts("param", {"a": {"b": {"c": 1}}, "l": [1, 2], "empty": {}}) == {"a.b.c": "1", "l": "[1, 2]", "empty": "{}"}
    assert texts("tag", {"file": "caf\udce9"}) == {"file": "caf?"}
    with pytest.raises(Invalid, match="param key 3 is not usable"):
        texts("param", {3: 1})
    with pytest.raises(Invalid, match=r"tag key 'a\.\.b/\.\.' is not usable"):
        texts("tag", {"a": {".b/..": 1}})


@pytest.mark.slow
def test_a_server_that_is_away_costs_one_warning_and_loses_nothing(
    plane: Plane, remote: Client, caplog: pytest.LogCaptureFixture, runs: Path
) -> None:
    with tm.run("delay", client=remote, capture=False) as run:
        run.log(loss=0.0)
        run.flush()
        plane.kill()
        for step in range(1, 1000):
            run.log(loss=float(step))
        with pytest.raises(NotArrived, match=r"1 requests of run .* did not arrive within 0\.2 s.* they lie in .* and go on their way"):
            run.flush(timeout_s=0.2)
        assert wait_until(lambda: "goes there when it answers again" in caplog.text, timeout_s=20)
        assert any(runs.rglob("*.seg"))
        plane.start()
        run.flush(timeout_s=30)
        for step in range(1000, 2000):
            run.log(loss=float(step))
    assert values(remote, run.id, "loss") == [float(step) for step in range(2000)]
    assert len([record for record in caplog.records if "goes there when it answers again" in record.message]) == 1


@pytest.mark.slow
def test_a_server_that_stays_away_leaves_files(plane: Plane, caplog: pytest.LogCaptureFixture, runs: Path) -> None:
    plane.kill()
    with tm.run("delay", params={"depth": 3}, url=plane.url) as run:
        run.log(loss=0.5)
    assert "requests wait in" in caplog.text
    assert "send them with: tidemill run sync" in caplog.text
    assert [path.name for path in runs.iterdir()] == [run.id]


@pytest.mark.slow
def test_answers_that_get_lost_double_nothing(proxy: Proxy, remote: Client) -> None:
    with connect(proxy.url) as client, tm.run("delay", client=client) as run:
        for step in range(20):
            proxy.swallow_answers = 1
            run.log(loss=float(step))
            run.flush()
    assert proxy.cuts == 20
    assert values(remote, run.id, "loss") == [float(step) for step in range(20)]
    assert remote.runs.get(run.id)["status"] == "finished"
