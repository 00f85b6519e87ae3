"""Locks: who, when and why is told to everybody who would change what is locked, whatever the way."""

from collections.abc import Callable
from typing import Any

import pytest

from tests import world
from tidemill.core.errors import Invalid, NotFound
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import promote, read_version, remove_alias
from tidemill.registry.cards import attach_card
from tidemill.registry.comments import comment
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
from tidemill.registry.environments import move
from tidemill.registry.locks import VersionLocked, lock, lock_history, read_lock, unlock
from tidemill.registry.trash import delete_model, delete_version

Act = Callable[[Workspace], Any]
ON_A_VERSION: dict[str, Act] = {
    "describe": lambda ws: describe_version(ws, "delay", 1, "x"),
    "tag": lambda ws: tag_version(ws, "delay", 1, {"a": "b"}),
    "untag": lambda ws: untag_version(ws, "delay", 1, "a"),
    "move": lambda ws: move(ws, "delay", 1, environment="dev"),
    "archive": lambda ws: move(ws, "delay", 2, environment="production", archive=True),
    "alias to it": lambda ws: promote(ws, "delay", 1, alias="challenger"),
    "alias from it": lambda ws: promote(ws, "delay", 2, alias="champion"),
    "remove alias": lambda ws: remove_alias(ws, "delay", "champion"),
    "card": lambda ws: attach_card(ws, read_version(ws, "delay@1"), "# x"),
    "delete": lambda ws: delete_version(ws, "delay", 1),
    "rename": lambda ws: rename_model(ws, "delay", "late"),
    "delete model": lambda ws: delete_model(ws, "delay"),
    "lock": lambda ws: lock(ws, "delay", 1, reason="again"),
}
ON_THE_MODEL: dict[str, Act] = {
    "describe model": lambda ws: describe_model(ws, "delay", "x"),
    "tag model": lambda ws: tag_model(ws, "delay", {"a": "b"}),
    "untag model": lambda ws: untag_model(ws, "delay", "a"),
    "give": lambda ws: give_model(ws, "delay", "ann"),
    **{name: act for name, act in ON_A_VERSION.items() if name != "lock"},
}


def prepared(ws: Workspace) -> Workspace:
    world.model(ws)
    world.model(ws)
    promote(ws, "delay", 1, alias="champion")
    move(ws, "delay", 1, environment="production")
    return ws


@pytest.mark.parametrize("act", ON_A_VERSION)
def test_a_locked_version_stays_as_it_is(ws: Workspace, act: str) -> None:
    prepared(ws)
    lock(world.acting(ws, "dee", "developer"), "delay", 1, reason="frozen for the audit")
    before = read_version(ws, "delay@1")
    says = r"model delay@1 is locked by 'dee' since 2013-06-01 00:00 UTC \(frozen for the audit\).*tidemill model unlock delay@1"
    with pytest.raises(VersionLocked, match=says):
        ON_A_VERSION[act](ws)
    assert read_version(ws, "delay@champion") == before


@pytest.mark.parametrize("act", ON_THE_MODEL)
def test_a_locked_model_keeps_all_its_versions_as_they_are(ws: Workspace, act: str) -> None:
    prepared(ws)
    lock(ws, "delay", reason="frozen")
    with pytest.raises(VersionLocked, match=r"model delay is locked by 'owner' since .* \(frozen\).*tidemill model unlock delay$"):
        ON_THE_MODEL[act](ws)


def test_what_a_lock_leaves_open(ws: Workspace) -> None:
    prepared(ws)
    lock(ws, "delay", 1, reason="frozen")
    promote(ws, "delay", 1, alias="champion")  # where it points already
    promote(ws, "delay", 2, alias="challenger")
    tag_version(ws, "delay", 2, {"a": "b"})
    tag_model(ws, "delay", {"a": "b"})
    comment(ws, "delay", "Wait for me.", version=1)
    assert world.model(ws).version == 3


def test_only_an_approver_unlocks_and_all_is_remembered(any_ws: Workspace) -> None:
    prepared(any_ws)
    lock(world.acting(any_ws, "dee", "developer"), "delay", 1, reason="frozen")
    with pytest.raises(ActionRefused, match=r"registry\.approve"):
        unlock(world.acting(any_ws, "dee", "developer"), "delay", 1)
    held = read_lock(any_ws, read_version(any_ws, "delay@1"))
    assert held is not None
    assert (held.version, held.actor, held.valid_to) == (1, "dee", None)
    later = world.tick(any_ws, days=1)
    unlock(world.acting(any_ws, "ann", "approver"), "delay", 1, reason="audit done")
    move(any_ws, "delay", 1, environment="archived")
    assert read_lock(any_ws, read_version(any_ws, "delay@1")) is None
    assert [(span.version, span.actor, span.valid_to, span.opened_by) for span in lock_history(any_ws, "delay")] == [
        (1, "dee", later, "ann")
    ]
    assert [(event.kind, event.actor, event.reason) for event in list_events(any_ws, kinds=["model.locked", "model.unlocked"])] == [
        ("model.unlocked", "ann", "audit done"), ("model.locked", "dee", "frozen"),
    ]  # fmt: skip
    with pytest.raises(NotFound, match=r"model delay@1 is not locked; see what is with: tidemill model history delay"):
        unlock(any_ws, "delay", 1)
    lock(any_ws, "delay", 1, reason="in the same moment")
    assert len(lock_history(any_ws, "delay")) == 2


def test_a_lock_of_the_whole_is_named_to_who_unlocks_a_part(ws: Workspace) -> None:
    prepared(ws)
    lock(ws, "delay", reason="frozen")
    with pytest.raises(NotFound, match="model delay@1 is not locked; the whole model is: unlock delay"):
        unlock(ws, "delay", 1)
    unlock(ws, "delay")
    move(ws, "delay", 1, environment="dev")


def test_a_lock_needs_a_reason(ws: Workspace) -> None:
    prepared(ws)
    with pytest.raises(Invalid, match="a lock needs a reason"):
        lock(ws, "delay", 1, reason=" ")
