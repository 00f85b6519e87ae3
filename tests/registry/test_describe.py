"""Names, descriptions, owners and tags: what changes, what follows, what is told."""

import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.checks.check import CheckResult, list_checks
from tidemill.core.errors import Invalid
from tidemill.govern.audit import list_events
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import alias_history, promote, read_aliases, read_version
from tidemill.registry.describe import (
    describe_model,
    describe_version,
    give_model,
    rename_model,
    tag_model,
    tag_version,
    untag_model,
    untag_version,
)
from tidemill.registry.environments import environment_history, move
from tidemill.registry.models import ModelExists, ModelNotFound, create_model, list_models, read_model

GOOD = CheckResult(name="auc", verdict="pass", summary="0.75")


def test_a_renamed_model_takes_everything_along(any_ws: Workspace) -> None:
    made = world.model(any_ws, sources=["dataset:flights@3"], checks=[GOOD], tags={"a": "b"})
    promote(any_ws, "delay", 1, alias="champion")
    move(any_ws, "delay", 1, environment="staging")
    tag_model(any_ws, "delay", {"team": "ops"})
    world.tick(any_ws, hours=1)
    renamed = rename_model(any_ws, "delay", "late", reason="says more")
    assert (renamed.name, renamed.key, renamed.tags, renamed.updated_at) == ("late", "delay", {"team": "ops"}, any_ws.clock.now())
    found = read_version(any_ws, "late@champion")
    assert (found.name, found.node, found.tags, found.environment) == ("late", made.node, {"a": "b"}, "staging")
    assert len(alias_history(any_ws, "late")) == len(environment_history(any_ws, "late")) == len(list_checks(any_ws, found.node)) == 1
    with any_ws.catalog.reading() as tx:
        assert {edge.source for edge in walk(tx, any_ws.project, found.node)} == {"dataset:flights@3"}
    event = list_events(any_ws, subject=renamed.subject)[0]
    assert (event.kind, event.body, event.reason) == ("model.renamed", {"model": "late", "previous": "delay"}, "says more")
    assert len(list_events(any_ws, subject=renamed.subject)) == 5, "what happened under the old name belongs to it"


def test_a_name_that_became_free_makes_a_model_of_its_own(any_ws: Workspace) -> None:
    world.model(any_ws, checks=[GOOD])
    promote(any_ws, "delay", 1, alias="champion")
    rename_model(any_ws, "delay", "late")
    again = world.model(any_ws)
    assert (again.name, again.key, again.version, again.node) == ("delay", "delay~2", 1, "model:delay~2@1")
    assert (read_aliases(any_ws, "delay"), list_checks(any_ws, again.node)) == ({}, [])
    rename_model(any_ws, "delay", "third")
    assert world.model(any_ws).key == "delay~3"
    assert [(model.name, model.key) for model in list_models(any_ws)] == [
        ("delay", "delay~3"), ("late", "delay"), ("third", "delay~2"),
    ]  # fmt: skip


def test_a_taken_name_is_refused(any_ws: Workspace) -> None:
    create_model(any_ws, "delay")
    create_model(any_ws, "fraud")
    with pytest.raises(ModelExists, match="'fraud' already exists"):
        rename_model(any_ws, "delay", "fraud")
    with pytest.raises(Invalid, match="model name 'a/b' is not usable"):
        rename_model(any_ws, "delay", "a/b")
    with pytest.raises(ModelNotFound, match="no model 'nothing'"):
        rename_model(any_ws, "nothing", "something")
    assert rename_model(any_ws, "delay", "delay").updated_at == world.START
    assert [event.kind for event in list_events(any_ws)].count("model.renamed") == 0


def test_descriptions_and_owners_change(any_ws: Workspace) -> None:
    world.model(any_ws)
    later = world.tick(any_ws, hours=1)
    assert describe_model(any_ws, "delay", "Late or not.").description == "Late or not."
    found = describe_version(any_ws, "delay", 1, "of January to May")
    assert (found.description, found.updated_at, read_version(any_ws, "delay")) == ("of January to May", later, found)
    assert give_model(any_ws, "delay", "ann").owner == "ann"
    assert read_model(any_ws, "delay").updated_at == later
    describe_version(any_ws, "delay", 1, "of January to May")
    assert [event.kind for event in list_events(any_ws, limit=3)] == ["model.owned", "model.described", "model.described"]
    with pytest.raises(Invalid, match="owner '' is not usable"):
        give_model(any_ws, "delay", "")
    with pytest.raises(Invalid, match="the description is not usable"):
        describe_model(any_ws, "delay", "\0")


def test_tags_are_set_replaced_and_taken_away(any_ws: Workspace) -> None:
    world.model(any_ws, tags={"a": "1"})
    world.model(any_ws, tags={"a": "2"})
    tag_version(any_ws, "delay", 1, {"a": "3", "b": ""})
    tag_model(any_ws, "delay", {"a": "4"})
    assert [read_version(any_ws, f"delay@{n}").tags for n in (1, 2)] == [{"a": "3", "b": ""}, {"a": "2"}]
    assert untag_version(any_ws, "delay", 1, "a")
    assert not untag_version(any_ws, "delay", 1, "a")
    assert untag_model(any_ws, "delay", "a")
    assert not untag_model(any_ws, "delay", "a")
    assert [read_version(any_ws, f"delay@{n}").tags for n in (1, 2)] == [{"b": ""}, {"a": "2"}]
    assert read_model(any_ws, "delay").tags == {}
    assert [(event.body["version"], event.body["set"], event.body["removed"]) for event in list_events(any_ws, kinds=["model.tagged"])] == [
        (None, [], ["a"]), (1, [], ["a"]), (None, ["a"], []), (1, ["a", "b"], []),
    ]  # fmt: skip
    with pytest.raises(Invalid, match="tag key '' is not usable"):
        tag_version(any_ws, "delay", 1, {"": "x"})
