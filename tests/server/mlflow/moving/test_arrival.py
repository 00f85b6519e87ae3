"""Import: stores of the real MLflow, of every kind, come whole, once, and with their ids; a kill in the middle costs nothing."""

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

mlflow = pytest.importorskip("mlflow")

from tests import world  # noqa: E402
from tests.server.mlflow.moving.filled import COUNTS, POINTS, T0, client_of, fill  # noqa: E402
from tests.server.mlflow.registry import serving  # noqa: E402
from tidemill.automate.upkeep import collect  # noqa: E402
from tidemill.cli.main import main  # noqa: E402
from tidemill.client.http import HttpTransport  # noqa: E402
from tidemill.core.clock import from_micros, wait_until  # noqa: E402
from tidemill.core.errors import Invalid, NotFound, Unavailable  # noqa: E402
from tidemill.govern.workspace import Workspace, open_workspace  # noqa: E402
from tidemill.registry.aliases import promote, read_aliases, read_version  # noqa: E402
from tidemill.registry.bundles import describe_bundle  # noqa: E402
from tidemill.registry.environments import read_environments  # noqa: E402
from tidemill.registry.models import create_model, list_models, read_model  # noqa: E402
from tidemill.registry.trash import delete_model, delete_version  # noqa: E402
from tidemill.registry.versions import Origin, create_version, list_versions  # noqa: E402
from tidemill.server.mlflow.moving.arrival import Arrival, bring  # noqa: E402
from tidemill.server.mlflow.moving.origin import identity, open_store  # noqa: E402
from tidemill.tracking.experiments import (  # noqa: E402
    create_experiment,
    delete_experiment,
    find_experiment,
    list_experiments,
    read_experiment,
)
from tidemill.tracking.files import files_below, run_folder  # noqa: E402
from tidemill.tracking.inputs import read_links  # noqa: E402
from tidemill.tracking.logged_models import read_logged_model  # noqa: E402
from tidemill.tracking.runs import Run, delete_run, list_runs, metric_history, read_run, start_run  # noqa: E402
from tidemill.tracking.trash import delete_runs  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SERVE = """
import sys, logging
from werkzeug.serving import make_server
logging.disable(logging.CRITICAL)
from mlflow.server import app
make_server("127.0.0.1", 0, app, threaded=True, fd=int(sys.argv[1])).serve_forever()
"""


@pytest.fixture(scope="module")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sqlite")
    fill(f"sqlite:///{folder}/mlflow.db", folder / "scratch", location=(folder / "artifacts").as_uri())
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def mlruns_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlruns")
    fill(str(folder / "mlruns"), folder / "scratch")
    return folder / "mlruns"


@pytest.fixture(scope="module")
def server_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = {
            **os.environ, "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/", "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", SERVE, str(listening.fileno())]
        process = subprocess.Popen(command, pass_fds=(listening.fileno(),), env=environment, stderr=subprocess.DEVNULL)
        probe = HttpTransport(url)
        assert wait_until(lambda: probe.request("GET", "/health").status == 200, timeout_s=60)
        probe.close()
        fill(url, folder / "scratch")
        yield url
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def tidemill_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of ours, which speaks as MLflow's does."""
    folder = tmp_path_factory.mktemp("tidemill")
    with serving(folder) as place:
        fill(place.url, folder / "scratch")
        yield place.url


@pytest.fixture(params=["sqlite", "mlruns", "server", "tidemill"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_store"))


def brought(ws: Workspace, address: str, **options: Any) -> Arrival:
    with closing(open_store(address, **options)) as store:
        return bring(ws, store)


def shown(found: Arrival) -> dict[str, int]:
    return {each.kind: each.ours for each in found.counts}


def named(ws: Workspace, name: str) -> Run:
    (run,) = [run for run in list_runs(ws, view="all", limit=1000) if run.name == name]
    return read_run(ws, run.id)


def test_all_of_a_store_comes_once(ws: Workspace, address: str) -> None:
    first = brought(ws, address)
    assert (first.agrees, shown(first)) == (True, COUNTS), first.notes
    again = brought(ws, address)
    assert (again.agrees, again.fresh, shown(again), again.origin) == (True, 0, COUNTS, first.origin)
    _check(ws, address)


def _check(ws: Workspace, address: str) -> None:
    """Look at what came, one thing of each kind."""
    flights = find_experiment(ws, "flights")
    assert flights is not None
    assert (flights.tags, flights.location) == ({"team": "ops"}, "")
    gone = find_experiment(ws, "gone")
    assert gone is not None
    assert gone.lifecycle == "deleted"
    assert find_experiment(ws, "empty, ünd odd name #1") is not None

    one = named(ws, "run 1")
    assert (one.status, one.started_at, one.ended_at) == ("failed", from_micros((T0 + 1000) * 1000), from_micros((T0 + 9000) * 1000))
    assert (one.params["note/ü"], len(one.params["long"]), len(one.tags["long"])) == ("a\nb", 6000, 7000)
    assert (one.tags["mlflow.parentRunId"], one.parent, one.experiment) == ("f" * 32, "f" * 32, "flights")
    assert named(ws, "run 4").lifecycle == "deleted"
    assert named(ws, "run 3").status == "running"

    loss = metric_history(ws, one.id, "loss")
    assert loss.values.tolist() == [1 / (step + 1) for step in range(POINTS)]
    assert (loss.steps.tolist(), loss.times.tolist()) == (list(range(POINTS)), [(T0 + step) * 1000 for step in range(POINTS)])
    assert metric_history(ws, one.id, "late").values.tolist() == [1.0, 2.0]
    assert metric_history(ws, one.id, "big").steps.tolist() == [2**40]
    assert math.isnan(metric_history(ws, named(ws, "run 0").id, "odd/value").values[0])
    assert metric_history(ws, one.id, "odd/value").values.tolist() == [math.inf]
    assert metric_history(ws, named(ws, "run 2").id, "odd/value").values.tolist() == [-math.inf]
    assert metric_history(ws, named(ws, "run 3").id, "odd/value").values.tolist() == [1e-300]

    files = files_below(ws, run_folder(flights.id, one.id))
    assert [file.path.rpartition("artifacts/")[2] for file in files] == ["notes/a b.txt", "notes/deep/ü.bin"]
    assert ws.objects.get(files[1].digest) == bytes(range(256)) * 300
    two = named(ws, "run 2")
    links = read_links(ws, [two.id, one.id])
    assert [given.dataset.name for given in links[two.id].datasets] == ["flights", "other"]
    assert links[one.id].datasets[0].tags == {"mlflow.data.context": "train"}
    (made,) = links[one.id].models_made
    assert (made.step, len(links[two.id].models_read)) == (4, 2)
    model = read_logged_model(ws, made.model)
    assert (model.name, model.status, model.params, model.tags["y"], model.source_run) == ("model1", "failed", {"x": "1"}, "ü", one.id)
    assert [(point.key, point.value, point.dataset, point.run) for point in model.metrics] == [("auc", 1.7, "flights", one.id)]

    assert read_model(ws, "delay").description == "Late?"
    assert [version.version for version in list_versions(ws, "delay")] == [3, 2, 1]
    assert read_aliases(ws, "delay") == {"20260503": 3, "champion": 1, "old": 3}
    assert read_environments(ws, "delay") == {1: "production", 2: "archived"}
    first, second, third = (read_version(ws, f"delay@{number}") for number in (1, 2, 3))
    assert first.bundle is not None
    assert second.bundle is not None
    mlmodel = describe_bundle(ws, first.bundle).mlmodel
    assert mlmodel is not None
    assert (mlmodel.model_uuid, first.description, first.tags, first.run) == ("u0", "first", {"n": "1"}, named(ws, "run 0").id)
    assert describe_bundle(ws, second.bundle).files == 2
    assert (third.bundle, third.source, third.run_link) == (None, "s3://bucket/elsewhere", "https://ci/7")
    assert first.logged_model is not None
    assert read_logged_model(ws, first.logged_model).name == "model0"


def test_on_postgresql_too(any_ws: Workspace, sqlite_store: Path) -> None:
    for fresh in (True, False):
        found = brought(any_ws, f"sqlite:///{sqlite_store}")
        assert (found.agrees, shown(found), found.fresh > 0) == (True, COUNTS, fresh)


def test_mlflow_itself_finds_all_of_it_here(tmp_path: Path, sqlite_store: Path) -> None:
    with serving(tmp_path) as place, client_of(f"sqlite:///{sqlite_store}") as theirs:
        with open_workspace(place.home) as ws:
            assert brought(ws, str(sqlite_store)).agrees
        ours = place.client
        (experiment,) = theirs.search_experiments(filter_string="name = 'flights'")
        (mine,) = ours.search_experiments(filter_string="name = 'flights'")
        assert mine.experiment_id == experiment.experiment_id
        for run in theirs.search_runs([experiment.experiment_id], run_view_type=3):
            other = ours.get_run(run.info.run_id)
            assert (other.data.params, other.data.tags) == (run.data.params, run.data.tags)
            assert str(other.data.metrics) == str({key: other.data.metrics[key] for key in other.data.metrics})
            assert {k: repr(v) for k, v in other.data.metrics.items()} == {k: repr(v) for k, v in run.data.metrics.items()}
            for key in run.data.metrics:
                points = [(p.step, p.timestamp, repr(p.value)) for p in ours.get_metric_history(run.info.run_id, key)]
                assert sorted(points) == sorted(
                    (p.step, p.timestamp, repr(p.value)) for p in theirs.get_metric_history(run.info.run_id, key)
                )
            assert (other.info.start_time, other.info.end_time, other.info.status, other.info.lifecycle_stage) == (
                run.info.start_time, run.info.end_time, run.info.status, run.info.lifecycle_stage,
            )  # fmt: skip
            assert [d.dataset.digest for d in other.inputs.dataset_inputs] == [d.dataset.digest for d in run.inputs.dataset_inputs]
        folder = mlflow.artifacts.download_artifacts("models:/delay@champion", tracking_uri=place.url, dst_path=str(tmp_path / "got"))
        assert sorted(path.name for path in Path(folder).iterdir() if path.name.startswith(("M", "model"))) == ["MLmodel", "model.pkl"]


def test_what_is_new_there_is_brought_and_what_is_gone_stays(ws: Workspace, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    fill(address, tmp_path / "scratch", location=(tmp_path / "artifacts").as_uri())
    brought(ws, address)
    one = named(ws, "run 1")
    with client_of(address) as client:
        client.log_metric(one.id, "loss", 0.01, timestamp=T0 + 100, step=100)
        client.delete_tag(one.id, "long")
        client.set_tag(one.id, "fresh", "x")
        (tmp_path / "more.txt").write_text("more")
        client.log_artifact(one.id, str(tmp_path / "more.txt"))
        client.set_registered_model_alias("delay", "champion", 2)
        client.delete_registered_model_alias("delay", "old")
        client.create_model_version("delay", "s3://bucket/new")
        client.set_model_version_tag("delay", "1", "n", "one")
        added = client.create_run(client.get_experiment_by_name("flights").experiment_id, run_name="added")
        client.restore_run(named(ws, "run 4").id)
        client.transition_model_version_stage("delay", 1, "Archived")
    found = brought(ws, address)
    assert found.agrees, found.counts
    assert shown(found)["runs"] == COUNTS["runs"] + 1
    assert metric_history(ws, one.id, "loss").values.tolist()[-2:] == [1 / POINTS, 0.01]
    again = read_run(ws, one.id)
    assert ("long" in again.tags, again.tags["fresh"], len(again.artifacts)) == (False, "x", 3)
    assert read_aliases(ws, "delay") == {"20260503": 3, "champion": 2}
    assert (list_versions(ws, "delay")[0].version, read_version(ws, "delay@1").tags) == (5, {"n": "one"})
    assert (read_run(ws, added.info.run_id).name, read_environments(ws, "delay")[1]) == ("added", "archived")
    with closing(open_store(address)) as store:
        origin = identity(store)
    with client_of(f"sqlite:///{tmp_path}/other.db") as client:
        client.create_experiment("flights")
    (tmp_path / "other.db").replace(tmp_path / "mlflow.db")
    assert brought(ws, address).origin != origin, "another store at the same place is another origin"


def test_a_run_in_use_that_went_to_their_trash_goes_to_ours(ws: Workspace, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    fill(address, tmp_path / "scratch", location=(tmp_path / "artifacts").as_uri())
    brought(ws, address)
    one = named(ws, "run 1")
    with client_of(address) as client:
        client.delete_run(one.id)
        client.delete_experiment(client.get_experiment_by_name("empty, ünd odd name #1").experiment_id)
    assert brought(ws, address).agrees
    assert read_run(ws, one.id).lifecycle == "deleted"
    empty = find_experiment(ws, "empty, ünd odd name #1")
    assert empty is not None
    assert empty.lifecycle == "deleted"


def test_what_was_removed_here_comes_again(any_ws: Workspace, sqlite_store: Path) -> None:
    first = brought(any_ws, str(sqlite_store))
    one, two = named(any_ws, "run 1"), named(any_ws, "run 2")
    (whole, *_) = [each for each in list_experiments(any_ws) if each.id != one.experiment_id and each.name != "Default"]
    delete_runs(any_ws, [one.id, two.id])
    delete_experiment(any_ws, whole.id)
    assert brought(any_ws, str(sqlite_store)).fresh == 0, "what lies in the trash is here"
    removed = collect(any_ws, now=True)
    assert (one.id in removed.runs, two.id in removed.runs, whole.id in removed.experiments) == (False, True, True)
    delete_version(any_ws, "delay", 1)
    for model in list_models(any_ws):
        if model.name != "delay":
            delete_model(any_ws, model.name)
    again = brought(any_ws, str(sqlite_store))
    assert again.fresh > 0
    assert (read_run(any_ws, one.id).lifecycle, read_run(any_ws, two.id).lifecycle) == ("deleted", "active")
    counts, before = shown(again), shown(first)
    assert {kind for kind in counts if counts[kind] != before[kind]} <= {"model versions", "model tags", "aliases"}  # of delay@1, deleted
    delete_model(any_ws, "delay")
    assert brought(any_ws, str(sqlite_store)).agrees


def test_ids_and_numbers_that_are_taken_here_are_given_anew(ws: Workspace, sqlite_store: Path) -> None:
    with client_of(f"sqlite:///{sqlite_store}") as client:
        (experiment,) = client.search_experiments(filter_string="name = 'flights'")
        (theirs,) = [run.info.run_id for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "run 1"]
    create_experiment(ws, "mine", wanted=int(experiment.experiment_id))
    start_run(ws, "mine", name="of mine", run_id=theirs)
    create_model(ws, "delay")
    create_version(ws, "delay", origin=Origin(source="mine"))
    promote(ws, "delay", 1, alias="champion")
    for _ in range(2):
        found = brought(ws, str(sqlite_store))
        kinds = {each.kind: (each.theirs, each.ours) for each in found.counts if each.theirs != each.ours}
        assert kinds == {"aliases": (3, 2)}
        assert any("alias delay@champion points at version 1 here, and at 1 there; it stays as it is" in note for note in found.notes)
    one = named(ws, "run 1")
    assert (one.id != theirs, read_run(ws, theirs).name, one.experiment) == (True, "of mine", "flights")
    assert [(version.version, version.source[:5]) for version in reversed(list_versions(ws, "delay"))] == [
        (1, "mine"), (2, "file:"), (3, "s3://"), (4, "model"),
    ]  # fmt: skip
    assert read_experiment(ws, int(experiment.experiment_id)).name == "mine"


def test_a_kill_in_the_middle_costs_nothing(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    fill(address, tmp_path / "scratch", location=(tmp_path / "artifacts").as_uri())
    with client_of(address) as client:
        experiment = client.get_experiment_by_name("flights").experiment_id
        for number in range(60):
            run = client.create_run(experiment, run_name=f"many {number}")
            client.log_artifacts(run.info.run_id, str(tmp_path / "scratch" / "notes"))
            client.log_batch(run.info.run_id, metrics=[mlflow.entities.Metric("m", step, T0 + step, step) for step in range(20)])
    world.init(tmp_path / "home").close()
    command = [sys.executable, "-m", "tidemill", "import", "mlflow", address, "--home", str(tmp_path / "home")]
    seen = 0
    for kills in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with open_workspace(tmp_path / "home") as ws:
            goal = seen + 12
            assert wait_until(lambda ws=ws, goal=goal: len(list_runs(ws, view="all", limit=1000)) >= goal, timeout_s=60, every_s=0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, f"it was done before kill {kills}"
            seen = len(list_runs(ws, view="all", limit=1000))
    assert seen < 66
    with open_workspace(tmp_path / "home") as ws:
        found = brought(ws, address)
        assert found.agrees, found.counts
        assert shown(found)["runs"] == COUNTS["runs"] + 60
        assert len({run.id for run in list_runs(ws, view="all", limit=1000)}) == COUNTS["runs"] + 60
        assert brought(ws, address).fresh == 0
        _check(ws, address)


def test_files_behind_the_proxy_need_the_folder_behind_it(ws: Workspace, tmp_path: Path) -> None:
    address = tmp_path / "mlflow.db"
    fill(f"sqlite:///{address}", tmp_path / "scratch", location=(tmp_path / "artifacts" / "1").as_uri())
    with closing(__import__("sqlite3").connect(address)) as db:
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location"), ("experiments", "artifact_location")):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, 'mlflow-artifacts:')", [(tmp_path / "artifacts").as_uri()])
        db.commit()
    found = brought(ws, str(address))
    assert [note for note in found.notes if "lie at mlflow-artifacts, which cannot be read from here; give the folder" in note]
    assert (shown(found)["artifacts"], found.agrees) == (0, True)
    found = brought(ws, str(address), artifacts=tmp_path / "artifacts")
    assert (shown(found)["artifacts"], found.agrees) == (COUNTS["artifacts"], True)


def test_files_in_a_bucket_stay_there(ws: Workspace, tmp_path: Path) -> None:
    with client_of(f"sqlite:///{tmp_path}/mlflow.db") as client:
        experiment = client.create_experiment("far", artifact_location="s3://bucket/far")
        run = client.create_run(experiment)
    found = brought(ws, str(tmp_path / "mlflow.db"))
    assert [note for note in found.notes if note.startswith("the files of 1 runs and models lie at s3")]
    far = find_experiment(ws, "far")
    assert far is not None
    assert (far.location, read_run(ws, run.info.run_id).experiment_id) == ("s3://bucket/far", far.id)


@pytest.mark.parametrize(
    ("address", "kind", "says"),
    [
        ("nothing.db", NotFound, "there is nothing at nothing.db; expected the SQLite file or the mlruns folder"),
        ("ftp://host/x", Invalid, "'ftp://host/x' is no place to import from"),
        ("{tmp}/text", Invalid, "could not be read as a database"),
        ("{tmp}/empty.db", Invalid, "is no MLflow store: it has no table 'experiments'"),
        ("{tmp}", Invalid, r"is no MLflow store: no folder in it has a meta\.yaml"),
        ("http://127.0.0.1:9", Unavailable, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, address: str, kind: type[Exception], says: str) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    (tmp_path / "empty.db").write_bytes(b"")
    with pytest.raises(kind, match=says):
        open_store(address.format(tmp=tmp_path))


def test_links_out_of_a_folder_are_not_followed(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with client_of(str(tmp_path / "mlruns")) as client:
        run = client.create_run("0")
    folder = tmp_path / "mlruns" / "0" / run.info.run_id / "artifacts"
    (folder / "mine.txt").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    found = brought(ws, str(tmp_path / "mlruns"))
    assert (found.agrees, [file.path for file in read_run(ws, run.info.run_id).artifacts]) == (True, ["mine.txt"])


def test_the_command_tells_the_counts_and_ends_with_one_when_they_differ(
    tmp_path: Path, sqlite_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(tmp_path / "home")
    world.init(tmp_path / "home").close()
    assert main(["import", "mlflow", str(sqlite_store), "--home", home]) == 0
    told = capsys.readouterr().out
    assert ("everything is here" in told, "metric points" in told) == (True, True)
    assert main(["import", "mlflow", str(sqlite_store), "--home", home]) == 0
    assert "nothing was new" in capsys.readouterr().out
    with open_workspace(home) as ws, ws.catalog.transaction() as tx:
        run = named(ws, "run 1")
        tx.exec_driver_sql("DELETE FROM run_params WHERE key = 'depth'")
        assert run.params["depth"] == "3"
    assert main(["import", "mlflow", str(sqlite_store), "--home", home]) == 1
    told = capsys.readouterr().out
    assert ("NOT everything is here" in told, "differs" in told) == (True, True)
    assert main(["import", "mlflow", "nothing.db", "--home", home]) == 1
    assert capsys.readouterr().err.startswith("tidemill: there is nothing at nothing.db")
    with open_workspace(home) as ws:
        delete_run(ws, run.id)
        assert len(list_experiments(ws)) >= 3
