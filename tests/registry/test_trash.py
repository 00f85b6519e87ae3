"""The trash: names free at once, everything back on restore, nothing of the old in the new."""

from datetime import timedelta

import pytest

from tests import world
from tidemill.checks.check import CheckResult, list_checks
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import alias_history, promote, read_aliases, read_version
from tidemill.registry.comments import comment, list_comments
from tidemill.registry.describe import tag_model
from tidemill.registry.environments import environment_history, move
from tidemill.registry.models import ModelExists, ModelNotFound, create_model, list_models, read_model
from tidemill.registry.trash import (
    NotInTrash,
    delete_model,
    delete_version,
    list_trash,
    purge,
    restore_model,
    restore_version,
)
from tidemill.registry.versions import list_versions

GOOD = CheckResult(name="auc", verdict="pass", summary="0.75")


def test_a_deleted_model_frees_its_name_and_comes_back_whole(any_ws: Workspace) -> None:
    made = world.model(any_ws, checks=[GOOD], tags={"a": "b"})
    promote(any_ws, "delay", 1, alias="champion")
    move(any_ws, "delay", 1, environment="dev")
    world.tick(any_ws, hours=1)
    delete_model(any_ws, "delay", reason="not needed")
    assert (list_models(any_ws), list_versions(any_ws, "delay"), read_aliases(any_ws, "delay")) == ([], [], {})
    with pytest.raises(ModelNotFound, match="no model 'delay@1'"):
        read_version(any_ws, "delay@1")
    models, singles = list_trash(any_ws)
    assert ([(model.name, model.deleted_at) for model in models], singles) == ([("delay", any_ws.clock.now())], [])

    again = world.model(any_ws)
    assert (again.version, again.key, list_checks(any_ws, again.node), alias_history(any_ws, "delay")) == (1, "delay~2", [], [])
    with pytest.raises(ModelExists, match="'delay' already exists"):
        restore_model(any_ws, "delay")
    world.tick(any_ws, hours=1)
    delete_model(any_ws, "delay")
    assert restore_model(any_ws, "delay").key == "delay~2", "the last deleted of that name"
    world.tick(any_ws, hours=1)
    delete_model(any_ws, "delay")
    purge(any_ws, before=any_ws.clock.now() + timedelta(seconds=1), keep=[made.node])
    assert restore_model(any_ws, "delay").key == "delay"
    found = read_version(any_ws, "delay@champion")
    assert (found.environment, found.tags, len(list_checks(any_ws, found.node))) == ("dev", {"a": "b"}, 1)
    with pytest.raises(NotInTrash, match=r"no model 'delay' in the trash; see what is with: tidemill model list --deleted"):
        restore_model(any_ws, "delay")


def test_a_deleted_version_loses_its_aliases_and_its_environment(any_ws: Workspace) -> None:
    world.model(any_ws, tags={"a": "b"})
    world.model(any_ws)
    for alias in ("champion", "old"):
        promote(any_ws, "delay", 1, alias=alias)
    move(any_ws, "delay", 1, environment="production")
    later = world.tick(any_ws, hours=1)
    delete_version(any_ws, "delay", 1)
    assert read_aliases(any_ws, "delay") == {}
    assert {span.valid_to for span in alias_history(any_ws, "delay")} == {later}
    assert [stay.valid_to for stay in environment_history(any_ws, "delay")] == [later]
    models, singles = list_trash(any_ws)
    assert (models, [version.reference for version in singles]) == ([], ["delay@1"])
    with pytest.raises(ModelNotFound, match="no model 'delay@1'"):
        delete_version(any_ws, "delay", 1)
    back = restore_version(any_ws, "delay", 1)
    assert (back.environment, back.tags, back.deleted_at) == ("", {"a": "b"}, None)
    assert [version.version for version in list_versions(any_ws, "delay")] == [2, 1]
    with pytest.raises(NotInTrash, match="no model 'delay@1' in the trash"):
        restore_version(any_ws, "delay", 1)
    kinds = [event.kind for event in list_events(any_ws, subject="model:delay", limit=5)]
    assert kinds == ["model.restored", "model.deleted", "model.moved", "model.alias_removed", "model.alias_removed"]


def test_purge_removes_what_is_old_enough_for_good(any_ws: Workspace) -> None:
    for name in ("old", "young", "kept"):
        world.model(any_ws, name, tags={"a": "b"})
    world.model(any_ws, "kept")
    create_model(any_ws, "empty")
    tag_model(any_ws, "old", {"a": "b"})
    comment(any_ws, "old", "Bye.", version=1)
    for name in ("old", "empty"):
        delete_model(any_ws, name)
    delete_version(any_ws, "kept", 1)
    world.tick(any_ws, days=30)
    delete_model(any_ws, "young")
    before = any_ws.clock.now() - timedelta(days=7)
    with pytest.raises(ActionRefused, match="admin"):
        purge(world.acting(any_ws, "ann", "approver"), before=before)
    assert purge(any_ws, before=before, keep=["model:kept@1"]) == ["model:old@1", "model:empty", "model:old"]
    assert purge(any_ws, before=before) == ["model:kept@1"]
    assert purge(any_ws, before=before) == []
    assert [model.name for model in list_trash(any_ws)[0]] == ["young"]
    assert list_trash(any_ws)[1] == []
    assert [version.version for version in list_versions(any_ws, "kept")] == [2]
    assert restore_model(any_ws, "young").name == "young"
    again = world.model(any_ws, "old")
    assert (again.version, again.key, list_comments(any_ws, "old"), read_model(any_ws, "old").tags) == (1, "old~2", [], {})
    assert len(list_events(any_ws, kinds=["model.purged"])) == 4
