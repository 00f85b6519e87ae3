"""`tidemill model`: what is changed is told, what stands is shown, what cannot be is one sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import world
from tests.cli.conftest import Said
from tests.registry.mlflow_models import MLMODEL
from tidemill.checks.check import CheckResult
from tidemill.core.ids import RunId
from tidemill.deploy.endpoints import create_endpoint
from tidemill.registry.aliases import promote
from tidemill.registry.models import create_model
from tidemill.registry.versions import Origin, create_version
from tidemill.store.trees import put_tree
from tidemill.tracking.runs import start_run

pytestmark = pytest.mark.slow

Say = Callable[..., Said]
BAD = CheckResult(name="auc", verdict="fail", summary="0.5 is no better than chance")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two versions of a bundle, a failed one, and one of MLflow's."""
    with world.workspace(tmp_path / "home") as ws:
        run = start_run(ws, "train", name="fit", sources=["dataset:flights@3"], tags={"code": "abc123"}, params={"depth": 3})
        world.model(ws, run=run.id, metrics={"auc": 0.71}, tags={"data": "May"})
        promote(ws, "delay", 1, alias="champion", reason="the first")
        create_endpoint(ws, "delay", "delay@1")
        world.tick(ws, days=3)
        world.model(ws, slope=2.0, metrics={"auc": 0.73})
        promote(ws, "delay", 2, alias="champion", reason="better")
        world.model(ws, checks=[BAD])
        create_model(ws, "theirs")
        origin = Origin(source="mlflow-artifacts:/1/models/m-0a/artifacts", run=RunId("f" * 32), logged_model="m-0a")
        create_version(ws, "theirs", origin=origin, bundle=put_tree(ws.objects, {"MLmodel": MLMODEL, "model.pkl": b"x"}))
        create_version(ws, "theirs", origin=Origin(source="s3://bucket/model"))
    return tmp_path / "home"


def test_which_version_was_champion_then(say: Say, kept: Path) -> None:
    told = say("model", "show", "delay@champion", "--home", kept)
    assert told.out.startswith("delay@2  checks: pass")
    assert say("model", "show", "delay@champion", "--at", "2013-06-02", "--home", kept, "--json").json()["version"]["version"] == 1
    told = say("model", "show", "delay@champion", "--at", "2013-05-03", "--home", kept)
    assert (told.code, "had no alias 'champion' at 2013-05-03 00:00 UTC (it had: none)" in told.err) == (1, True)
    told = say("model", "show", "delay@champion", "--at", "in May", "--home", kept)
    assert (told.code, "time 'in May' was not understood" in told.err) == (1, True)


def test_a_version_is_shown_with_where_it_came_from_and_where_it_runs(say: Say, kept: Path) -> None:
    for words in (("comment", "delay@1", "Drifts\nin autumn."), ("lock", "delay@1", "--reason", "audit"), ("describe", "delay@2", "x")):
        assert say("model", *words, "--home", kept).code == 0
    told = say("model", "show", "delay@1", "--home", kept).out
    for part in (
        "locked by owner since ", ": audit", "nothing yet", "files", "tidemill: onnx, 2 files", "auc = 0.71", "run fit, running",
        "data flights@3", "code abc123", "delay as v1, answers 100%", "data = May", "Drifts in autumn.",
    ):  # fmt: skip
        assert part in told, part
    theirs = say("model", "show", "theirs@1", "--home", kept).out
    for part in ("mlflow: python_function, sklearn, 2 files", "in wind: double", "run ffff", "logged model m-0a", "no endpoint"):
        assert part in theirs, part
    assert "elsewhere: s3://bucket/model" in say("model", "show", "theirs@2", "--home", kept).out


def test_tags_descriptions_and_comments(say: Say, kept: Path) -> None:
    assert "team  ops" in say("model", "tag", "delay", "team=ops", "note=a=b", "--home", kept).out
    assert say("model", "tag", "delay", "--remove", "note", "--home", kept, "--json").json() == {"tags": {"team": "ops"}}
    assert say("model", "tag", "delay@champion", "x=1", "--home", kept, "--json").json() == {"tags": {"x": "1"}}
    assert "delay" in say("model", "search", "tags.team = 'ops'", "--home", kept).out
    assert say("model", "search", "tags.x = '1'", "--versions", "--home", kept, "--json").json()["items"][0]["version"] == 2
    told = say("model", "describe", "delay", "Late or not.", "--owner", "ann", "--home", kept)
    assert ("Late or not." in told.out, "ann" in told.out) == (True, True)
    assert say("model", "describe", "delay@1", "of May", "--home", kept).out == "delay@1: of May\n"
    (made,) = say("model", "comment", "delay@2", "Better.", "--home", kept, "--json").json()
    assert "owner on version 2" in say("model", "comment", "delay", "--home", kept).out
    assert "edited" in say("model", "comment", "delay@2", "Much better.", "--edit", made["id"], "--home", kept).out
    assert say("model", "comment", "delay@2", "--remove", made["id"], "--home", kept).out == "none\n"


def test_a_version_goes_its_way(say: Say, kept: Path) -> None:
    assert say("model", "move", "delay@1", "production", "--home", kept).out == "delay@1 stands in production now\n"
    assert say("model", "move", "delay@2", "production", "--archive", "--reason", "newer", "--home", kept).code == 0
    told = say("model", "move", "delay@3", "production", "--home", kept)
    assert (told.code, "delay@3 failed its checks and cannot be promoted" in told.err) == (1, True)
    assert say("model", "move", "delay@3", "production", "--override", "--reason", "hurry", "--home", kept).code == 0
    assert say("model", "move", "delay@3", "none", "--home", kept).out == "delay@3 stands in no environment now\n"
    assert say("model", "move", "delay@3", "qa", "--home", kept).code == 2
    history = say("model", "history", "delay", "--home", kept)
    assert ("environment archived" in history.out, "alias champion" in history.out) == (True, True)
    assert len(say("model", "history", "delay", "--home", kept, "--json").json()["environments"]) == 4


def test_what_is_locked_stays_until_it_is_unlocked(say: Say, kept: Path) -> None:
    assert say("model", "lock", "delay@champion", "--reason", "audit", "--home", kept).out == "model delay@2 is locked (audit)\n"
    told = say("model", "alias", "delay", "champion", "1", "--home", kept)
    assert (told.code, "model delay@2 is locked by 'owner' since" in told.err, "tidemill model unlock delay@2" in told.err) == (
        1,
        True,
        True,
    )
    told = say("model", "unlock", "delay@2", "--home", kept)
    assert told.out == "model delay@2 is open again; owner had locked it (audit)\n"
    assert say("model", "alias", "delay", "champion", "1", "--home", kept).code == 0
    assert say("model", "lock", "delay", "--reason", "all of it", "--home", kept).out == "model delay is locked (all of it)\n"
    assert say("model", "lock", "delay", "--home", kept).code == 2


def test_the_trash_gives_back(say: Say, kept: Path) -> None:
    told = say("model", "rm", "delay@3", "--home", kept)
    assert told.out == "delay@3 is in the trash; bring it back with: tidemill model restore delay@3\n"
    assert say("model", "rm", "theirs", "--reason", "old", "--home", kept).code == 0
    trash = say("model", "list", "--deleted", "--home", kept)
    assert ("delay@3" in trash.out, "theirs" in trash.out) == (True, True)
    assert "theirs" not in say("model", "list", "--home", kept).out
    assert say("model", "restore", "delay@3", "--home", kept).out == "delay@3 is back, without aliases and environment\n"
    assert say("model", "restore", "theirs", "--home", kept).out == "theirs is back, as it was\n"
    told = say("model", "restore", "theirs", "--home", kept)
    assert (told.code, "there is no model 'theirs' in the trash" in told.err) == (1, True)


def test_a_rename_is_followed(say: Say, kept: Path) -> None:
    assert say("model", "rename", "delay", "late", "--home", kept).out == "delay is late now\n"
    assert say("model", "show", "late@champion", "--home", kept, "--json").json()["version"]["key"] == "delay"
    assert "v1" in say("model", "where", "late@1", "--home", kept).out
    told = say("model", "versions", "delay", "--home", kept)
    assert (told.code, "the model made as 'delay' is called 'late' now" in told.err) == (1, True)


def test_versions_side_by_side(say: Say, kept: Path) -> None:
    told = say("model", "compare", "delay@1", "delay@champion", "--home", kept).out
    assert ("auc" in told, "0.71" in told, "0.73" in told, "more are the same in all; show them with --all" in told) == (True,) * 4
    assert "runtime" not in told
    assert "runtime" in say("model", "compare", "delay@1", "delay@2", "--all", "--home", kept).out
    told = say("model", "compare", "delay@1", "--home", kept)
    assert (told.code, "1 versions cannot be compared" in told.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tag", "delay"), "nothing to set; name tags as KEY=VALUE"),
        (("tag", "delay", "team"), "tag 'team' was not understood; expected KEY=VALUE"),
        (("tag", "delay", "--remove", "no"), "model delay has no tag 'no'"),
        (("describe", "delay@1", "--owner", "ann"), "a version has a description and no owner"),
        (("alias", "delay", "champion"), "say either which VERSION delay@champion shall point at, or --remove"),
        (("alias", "delay", "nothing", "--remove"), "has no alias 'nothing'"),
        (("comment", "delay", " "), "a comment says something"),
        (("rename", "delay", "theirs"), "registered model 'theirs' already exists"),
        (("rename", "delay", "a/b"), "model name 'a/b' is not usable"),
        (("search", "nothing = 1"), "'nothing' is no attribute"),
        (("search", "--page-token", "x"), "the page token is not one that this search gave"),
        (("where", "nothing"), "there is no model 'nothing' (there are: delay, theirs)"),
        (("unlock", "delay"), "model delay is not locked"),
        (("versions", "nothing"), "there is no model 'nothing'"),
    ],
)
def test_what_cannot_be_is_one_sentence(say: Say, kept: Path, words: tuple[str, ...], says: str) -> None:
    told = say("model", *words, "--home", kept)
    assert (told.code, told.out) == (1, "")
    assert says in told.err
    assert told.err.startswith("tidemill: ")


def test_an_empty_workspace_has_none(say: Say, tmp_path: Path) -> None:
    world.init(tmp_path / "empty").close()
    for words in (("list",), ("search",), ("search", "--versions"), ("list", "--deleted")):
        assert say("model", *words, "--home", tmp_path / "empty").out == "none\n"
