"""Each command: a table for people, JSON for programs, one sentence and exit code 1 for what cannot be, 2 for what was not understood."""

import os
from collections.abc import Callable
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Said
from tidemill.cli.main import COMMANDS, Door, main
from tidemill.core.settings import STATE_NAME
from tidemill.deploy.endpoints import list_endpoints
from tidemill.govern.workspace import open_workspace
from tidemill.monitor.alerts import list_alerts
from tidemill.serving.config import EndpointTrouble, WorkerState, write_state
from tidemill.serving.history import read_predictions
from tidemill.tracking.runs import list_runs

pytestmark = pytest.mark.slow

Say = Callable[..., Said]
# What shows something and changes nothing, with a word that its table must hold.
SHOWN = {
    "status": "models",
    "status --settings": "authentication",
    "status --disk": "object store",
    "doctor": "audit chain",
    "data list": "flights",
    "data show flights@2": "1000 rows",
    "data log flights": "version",
    "data describe flights@2": "1000 rows",
    "data list --deleted": "none",
    "data diff flights@1 flights@2": "rows: ",
    "data status": "no files outside are known",
    "data verify flights": "files read",
    "features list": "delay",
    "features list --search last": "last",
    "features show last": "last_delay",
    "features show last --versions": "first",
    "features sources": "no sources are declared",
    "features usage": "service",
    "features usage last": "delay@1",
    "features skew delay": "predictions of delay compared",
    "features get delay origin=EWR": "last_delay",
    "pipeline list": "jobs_",
    "run list": "pipeline",
    "run list --filter attributes.status='finished' --order start_time --limit 2 --metric seconds": "seconds",
    "run list --deleted": "none",
    "run experiments": "kept for days",
    "run experiments --deleted": "the trash is empty",
    "run jobs": "queued",
    "model list": "champion",
    "model show delay@1": "calibration",
    "model list --deleted": "none",
    "model versions delay": "champion",
    "model search": "delay",
    "model search name='delay' --versions --limit 1": "delay",
    "model compare delay@1 delay@2 --all": "signature",
    "model where delay@1": "answers",
    "model where delay@1 --past": "delay",
    "model history delay": "the first",
    "model card delay@1": "Late arrivals",
    "endpoint list": "v1",
    "endpoint show delay": "goes live",
    "endpoint rollouts": "shadow, then canary",
    "endpoint rollouts delay --limit 1": "running",
    "monitor list": "weekly",
    "monitor windows weekly": "wind",
    "alert list": "wind",
    "alert list --state open --endpoint delay": "open",
    "rule list": "run train n=1",
    "rule firings": "retrain-on-alert",
    "audit list": "rollout.started",
    "audit list --subject endpoint:delay": "endpoint.created",
    "audit verify": "chain unbroken",
    "access keys": "for the wall",
}
# What changes something, or needs an id: tested by themselves.
APART = {
    "init", "up", "demo", "data add", "data ingest", "data get", "data tag", "data rm", "data restore", "data push", "data pull",
    "data clone", "data import-dvc", "features apply", "features rollback", "features materialize",
    "features refresh", "features import-feast", "features history",
    "pipeline run", "run show", "run compare", "run export",
    "run rm", "run restore", "run keep", "run sync", "run watch", "gc", "model alias",
    "model tag", "model comment", "model describe", "model rename", "model rm", "model restore", "model move", "model lock", "model unlock",
    "endpoint create", "endpoint rollout", "endpoint rollback", "alert resolve", "access grant", "access key", "access revoke",
    "access project", "trace", "import mlflow", "export mlflow",
    "predict rows", "predict stream", "predict batch", "predict feedback", "predict log", "endpoint set", "endpoint openapi",
    "endpoint dashboard", "model register",
}  # fmt: skip


def commands() -> set[str]:
    found = set()
    for noun in COMMANDS:
        command = Door(name="tidemill").get_command(click.Context(click.Group()), noun)
        found |= {f"{noun} {verb}" for verb in command.commands} if isinstance(command, click.Group) else {noun}
    return found


def test_every_command_is_tested_here() -> None:
    shown = {line if line in commands() else " ".join(line.split()[:2]) for line in SHOWN} - {"status --settings", "status --disk"}
    assert shown | APART == commands()


@pytest.mark.parametrize("line", SHOWN)
def test_what_shows_something(say: Say, home: Path, line: str) -> None:
    told = say(*line.split(), "--home", home)
    assert (told.code, told.err) == (0, "")
    assert SHOWN[line] in told.out
    assert say(*line.split(), "--home", home, "--json").json() is not None


@pytest.mark.parametrize(
    "line", [line for line in SHOWN if not {"delay", "flights", "last", "weekly"} & set(line.replace("@", " ").split())]
)
def test_an_empty_workspace_has_little_to_show(say: Say, fresh: Path, line: str) -> None:
    told = say(*line.split(), "--home", fresh)
    assert (told.code, told.err) == (0, "")
    assert told.out.strip()
    say(*line.split(), "--home", fresh, "--json").json()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data show nothing", "there is no dataset 'nothing'"),
        ("data import-dvc nothing", "there is no nothing; give the folder of a Git repository that DVC is used in"),
        ("data ingest events", "there is no source 'events' (declared are: none)"),
        ("data ingest events --from nothing", "there is no folder nothing to watch"),
        ("data ingest events --from file:x/in", "nothing is known that tells the rows of dataset 'events' apart"),
        ("features show nothing", "there is no feature view 'nothing'"),
        ("features usage nothing", "there is no feature view 'nothing'"),
        ("features rollback nothing@1", "there is no feature service 'nothing@1'"),
        ("features apply nothing:VIEWS", "there is no file nothing.py"),
        ("features history nothing rows --to out", "there is no feature service 'nothing'"),
        ("features get delay origin", "there is no file origin"),
        ("features skew nothing", "there is no endpoint 'nothing'"),
        ("features materialize nothing", "there is no feature view 'nothing'"),
        ("pipeline run nothing", "there is no pipeline 'nothing'"),
        ("run show nothing", "there is no run"),
        ("run list --filter metrics.auc>", "filter was not understood at character 13"),
        ("run list --experiment nothing", "there is no experiment 'nothing'"),
        ("run list --page nothing", "the page token is not one that this search gave"),
        ("run compare nothing other", "there is no run 'nothing'"),
        ("run compare nothing", "1 runs cannot be compared; name 2 to 100 different ones"),
        ("run export nothing .", "there is no run 'nothing'"),
        ("run rm nothing", "there is no run 'nothing'"),
        ("run rm", "name the runs by their ids, or by --filter"),
        ("run rm x --filter a=1", "name the runs by their ids, or by --filter"),
        ("run rm --filter attributes.status='finished'", "nobody is there to be asked; say --yes"),
        ("run restore nothing", "there is no run 'nothing'"),
        ("run keep nothing 3", "there is no experiment 'nothing'"),
        ("run keep jobs_0 some", "deleted runs cannot be kept for 'some' days"),
        ("run watch nothing", "there is no run 'nothing'"),
        ("model show nothing", "there is no model 'nothing"),
        ("model card delay@2", "model delay@2 has no card"),
        ("model alias delay champion 99", "there is no model 'delay@99'"),
        ("endpoint show nothing", "there is no endpoint 'nothing' (there are: delay)"),
        ("endpoint create delay delay@1", "endpoint 'delay' is there already"),
        ("endpoint rollout delay delay@3", "model delay@3 failed its checks"),
        ("endpoint rollout nothing delay@2", "there is no endpoint 'nothing'"),
        ("endpoint rollback nothing --reason x", "there is no endpoint 'nothing'"),
        ("monitor windows nothing", "there is no monitor 'nothing' (there are: weekly)"),
        ("alert resolve nothing", "there is no alert 'nothing'; list them with: tidemill alert list"),
        ("access revoke nothing", "there is no API key 'nothing'"),
        ("trace nothing", "no prediction 'nothing' was journaled"),
        ("trace nothing --endpoint nowhere", "there is no endpoint 'nowhere'"),
        ("audit list --project nowhere", "there is no project 'nowhere' (there are: default)"),
    ],
)
def test_what_cannot_be_is_one_sentence(say: Say, home: Path, line: str, says: str) -> None:
    told = say(*line.split(), "--home", home)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("tidemill: ")
    assert says in told.err
    assert (told.err.count("\n"), "Traceback" in told.err) == (1, False)


@pytest.mark.parametrize(
    "line",
    [
        "nothing", "data", "data nothing", "data show", "model alias delay champion one", "run list --limit 0", "status --nothing",
        "run compare", "gc --grace -1",
        "endpoint rollback delay", "endpoint rollout delay delay@1 --policy hope", "access grant dev king", "up --port 70000",
        "demo --months 99",
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_two(say: Say, line: str) -> None:
    told = say(*line.split())
    assert (told.code, told.out if line != "data" else "") == (2, "")
    assert told.err


def test_where_there_is_no_workspace_it_says_so(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEMILL_HOME", raising=False)
    told = say("status")
    assert (told.code, "is not inside a Tidemill workspace" in told.err) == (1, True)
    told = say("status", "--home", tmp_path)
    assert (told.code, "is not a Tidemill workspace; make it one with: tidemill init" in told.err) == (1, True)
    monkeypatch.setenv("TIDEMILL_PROT", "1")
    assert "did you mean 'TIDEMILL_PORT'?" in say("init", tmp_path / "home").err


def test_a_workspace_is_made_and_found_from_within(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = say("init", tmp_path / "home")
    assert f"workspace {tmp_path / 'home'} is ready; serve it with: tidemill up --home {tmp_path / 'home'}" in told.out
    assert say("init", tmp_path / "home", "--json").json() == {"home": str(tmp_path / "home")}
    inner = tmp_path / "home" / "deep"
    inner.mkdir()
    monkeypatch.chdir(inner)
    monkeypatch.delenv("TIDEMILL_HOME", raising=False)
    assert say("status", "--json").json()["home"] == str(tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    assert say("init").out.strip().endswith("tidemill up")


def test_status_tells_which_endpoints_workers_cannot_serve(say: Say, tmp_path: Path) -> None:
    say("init", tmp_path)
    troubles = (
        EndpointTrouble(endpoint="delay", reason="model delay@2 cannot be loaded: gone", attempts=3, serves=("delay@1",)),
        EndpointTrouble(endpoint="gate", reason="model gate@1 cannot be loaded: gone", attempts=1),
    )
    write_state(
        tmp_path / STATE_NAME, 0, WorkerState(pid=os.getpid(), port=1, generation=1, ready=True, refused="unread", troubles=troubles)
    )
    assert say("status", "--home", tmp_path).out.splitlines()[-3:] == [
        "worker 0 does not serve what is published: unread",
        "endpoint delay answers by delay@1 (worker 0): model delay@2 cannot be loaded: gone",
        "endpoint gate does not answer (worker 0): model gate@1 cannot be loaded: gone",
    ]
    told = say("status", "--home", tmp_path, "--json").json()["serving"]["0"]["troubles"]
    assert [each["endpoint"] for each in told] == ["delay", "gate"]


def test_a_file_that_cannot_be_read_is_one_sentence(say: Say, fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "not.parquet").write_bytes(b"PAR1 and nothing more")
    told = say("data", "add", "flights", tmp_path / "not.parquet", "--home", fresh)
    assert (told.code, told.err.count("\n"), "Traceback" in told.err) == (1, 1, False)
    told = say("init", tmp_path / "not.parquet" / "home")
    assert (told.code, told.err.count("\n"), "Traceback" in told.err) == (1, 1, False)


def test_data_is_added_and_shown(say: Say, fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "flights.csv").write_text("id,carrier\n1,UA\n2,AA\n")
    told = say("data", "add", "flights", tmp_path / "flights.csv", "--reason", "June", "--home", fresh)
    assert "flights@1  2 rows" in told.out
    assert say("data", "add", "flights", tmp_path / "flights.csv", "--home", fresh, "--json").json()["version"]["version"] == 1


def test_features_are_planned_applied_and_brought_online(say: Say, home: Path, tmp_path: Path, fresh: Path) -> None:
    (tmp_path / "events.csv").write_text("origin,landed_at,delay\nEWR,2013-06-01T12:00:00Z,3.5\nEWR,,1\n")
    assert say("data", "add", "events", tmp_path / "events.csv", "--home", fresh).code == 0
    (fresh / "cli_features.py").write_text(
        "from tidemill.features.views import Feature, FeatureService, FeatureView\n"
        'LAST = FeatureView(name="last", entity=("origin",), source="events", event_timestamp="landed_at",\n'
        '                   features=(Feature(name="delay"),))\n'
        'SERVICES = [FeatureService(name="delay", features=("last:*",))]\nNONE = 3\n'
    )
    targets = ("cli_features:LAST", "cli_features:SERVICES")
    assert "create" in say("features", "apply", *targets, "--dry-run", "--home", fresh).out
    assert say("features", "list", "--home", fresh, "--json").json() == {"views": [], "services": []}
    applied = say("features", "apply", *targets, "--reason", "first", "--home", fresh, "--json").json()
    assert [(change["kind"], change["action"]) for change in applied["changes"]] == [("view", "create"), ("service", "create")]
    assert "keep" in say("features", "apply", *targets, "--home", fresh).out
    done = say("features", "materialize", "last", "--home", fresh)
    assert "1 events of dataset:events@1 went online, 1 had no key or time" in done.out, done.err
    known = say("features", "get", "delay", "origin=EWR", "--home", fresh)
    assert "delay      3.5" in known.out, known.err
    assert "last@1  2013-06-01 12:00:00" in known.out
    (tmp_path / "asked.csv").write_text("origin\nEWR\nJFK\n")
    told = say("features", "get", "delay", tmp_path / "asked.csv", "--home", fresh, "--json").json()
    assert [row["missing"] for row in told["rows"]] == [[], ["delay"]]
    assert "row 1 has no delay" in say("features", "get", "delay", "origin=JFK", "--missing", "fail", "--home", fresh).err
    assert "KEY=VALUE, or one file" in say("features", "get", "delay", "origin=JFK", "and", "--home", fresh).err
    (tmp_path / "rows.csv").write_text("origin,at\nEWR,2013-06-01T13:00:00Z\nJFK,2013-06-01T13:00:00Z\n")
    given = ("features", "history", "delay", "--home", fresh, "--timestamp", "at")
    told = say(*given, tmp_path / "rows.csv", "--to", tmp_path / "out.parquet", "--source", "events@1")
    assert told.out == f"2 rows with delay@1 of dataset:events@1 are {tmp_path}/out.parquet\n", told.err
    assert pq.read_table(tmp_path / "out.parquet")["delay"].to_pylist()[0] == 3.5
    span = ("--from", "2013-06-01", "--until", "2013-06-02")
    assert say(*given, *span, "--to", "asked", "--json").json()["dataset"] == "asked@1"
    assert say(*given, *span, "--every-hours", 12, "--to", "often", "--json").json()["rows"] == 2
    assert "expected one of them" in say(*given, "asked", *span, "--to", "again").err
    assert "expected a file, a dataset, or --from and --until" in say(*given, "--to", "again").err
    told = say("features", "apply", "cli_features:NONE", "--home", fresh)
    assert "cli_features:NONE is a int; expected a source, a FeatureView, a FeatureService or a list of them" in told.err


def test_features_come_over_from_feast(say: Say, tmp_path: Path, fresh: Path) -> None:
    orders = pa.table({"customer_id": ["a"], "ts": pa.array([1e15], pa.timestamp("us")), "spent": [10.0]})
    pq.write_table(orders, tmp_path / "orders.parquet")
    dump = Path(__file__).parents[1] / "features" / "feast" / "registry.json"
    given = ("features", "import-feast", dump, "--files", tmp_path, "--home", fresh)
    for told in (say(*given, "--dry-run"), say(*given)):
        assert "customer_orders        1  create" in told.out, told.err
        assert "left out   service         driver_activity" in told.out
    assert say(*given, "--json").json()["plan"]["changes"][0]["action"] == "keep"
    assert "give what `feast registry-dump` printed" in say("features", "import-feast", tmp_path / "none.json", "--home", fresh).err


def test_features_are_declared_changed_and_rolled_back(say: Say, tmp_path: Path, fresh: Path) -> None:
    assert "tidemill.toml declares no features" in say("features", "apply", "--home", fresh).err
    (tmp_path / "events.csv").write_text("origin,landed_at,delay\nEWR,2013-06-01T12:00:00Z,3.5\n")
    assert say("data", "add", "events", tmp_path / "events.csv", "--home", fresh).code == 0
    view = '[features.views.last]\nentity = ["origin"]\nsource = "events"\nevent_timestamp = "landed_at"\nowner = "ops"\ntags = ["gold"]\n'
    computed = 'computed = { hours = "delay / 60" }\n[features.views.last.features]\ndelay = { default = 0.5 }\nhours = {}\n'
    service = '[features.services.delay]\nfeatures = ["last:*"]\n'
    with (fresh / "tidemill.toml").open("a") as file:
        file.write(f"\n{view}{computed}{service}")
    assert "create" in say("features", "apply", "--dry-run", "--home", fresh).out
    assert "create" in say("features", "apply", "--home", fresh).out
    shown = say("features", "show", "last", "--home", fresh).out
    assert "owner ops, tags gold" in shown
    assert "hours = delay / 60" in shown
    assert "latest delay, else 0.5" in shown
    text = (fresh / "tidemill.toml").read_text()
    (fresh / "tidemill.toml").write_text(text.replace("delay / 60", "delay / 3600"))
    assert "computed: hours" in say("features", "apply", "--home", fresh).out
    with (fresh / "tidemill.toml").open("a") as file:
        file.write(f'[features.sources.events]\nkind = "files"\nfiles = ["{tmp_path}/events.csv"]\n')
    assert "create" in say("features", "apply", "--home", fresh).out
    assert f"{tmp_path}/events.csv  events@1" in say("features", "sources", "--home", fresh).out
    assert say("features", "refresh", "events", "--home", fresh).out == "events@1  1 rows\n"
    assert "computed: hours" in say("features", "show", "last", "--versions", "--home", fresh).out
    assert "computed: hours" in say("features", "rollback", "delay@1", "--dry-run", "--home", fresh).out
    done = say("features", "rollback", "delay@1", "--reason", "seconds were wrong", "--home", fresh, "--json").json()
    assert [(each["name"], each["version"]) for each in done["changes"]] == [("last", 3), ("delay", 3)]
    (fresh / "tidemill.toml").write_text(text.replace("delay / 60", "dely / 60"))
    assert "'dely' is not a column" in say("features", "apply", "--dry-run", "--home", fresh).err


def test_a_pipeline_runs_and_its_run_is_shown(say: Say, home: Path) -> None:
    (name,) = say("pipeline", "list", "--home", home, "--json").json()
    told = say("pipeline", "run", name, "n=3", "--home", home)
    assert "1 of 1 steps executed" in told.out
    done = say("pipeline", "run", name, "n=3", "--home", home, "--json").json()
    assert [step["cached"] for step in done["steps"]] == [True]
    assert "param 'n' was not understood; expected NAME=VALUE" in say("pipeline", "run", name, "n", "--home", home).err
    told = say("run", "show", done["run"], "--home", home)
    assert f"run {done['run']}" in told.out
    assert say("run", "show", done["run"], "--home", home, "--json").json()["id"] == done["run"]


def test_models_and_endpoints_change_by_hand(say: Say, home: Path) -> None:
    assert "delay@tried is version 2 now" in say("model", "alias", "delay", "tried", 2, "--reason", "a try", "--home", home).out
    made = say("endpoint", "create", "by-hand", "delay@1", "--benchmark", "delay@1", "--sticky-by", "wind", "--home", home)
    assert "endpoint by-hand of model delay, answered by v1 100%" in made.out
    assert "yardstick: v1" in made.out
    told = say("endpoint", "rollout", "by-hand", "delay@tried", "--policy", "shadow", "--reason", "a try", "--home", home)
    assert "v2 is set against v1 of by-hand: shadow, then canary, by stages of 0%, 5%, 25%, 50%" in told.out
    assert "score along: v1, v2" in say("endpoint", "show", "by-hand", "--home", home).out
    told = say("endpoint", "rollback", "by-hand", "--reason", "no", "--home", home)
    assert told.out == "endpoint by-hand is answered by v1 100% now\n"
    (rollout,) = say("endpoint", "rollouts", "by-hand", "--home", home, "--json").json()
    assert (rollout["state"], rollout["reason"]) == ("rolled_back", "no")


def test_a_plan_of_ones_own_is_a_file(say: Say, home: Path, tmp_path: Path) -> None:
    assert say("endpoint", "create", "own-plan", "delay@1", "--home", home).code == 0
    plan = tmp_path / "plan.json"
    plan.write_text('{"policy": "leap", "stages": [{"share": 2}]}')
    told = say("endpoint", "rollout", "own-plan", "delay@2", "--plan", plan, "--home", home)
    assert (told.code, "Expected `float` <= 1.0 - at `$.stages[0].share`" in told.err) == (1, True)
    plan.write_text('{"policy": "leap", "stages": [{"share": 1}], "margin": null}')
    assert say("endpoint", "rollout", "own-plan", "delay@2", "--plan", plan, "--home", home, "--json").json()["plan"]["policy"] == "leap"


def test_an_alert_is_resolved_by_hand(say: Say, home: Path) -> None:
    ws = open_workspace(home)
    alert = list_alerts(ws, state="open")[0]
    ws.close()
    told = say("alert", "resolve", alert.id, "--reason", "known", "--home", home)
    assert told.out == f"alert {alert.id} of delay ({alert.aspect}) is resolved\n"
    again = say("alert", "resolve", alert.id, "--home", home)
    assert (again.code, "was resolved at" in again.err) == (1, True)


def test_roles_keys_and_projects(say: Say, fresh: Path) -> None:
    assert say("access", "grant", "ann", "approver", "--reason", "trusted", "--home", fresh).out == "ann is approver now\n"
    told = say("access", "key", "ann", "--role", "developer", "--days", 7, "--home", fresh)
    assert told.out.startswith("tm_")
    (key,) = say("access", "keys", "--home", fresh, "--json").json()
    secret = told.out.split("_", 2)[2].splitlines()[0]
    assert secret not in say("access", "keys", "--home", fresh, "--json").out
    assert say("access", "revoke", key["id"], "--home", fresh).out == f"key {key['id']} of ann is revoked\n"
    assert say("access", "project", "lab", "--home", fresh, "--json").json() == {"project": "lab"}
    assert say("data", "list", "--home", fresh, "--project", "lab").code == 0


def test_a_trace_is_a_tree_that_can_be_read(say: Say, home: Path) -> None:
    ws = open_workspace(home)
    table = read_predictions(ws.state, "delay", objects=ws.objects)
    prediction = table.filter(pc.equal(table["variant"], pa.scalar("v2")))["id"][0].as_py()
    ws.close()
    told = say("trace", prediction, "--home", home)
    lines = told.out.splitlines()
    assert lines[0].startswith(f"prediction {prediction}: 0.")
    assert "by delay@2, from endpoint delay" in lines[0]
    tops = [line[3:].split(",")[0].split(":")[0] for line in lines[1:] if line[0] in "├└"]
    assert tops == ["came true", "feature values", "model delay@2", "release", "who answered then"]
    parts = [
        "│  ├─ wind = ", "checks: warn", "warn not worse than the champion: AUC", "step export", "code: 3f2a9c0d",
        "flights@1, 0 rows", "rollout.started by owner: fresher data", "who answered then: v1 ",
    ]  # fmt: skip
    for part in parts:
        assert part in told.out, part
    assert say("trace", prediction, "--home", home, "--json").json()["model"]["version"] == 2


def test_an_audit_log_that_was_changed_is_told_with_exit_code_one(say: Say, fresh: Path) -> None:
    ws = open_workspace(fresh)
    with ws.catalog.transaction() as tx:
        tx.exec_driver_sql("UPDATE events SET reason = 'something else'")
    ws.close()
    told = say("audit", "verify", "--home", fresh)
    assert (told.code, told.out.startswith("BROKEN: event 1 (workspace.created of workspace) was changed")) == (1, True)
    told = say("doctor", "--home", fresh)
    assert (told.code, "FAIL  audit chain" in told.out) == (1, True)


def test_a_damaged_object_is_found_by_the_doctor(say: Say, fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    say("data", "add", "a", tmp_path / "a.csv", "--home", fresh)
    damaged = max((path for path in (fresh / ".tidemill" / "objects").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    told = say("doctor", "--home", fresh)
    assert (told.code, "FAIL  objects: 1 objects are damaged" in told.out) == (1, True)


def test_version_and_help(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    assert say("--version").out.startswith("tidemill, version ")
    told = say("--help")
    assert told.code == 0
    assert all(noun in told.out for noun in COMMANDS)
    assert main(["endpoint", "--help"]) == 0
    capsys.readouterr()


def test_commands_leave_nothing_open(say: Say, home: Path, recwarn: pytest.WarningsRecorder) -> None:
    ws = open_workspace(home)
    assert list_endpoints(ws)
    assert list_runs(ws, limit=1)
    ws.close()
    assert say("status", "--home", home).code == 0
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]
