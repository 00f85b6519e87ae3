"""What a run has under keys, a page at a time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import NotFound
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Metric, log_batch
from tidemill.tracking.keys import CLIP, GROUPS_MAX, choose_keys, read_keys, read_latest_of, read_text
from tidemill.tracking.runs import RunNotFound, start_run

KEYS = st.lists(st.text(alphabet="ab/.0129", min_size=1, max_size=6), unique=True, max_size=30)


@given(KEYS, st.integers(1, 7))
def test_pages_one_behind_the_other_hold_every_key_once(keys: list[str], limit: int) -> None:
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = choose_keys(keys, after=after, limit=limit)
        assert len(page.keys) <= limit
        found += page.keys
        after = page.next
    assert sorted(found) == sorted(keys)


def test_numbers_in_keys_count_as_numbers() -> None:
    assert choose_keys(["layer.10", "layer.2", "bias", "2", "layer.02"]).keys == ("2", "bias", "layer.02", "layer.2", "layer.10")


def test_keys_are_found_by_words_and_by_what_they_begin_with() -> None:
    keys = ["train/Loss", "train/auc", "valid/loss", "valid/deep/loss", "trainer"]
    assert choose_keys(keys, find="loss valid").keys == ("valid/deep/loss", "valid/loss")
    under = choose_keys(keys, under="train")
    assert (under.keys, under.fitting, under.total) == (("train/Loss", "train/auc"), 2, 5)
    assert [(group.prefix, group.keys) for group in choose_keys(keys).groups] == [("train", 2), ("valid", 2)]
    assert [group.prefix for group in choose_keys(keys, under="valid").groups] == ["valid/deep"]
    assert choose_keys(keys, find="nothing").keys == ()


def test_of_too_many_groups_some_of_each_kind_are_told() -> None:
    found = choose_keys([*(f"layer.{number}/norm" for number in range(300)), "train/loss", "probe/1", "alone"])
    told = [group.prefix for group in found.groups]
    assert len(told) == GROUPS_MAX
    assert told[:2] == ["layer.0", "layer.1"]
    assert told[-2:] == ["probe", "train"]
    assert found.more_groups == 302 - GROUPS_MAX


def test_a_page_has_the_latest_points_and_the_beginnings_of_texts(any_ws: Workspace) -> None:
    run = start_run(any_ws, "e", name="r", params={"short": "x", "long": "y" * 5000}, tags={"note": "z"}).id
    log_batch(
        any_ws, run, metrics=[Metric(key="a/loss", value=2.0), Metric(key="a/loss", value=1.0, step=4), Metric(key="b", value=math.nan)]
    )
    loss, b = read_keys(any_ws, run, "metric").entries
    assert (loss.key, loss.value, loss.step, b.key, math.isnan(float(b.value))) == ("a/loss", 1.0, 4, "b", True)
    long, short = read_keys(any_ws, run, "param").entries
    assert (long.value, long.letters, short.value, short.letters) == ("y" * CLIP, 5000, "x", 1)
    assert read_keys(any_ws, run, "metric", after="a/loss").chosen.keys == ("b",)
    assert read_keys(any_ws, run, "tag", find="other").entries == ()
    assert read_text(any_ws, run, "param", "long") == "y" * 5000
    assert read_text(any_ws, run, "tag", "note") == "z"
    other = start_run(any_ws, "e", name="other").id
    assert read_latest_of(any_ws, [run, other], ["a/loss", "c"]) == {run: {"a/loss": 1.0}, other: {}}


def test_what_is_not_there_is_told_so(ws: Workspace) -> None:
    run = start_run(ws, "e", name="r").id
    with pytest.raises(NotFound, match="has no param 'depth'; see what it has with: tidemill run show"):
        read_text(ws, run, "param", "depth")
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        read_keys(ws, "nope", "metric")
