"""Batches: all of one call or nothing; lists that tags hold."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Series, append_to_tag, log_rows, log_series, set_tags
from tidemill.tracking.facts import TAG_MAX, ParamRewritten
from tidemill.tracking.runs import metric_history, read_run, start_run


def test_a_batch_renames_its_run_or_does_nothing(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r", params={"depth": 3}).id
    log_rows(any_ws, run, [("auc", 0.5, 1, 1)], tags={"a": "b"}, name="renamed")
    assert read_run(any_ws, run).name == "renamed"
    with pytest.raises(ParamRewritten, match="'depth'"):
        log_rows(any_ws, run, [("auc", 0.75, 2, 2)], params={"depth": "4"}, tags={"a": "c"}, name="again")
    found = read_run(any_ws, run)
    assert (found.name, found.metrics, found.tags) == ("renamed", {"auc": 0.5}, {"a": "b"})


@pytest.mark.slow
def test_items_are_added_to_the_list_of_a_tag_by_many_at_once(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r").id
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_to_tag(any_ws, run, "list", {"n": number}), range(40)))
    assert sorted(item["n"] for item in decode_any(read_run(any_ws, run).tags["list"])) == list(range(40))


@pytest.mark.slow
def test_points_that_are_sent_twice_at_once_count_once(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r").id
    one = Series(key="auc", values=bytes(8), steps=bytes(8), times=bytes(8))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: log_series(any_ws, run, [one], writer="w", number=1), range(40)))
    assert len(metric_history(any_ws, run, "auc")) == 1


def test_the_oldest_items_make_room(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r").id
    for number in range(30):
        append_to_tag(ws, run, "list", [number, "x" * 1000])
    text = read_run(ws, run).tags["list"]
    assert len(text) <= TAG_MAX
    assert [item[0] for item in decode_any(text)] == list(range(23, 30))
    set_tags(ws, run, {"list": '{"a": 1}'})
    with pytest.raises(Invalid, match="holds no list"):
        append_to_tag(ws, run, "list", 1)
