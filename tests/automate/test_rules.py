"""Rules: which events they wait for, when schedules come, and that changing a rule begins anew."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import world
from tidemill.automate.rules import (
    OnEvent,
    OnSchedule,
    Rule,
    RunPipeline,
    StartRollout,
    list_firings,
    list_rules,
    matches,
    next_scheduled,
    read_active,
    scheduled,
    set_rule,
)
from tidemill.catalog.events import Event
from tidemill.core.clock import parse_moment
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.deploy.plans import canary_plan
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace

TRAIN = RunPipeline(pipeline="train", params={"trials": 3})
NEW_YORK, BERLIN = "America/New_York", "Europe/Berlin"


def event(**fields: Any) -> Event:
    values = {
        "project": "default", "seq": 1, "id": "e", "at": world.START, "actor": "owner", "kind": "model.registered",
        "subject": "model:delay", "reason": "", "cause": None, "previous": "", "hash": "",
        "body": {"name": "delay", "version": 3, "tags": {"made_by": "train", "a.b": "c"}},
    }  # fmt: skip
    return Event(**{**values, **fields})


@pytest.mark.parametrize(
    ("trigger", "found"),
    [
        (OnEvent(kind="model.registered"), True),
        (OnEvent(kind="model.promoted"), False),
        (OnEvent(kind="model"), False),
        (OnEvent(kind="model.registered", subject="model:"), True),
        (OnEvent(kind="model.registered", subject="model:other"), False),
        (OnEvent(kind="model.registered", where={"name": "delay", "version": 3}), True),
        (OnEvent(kind="model.registered", where={"name": "delay", "version": 4}), False),
        (OnEvent(kind="model.registered", where={"tags.made_by": "train"}), True),
        (OnEvent(kind="model.registered", where={"tags.made_by": "hand"}), False),
        (OnEvent(kind="model.registered", where={"tags.a.b": "c"}), True),
        (OnEvent(kind="model.registered", where={"tags": {"made_by": "train", "a.b": "c"}}), True),
        (OnEvent(kind="model.registered", where={"name.made_by": "train"}), False),
        (OnEvent(kind="model.registered", where={"tags.none.of.these": None}), True),
    ],
)
def test_which_events_a_rule_waits_for(trigger: OnEvent, found: bool) -> None:
    assert matches(trigger, event()) is found


@pytest.mark.parametrize(
    "rule",
    [
        Rule(
            name="a", when=OnEvent(kind="alert.opened", where={"endpoint": "delay"}), do=TRAIN, cooldown=timedelta(days=21), group="retrain"
        ),
        Rule(name="b", when=OnSchedule(cron="0 6 1 * *", zone=NEW_YORK), do=StartRollout(endpoint="delay", plan=canary_plan())),
    ],
)
def test_a_rule_comes_back_as_it_was(rule: Rule) -> None:
    assert decode(encode(rule), Rule) == rule


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "was not understood; expected five cron fields"),
        ("0 6 1 *", "was not understood"),
        ("0 0 6 1 * *", "was not understood"),
        ("@monthly", "was not understood"),
        ("61 * * * *", "was not understood"),
        ("0 0 31 2 *", "schedule '0 0 31 2 .' never comes; expected a day that some month has"),
    ],
)
def test_a_schedule_that_cannot_be_is_named(cron: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        OnSchedule(cron=cron)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc"])
def test_a_zone_that_is_not_known_is_named(zone: str) -> None:
    with pytest.raises(Invalid, match="expected an IANA name such as Europe/Berlin"):
        OnSchedule(cron="0 6 * * *", zone=zone)


def times(trigger: OnSchedule, start: datetime, count: int) -> list[str]:
    found = []
    for _ in range(count):
        start = next_scheduled(trigger, start)
        found.append(f"{start.astimezone(ZoneInfo(trigger.zone)):%d %H:%M %z}")
    return found


@pytest.mark.parametrize(
    ("zone", "start", "cron", "expected"),
    [
        # Clocks went forward from 2:00 to 3:00.
        (NEW_YORK, "2013-03-09T12:00Z", "30 2 * * *", ["10 03:00 -0400", "11 02:30 -0400", "12 02:30 -0400"]),
        (NEW_YORK, "2013-03-10T05:00Z", "0 * * * *", ["10 01:00 -0500", "10 03:00 -0400", "10 04:00 -0400"]),
        (BERLIN, "2013-03-30T12:00Z", "0 6 * * *", ["31 06:00 +0200", "01 06:00 +0200", "02 06:00 +0200"]),
        # Clocks went back, from 2:00 to 1:00 in New York and from 3:00 to 2:00 in Berlin.
        (NEW_YORK, "2013-11-02T12:00Z", "30 1 * * *", ["03 01:30 -0400", "04 01:30 -0500", "05 01:30 -0500"]),
        (BERLIN, "2013-10-26T12:00Z", "30 2 * * *", ["27 02:30 +0200", "28 02:30 +0100", "29 02:30 +0100"]),
        (NEW_YORK, "2013-11-03T04:30Z", "0 * * * *", ["03 01:00 -0400", "03 01:00 -0500", "03 02:00 -0500"]),
        (BERLIN, "2013-10-27T00:10Z", "*/30 * * * *", ["27 02:30 +0200", "27 02:00 +0100", "27 02:30 +0100"]),
    ],
)  # fmt: skip
def test_schedules_where_clocks_change(zone: str, start: str, cron: str, expected: list[str]) -> None:
    assert times(OnSchedule(cron=cron, zone=zone), parse_moment(start), 3) == expected


@given(
    st.sampled_from(["0 6 1 * *", "30 1 * * *", "30 2 * * *", "0 * * * *", "*/20 * * * *", "0 0 * * 0", "15 1-3 * * *"]),
    st.sampled_from([NEW_YORK, BERLIN]),
    st.sampled_from(["2013-03-09", "2013-03-30", "2013-10-26", "2013-11-02", "2013-06-01"]),
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
)  # fmt: skip
def test_whoever_looks_from_time_to_time_sees_the_latest_of_what_has_come(cron: str, zone: str, start: str, looks: list[int]) -> None:
    trigger = OnSchedule(cron=cron, zone=zone)
    after = parse_moment(start)
    for minutes in looks:
        until = after + timedelta(minutes=minutes)
        come, moment = [], next_scheduled(trigger, after)
        while moment <= until:
            come.append(moment)
            moment = next_scheduled(trigger, moment)
        assert scheduled(trigger, after=after, until=until) == (come[-1] if come else None)
        after = until


def test_a_time_of_a_schedule_is_after_one_look_and_not_after_the_next() -> None:
    trigger = OnSchedule(cron="0 6 * * *")
    six = datetime(2013, 6, 1, 6, tzinfo=UTC)
    assert scheduled(trigger, after=six - timedelta(hours=1), until=six) == six
    assert scheduled(trigger, after=six, until=six + timedelta(hours=1)) is None
    assert next_scheduled(trigger, six) == six + timedelta(days=1)


@pytest.mark.slow
def test_a_rule_is_made_changed_and_switched_off(any_ws: Workspace) -> None:
    rule = Rule(name="retrain", when=OnEvent(kind="alert.opened"), do=TRAIN)
    assert set_rule(any_ws, rule, reason="drift") == rule
    longer = replace(rule, cooldown=timedelta(days=1))
    set_rule(any_ws, longer)
    off = Rule(name="asleep", when=OnEvent(kind="alert.opened"), do=TRAIN, enabled=False)
    set_rule(any_ws, off)
    assert list_rules(any_ws) == [off, longer]
    assert list_firings(any_ws) == []
    with any_ws.catalog.reading() as tx:
        (active,) = read_active(tx, any_ws.project)
    newest, _, oldest = list_events(any_ws, limit=3)
    assert (active.rule, active.actor, active.since_seq) == (longer, "owner", oldest.seq + 1)
    assert (newest.kind, oldest.reason) == ("rule.set", "drift")
    viewer = world.acting(any_ws, "eve", "viewer")
    assert len(list_rules(viewer)) == 2
    with pytest.raises(ActionRefused, match="viewer"):
        set_rule(viewer, rule)
    with pytest.raises(Invalid, match="rule name 'a b' is not usable"):
        Rule(name="a b", when=OnEvent(kind="x"), do=TRAIN)
