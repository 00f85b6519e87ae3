"""Aliases: where they point, where they pointed when, and what may not be promoted."""

import pytest

from tests import world
from tidemill.checks.check import CheckResult
from tidemill.core.errors import Invalid
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import AliasNotFound, alias_history, find_alias, promote, read_aliases, read_version, remove_alias
from tidemill.registry.describe import rename_model
from tidemill.registry.models import ModelNotFound, create_model
from tidemill.registry.promotion import ChecksFailed
from tidemill.registry.trash import delete_version

BAD = CheckResult(name="auc", verdict="fail", summary="0.5 is no better than chance")
GOOD = CheckResult(name="auc", verdict="pass", summary="0.75, at least 0.7 expected")


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
    assert read_version(any_ws, "delay@champion", at=world.START).version == 1


def test_who_was_champion_is_answered_for_a_version_that_is_gone_by_now(ws: Workspace) -> None:
    world.model(ws)
    promote(ws, "delay", 1, alias="champion")
    world.tick(ws, days=1)
    delete_version(ws, "delay", 1)
    assert read_aliases(ws, "delay") == {}
    then = read_version(ws, "delay@champion", at=world.START)
    assert (then.version, then.deleted_at) == (1, ws.clock.now())
    with pytest.raises(AliasNotFound, match=r"had no alias 'challenger' at 2013-06-01 00:00 UTC \(it had: champion\); see: tidemill model"):
        read_version(ws, "delay@challenger", at=world.START)


def test_the_newest_version_is_the_newest_of_then(ws: Workspace) -> None:
    world.model(ws)
    world.tick(ws, days=1)
    world.model(ws)
    assert (read_version(ws, "delay").version, read_version(ws, "delay@latest").version) == (2, 2)
    assert read_version(ws, "delay", at=world.START).version == 1


def test_a_removed_alias_points_nowhere_and_its_span_is_closed(any_ws: Workspace) -> None:
    world.model(any_ws)
    promote(any_ws, "delay", 1, alias="champion")
    later = world.tick(any_ws, hours=1)
    remove_alias(any_ws, "delay", "champion", reason="too old")
    assert find_alias(any_ws, "delay", "champion") is None
    assert [span.valid_to for span in alias_history(any_ws, "delay")] == [later]
    event = list_events(any_ws, kinds=["model.alias_removed"])[0]
    assert (event.subject, event.reason, event.body) == (
        "model:delay", "too old", {"model": "delay", "alias": "champion", "previous": 1},
    )  # fmt: skip
    with pytest.raises(AliasNotFound, match="has no alias 'champion'"):
        remove_alias(any_ws, "delay", "champion")
    promote(any_ws, "delay", 1, alias="champion", reason="after all, and in the same moment")
    assert read_aliases(any_ws, "delay") == {"champion": 1}


def test_the_last_word_of_a_moment_counts(ws: Workspace) -> None:
    for _ in range(3):
        world.model(ws)
    for version in (1, 2, 3):
        promote(ws, "delay", version, alias="champion")
    assert [(span.version, span.valid_to) for span in alias_history(ws, "delay")] == [(3, None)]
    assert len(list_events(ws, kinds=["model.promoted"])) == 3


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
    with pytest.raises(ModelNotFound, match=r"no model 'fraud' \(there are: delay\)"):
        read_version(ws, "fraud")
    create_model(ws, "empty")
    with pytest.raises(ModelNotFound, match="no model 'empty'"):
        read_version(ws, "empty")


@pytest.mark.parametrize("alias", ["", "latest", "Latest", "v7", "V12", "a b", "a/b", "a" * 256, "a:b"])
def test_an_alias_that_reads_as_something_else_is_refused(ws: Workspace, alias: str) -> None:
    world.model(ws)
    with pytest.raises(Invalid, match=r"alias name .* is (not usable|reserved)"):
        promote(ws, "delay", 1, alias=alias)


def test_a_version_goes_before_an_alias_that_is_a_number(ws: Workspace) -> None:
    world.model(ws)
    world.model(ws)
    promote(ws, "delay", 1, alias="2")
    promote(ws, "delay", 1, alias="20130601")
    assert read_version(ws, "delay@2").version == 2
    assert read_version(ws, "delay@20130601").version == 1


def test_a_name_may_hold_what_a_reference_is_made_of(ws: Workspace) -> None:
    for name in ("a@b", "späte Flüge #1?", "50%", "x@3"):
        assert world.model(ws, name).reference == f"{name}@1"
        promote(ws, name, 1, alias="champion")
        for reference in (name, f"{name}@1", f"{name}@champion"):
            assert read_version(ws, reference).name == name


def test_a_key_leads_to_a_renamed_model_and_a_stale_name_is_told(ws: Workspace) -> None:
    world.model(ws)
    rename_model(ws, "delay", "late")
    assert read_version(ws, "delay@1").name == "late"
    with pytest.raises(ModelNotFound, match=r"no model 'delay@1' \(the model made as 'delay' is called 'late' now\)"):
        promote(ws, "delay", 1, alias="champion")
