"""Models: versions with their checks, aliases with their history."""

import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.checks.check import CheckResult, list_checks
from tidemill.core.errors import Invalid
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import AliasNotFound, ChecksFailed, alias_history, promote, read_aliases, read_version
from tidemill.registry.versions import ModelNotFound, attach_card, list_models, list_versions, register
from tidemill.store.trees import put_tree
from tidemill.tracking.runs import start_run

BAD = CheckResult(name="auc", verdict="fail", summary="0.5 is no better than chance")
GOOD = CheckResult(name="auc", verdict="pass", summary="0.75, at least 0.7 expected")


def test_versions_count_up_and_know_where_they_came_from(any_ws: Workspace) -> None:
    run = start_run(any_ws, "train", name="fit", sources=["dataset:flights@3"])
    first = world.model(any_ws, run=run.id, checks=[GOOD], metrics={"auc": 0.75}, tags={"data_until": "2013-06-01"})
    second = world.model(any_ws, slope=2.0)
    assert (first.version, second.version, first.verdict) == (1, 2, "pass")
    assert [version.version for version in list_versions(any_ws, "delay")] == [2, 1]
    assert read_version(any_ws, "delay@1") == first
    assert read_version(any_ws, "delay").version == 2
    assert [model.name for model in list_models(any_ws)] == ["delay"]
    assert [record.result for record in list_checks(any_ws, first.node)] == [GOOD]
    with any_ws.catalog.reading() as tx:
        assert {edge.source for edge in walk(tx, any_ws.project, first.node)} == {f"run:{run.id}", "dataset:flights@3"}


def test_an_alias_remembers_where_it_pointed_when(any_ws: Workspace) -> None:
    world.model(any_ws)
    world.model(any_ws, slope=2.0)
    promote(any_ws, "delay", 1, alias="champion", reason="first")
    may = world.tick(any_ws, days=3)
    promote(any_ws, "delay", 2, alias="champion", reason="better")
    assert read_aliases(any_ws, "delay") == {"champion": 2}
    world.tick(any_ws, days=1)
    assert read_aliases(any_ws, "delay", at=world.START) == {"champion": 1}
    assert read_aliases(any_ws, "delay", at=may) == {"champion": 2}
    assert [(s.version, s.reason, s.valid_to) for s in alias_history(any_ws, "delay")] == [(2, "better", None), (1, "first", may)]
    assert read_version(any_ws, "delay@champion").version == 2


def test_a_version_that_failed_its_checks_needs_an_override_with_a_reason(ws: Workspace) -> None:
    world.model(ws, checks=[GOOD, BAD])
    with pytest.raises(ChecksFailed, match="delay@1 failed its checks and cannot be promoted"):
        promote(ws, "delay", 1, alias="champion")
    with pytest.raises(Invalid, match="an override needs a reason"):
        promote(ws, "delay", 1, alias="champion", override=True)
    with pytest.raises(ActionRefused, match=r"registry\.approve"):
        promote(world.acting(ws, "dee", "developer"), "delay", 1, alias="champion", override=True, reason="hurry")
    assert promote(world.acting(ws, "ann", "approver"), "delay", 1, alias="champion", override=True, reason="hurry").version == 1


def test_what_is_not_there_lists_what_is(ws: Workspace) -> None:
    world.model(ws)
    promote(ws, "delay", 1, alias="champion")
    with pytest.raises(AliasNotFound, match=r"no alias 'challenger' \(it has: champion\)"):
        read_version(ws, "delay@challenger")
    with pytest.raises(ModelNotFound, match=r"no model 'delay@7' \(there are: delay\)"):
        read_version(ws, "delay@7")
    with pytest.raises(ModelNotFound, match="no model 'fraud@"):
        read_version(ws, "fraud")


def test_a_bundle_without_its_description_is_refused(ws: Workspace) -> None:
    with pytest.raises(Invalid, match=r"tree has no file 'model\.json'"):
        register(ws, "delay", put_tree(ws.objects, {"model.onnx": b"x"}))
    with pytest.raises(Invalid, match=r"model\.json is not valid JSON"):
        register(ws, "delay", put_tree(ws.objects, {"model.onnx": b"x", "model.json": b"{"}))
    assert list_models(ws) == []


def test_a_card_is_kept_with_its_version(ws: Workspace) -> None:
    version = attach_card(ws, world.model(ws), "# delay\n")
    assert version.card is not None
    assert read_version(ws, "delay@1") == version
    assert ws.objects.get(version.card) == b"# delay\n"


def test_a_metric_that_is_no_number_is_refused(ws: Workspace) -> None:
    with pytest.raises(
        Invalid, match=r"metrics of model 'delay' are no finite numbers: {'auc': nan}; leave out what could not be measured"
    ):
        world.model(ws, metrics={"auc": float("nan"), "brier": 0.1})
    assert list_models(ws) == []
