"""The journals' chores of a project: old days become objects, days whose time is up go, and an event tells of it."""

from datetime import timedelta

from tests import world
from tests.deploy import worlds
from tests.deploy.worlds import Ledger
from tidemill.automate.journals import keep_journals
from tidemill.automate.upkeep import sweep_objects
from tidemill.deploy.endpoints import change_endpoint, create_endpoint
from tidemill.deploy.performance import count_journal
from tidemill.govern.audit import list_events
from tidemill.govern.workspace import Workspace
from tidemill.serving.archive import archived_objects


def test_old_days_move_to_the_object_store_and_go_when_their_time_is_up(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    ledger = Ledger(ws)
    ledger.predict({"old": 0.2})
    ledger.label({"old": 1.0})
    world.tick(ws, days=30)
    ledger.predict({"new": 0.3})
    ledger.predictions.close()
    ledger.labels.close()
    keep_journals(ws)
    (archived,) = archived_objects(ws.state)
    sweep_objects(ws, older_than=timedelta(0))
    assert ws.objects.has(archived), "what a journal refers to is no garbage"
    assert (count_journal(ws, "delay").predictions, count_journal(ws, "delay").labelled) == (2, 1)
    change_endpoint(ws, "delay", {"journal_days": 20})
    keep_journals(ws)
    keep_journals(ws)
    assert (count_journal(ws, "delay").predictions, count_journal(ws, "delay").labelled) == (1, 0)
    assert not ws.objects.has(archived)
    (told,) = [event for event in list_events(ws, subject="endpoint:delay") if event.kind == "journal.expired"]
    assert (told.body["predictions"], told.body["labels"], told.reason) == (1, 1, "journal_days is 20")
