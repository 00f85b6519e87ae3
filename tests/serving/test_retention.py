"""Days whose time is up go for good, and their labels with them; nothing else does."""

from datetime import date, timedelta
from pathlib import Path

from tests.serving.test_labels import Desk
from tidemill.core.codec import encode
from tidemill.serving.archive import compact
from tidemill.serving.history import count_pending, read_labels, read_predictions
from tidemill.serving.journal import labels_folder
from tidemill.serving.retention import carry_out, forget_labels, plan_expiry
from tidemill.store.local import LocalStore

DAY = date(2013, 6, 1)


def test_predictions_go_with_their_labels_and_no_others(tmp_path: Path) -> None:
    desk, objects = Desk(tmp_path), LocalStore(tmp_path / "objects")
    for unit, key, hours in (("old", "A", 1), ("old too", "B", 2), ("new", "A", 30), ("new too", "C", 31)):
        desk.predict(unit, key, hours=hours)
    desk.label("A", 1, hours=3)  # about old
    desk.label("A", 0, hours=4)  # the same, corrected
    desk.label("A", 1, hours=40)  # about new
    desk.label("Z", 1, hours=5)  # about nothing, and never will be
    desk.label("Y", 1, hours=50)
    desk.tell(encode([{"id": "old too", "value": 1}, {"id": "new too", "value": 0}, {"id": "elsewhere", "value": 1}]))
    compact(tmp_path, "delay", objects=objects, archive_before=DAY + timedelta(days=1))
    plan = plan_expiry(tmp_path, "delay", before=DAY + timedelta(days=1), objects=objects)
    assert plan is not None
    assert (plan[0].predictions, plan[0].labels, plan[0].files) == (2, 4, 2)
    carry_out(tmp_path, plan, objects=objects)
    assert read_predictions(tmp_path, "delay", objects=objects)["id"].to_pylist() == ["new", "new too"]
    assert list(objects.digests()) == []
    notes = list((labels_folder(tmp_path) / "forget").iterdir())
    assert len(notes) == 1, "the worker still writes to the segment"
    desk.labels.close()
    forget_labels(tmp_path)
    assert sorted(read_labels(tmp_path, history=True)["id"].to_pylist()) == ["elsewhere", "new", "new too"]
    assert count_pending(tmp_path, "delay") == 1
    left = b"".join(path.read_bytes() for path in labels_folder(tmp_path).rglob("*") if path.is_file())
    assert b"old too" not in left
    assert plan_expiry(tmp_path, "delay", before=DAY + timedelta(days=1), objects=objects) is None


def test_an_expiry_that_was_killed_after_the_labels_were_noted_is_finished(tmp_path: Path) -> None:
    desk, objects = Desk(tmp_path), LocalStore(tmp_path / "objects")
    desk.predict("old", "A", hours=1)
    desk.tell(encode([{"id": "old", "value": 1}, {"id": "new", "value": 1}]))
    desk.labels.close()
    compact(tmp_path, "delay", objects=objects)
    before = DAY + timedelta(days=1)
    plan = plan_expiry(tmp_path, "delay", before=before, objects=objects)
    assert plan is not None
    for _ in range(2):
        carry_out(tmp_path, plan, objects=objects)
    assert read_labels(tmp_path)["id"].to_pylist() == ["new"]
    assert plan_expiry(tmp_path, "delay", before=before, objects=objects) is None
