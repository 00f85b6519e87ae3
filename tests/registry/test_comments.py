"""Comments: who said what when, and what it said before."""

import pytest

from tests import world
from tidemill.core.errors import Invalid, NotFound
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.comments import NotYours, comment, delete_comment, edit_comment, list_comments
from tidemill.registry.models import ModelNotFound


def test_comments_stand_by_versions_and_by_the_model(any_ws: Workspace) -> None:
    world.model(any_ws)
    world.model(any_ws)
    first = comment(world.acting(any_ws, "dee", "developer"), "delay", "Drifts in\nautumn.", version=1)
    world.tick(any_ws, hours=1)
    comment(any_ws, "delay", "Retrain monthly.")
    comment(any_ws, "delay", "Better.", version=2)
    assert [(c.version, c.actor, c.text) for c in list_comments(any_ws, "delay")] == [
        (1, "dee", "Drifts in\nautumn."), (None, "owner", "Retrain monthly."), (2, "owner", "Better."),
    ]  # fmt: skip
    assert list_comments(any_ws, "delay", version=1) == [first]
    told = list_events(any_ws, kinds=["model.commented"])[-1]
    assert (told.subject, told.actor, told.body) == (
        "model:delay", "dee", {"model": "delay", "version": 1, "comment": first.id, "act": "said"},
    )  # fmt: skip


def test_an_edit_keeps_what_was_said_before(any_ws: Workspace) -> None:
    world.model(any_ws)
    made = comment(any_ws, "delay", "one", version=1)
    for text in ("two", "three"):
        world.tick(any_ws, hours=1)
        edited = edit_comment(any_ws, made.id, text)
    assert (edited.text, edited.at, edited.edited_at) == ("three", world.START, any_ws.clock.now())
    assert [said.text for said in edited.earlier] == ["two", "one"]
    assert edited.earlier[0].valid_to == any_ws.clock.now()
    assert list_comments(any_ws, "delay") == [edited]


def test_what_was_taken_back_is_shown_no_more(ws: Workspace) -> None:
    world.model(ws)
    made = comment(ws, "delay", "one")
    world.tick(ws, hours=1)
    delete_comment(ws, made.id)
    assert list_comments(ws, "delay") == []
    with pytest.raises(NotFound, match=f"no comment '{made.id}'"):
        edit_comment(ws, made.id, "two")
    assert [event.body["act"] for event in list_events(ws, kinds=["model.commented"])] == ["taken back", "said"]


def test_only_its_author_changes_a_comment(ws: Workspace) -> None:
    world.model(ws)
    dee, ann = world.acting(ws, "dee", "developer"), world.acting(ws, "ann", "approver")
    made = comment(dee, "delay", "one")
    with pytest.raises(NotYours, match="was written by 'dee', who alone may change it; an admin may take it away"):
        edit_comment(ws, made.id, "two")
    with pytest.raises(NotYours, match="was written by 'dee'"):
        delete_comment(ann, made.id)
    delete_comment(ws, made.id)


def test_a_comment_says_something_of_something(ws: Workspace) -> None:
    world.model(ws)
    with pytest.raises(Invalid, match="a comment says something"):
        comment(ws, "delay", " \n")
    with pytest.raises(ModelNotFound, match="no model 'delay@9'"):
        comment(ws, "delay", "x", version=9)
    with pytest.raises(ActionRefused, match="viewer"):
        comment(world.acting(ws, "eve", "viewer"), "delay", "x")
