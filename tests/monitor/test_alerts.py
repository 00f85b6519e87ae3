"""Alerts: one for each incident, pure decisions first."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.monitor.worlds import week
from tidemill.core.values import replace
from tidemill.monitor.alerts import Alert, AlertChange, decide_alerts
from tidemill.monitor.monitors import MonitorSpec
from tidemill.monitor.report import Aspect, Finding, WindowReport

NOW = datetime(2013, 6, 8, tzinfo=UTC)
SPEC = MonitorSpec(name="weekly", endpoint="delay")


def report(**moved: bool) -> WindowReport:
    """A report that judged these aspects."""
    numbers = {"measure": "psi", "value": 0.5, "threshold": 0.2, "p_value": 0.0, "before": 1.0, "after": 2.0}
    findings = tuple(
        Finding(aspect=aspect, subject="wind", moved=flag, text=f"{aspect} moved", **numbers) for aspect, flag in moved.items()
    )
    return WindowReport(
        monitor="weekly", endpoint="delay", window=week(0), reference="r", rows=9, reference_rows=9, labels=9, findings=findings
    )


def decide(seen: WindowReport, known: list[Alert], *, spec: MonitorSpec = SPEC, now: datetime = NOW) -> list[AlertChange]:
    return decide_alerts(seen, spec, known, now=now)


def opened(aspect: Aspect = "data") -> Alert:
    (change,) = decide(report(**{aspect: True}), [])
    assert change.act == "open"
    return change.alert


def test_what_moves_opens_one_alert_for_each_aspect() -> None:
    changes = decide(report(data=True, prediction=False, performance=True), [])
    assert [(change.act, change.alert.aspect, change.alert.severity) for change in changes] == [
        ("open", "data", "warn"),
        ("open", "performance", "fail"),
    ]
    assert changes[0].alert.what == "data moved"


def test_an_incident_that_goes_on_stays_one_alert() -> None:
    alert = opened()
    for count in (2, 3):
        (change,) = decide(report(data=True), [alert], now=NOW + count * timedelta(days=7))
        assert (change.act, change.alert.id, change.alert.windows) == ("continue", alert.id, count)
        assert change.alert.opened_at == NOW
        alert = change.alert


def test_a_quiet_window_closes_it() -> None:
    (change,) = decide(report(data=False), [opened()])
    assert (change.act, change.alert.state, change.alert.resolved_at) == ("resolve", "resolved", NOW)


def test_recovery_may_be_asked_to_last() -> None:
    patient = replace(SPEC, recover_after=2)
    (first,) = decide(report(data=False), [opened()], spec=patient)
    assert first.act == "quieten"
    (relapse,) = decide(report(data=True), [first.alert], spec=patient)
    assert (relapse.act, relapse.alert.quiet_windows) == ("continue", 0)
    (second,) = decide(report(data=False), [first.alert], spec=patient)
    assert second.act == "resolve"


def test_a_window_that_could_not_be_judged_neither_opens_nor_closes() -> None:
    assert decide(report(data=False), [opened("performance")]) == []
    assert decide(report(), [opened()]) == []


def test_a_silenced_alert_goes_on_silently_and_so_does_its_successor() -> None:
    silenced = replace(opened(), silenced_until=NOW + timedelta(days=30))
    (closing,) = decide(report(data=False), [silenced])
    assert (closing.act, closing.silent) == ("resolve", True)
    (again,) = decide(report(data=True), [closing.alert])
    assert (again.act, again.silent, again.alert.silenced_until) == ("open", True, silenced.silenced_until)
    (loud,) = decide(report(data=True), [closing.alert], now=NOW + timedelta(days=31))
    assert (loud.act, loud.silent, loud.alert.silenced_until) == ("open", False, None)
    (other,) = decide(report(performance=True), [closing.alert])
    assert not other.silent


@given(st.lists(st.sampled_from([True, False, None]), max_size=30), st.integers(1, 3))
def test_there_is_never_more_than_one_open_alert_and_each_closes_by_a_quiet_stretch(windows: list[bool | None], recover_after: int) -> None:
    spec = replace(SPEC, recover_after=recover_after)
    known: list[Alert] = []
    opens = closes = 0
    for number, flag in enumerate(windows):
        seen = report() if flag is None else report(data=flag)
        for change in decide(seen, known, spec=spec, now=NOW + number * timedelta(days=7)):
            opens += change.act == "open"
            closes += change.act == "resolve"
            known = [alert for alert in known if alert.id != change.alert.id] + ([change.alert] if change.alert.state == "open" else [])
        assert len(known) <= 1
        assert opens - closes == len(known)
    judged = [flag for flag in windows if flag is not None]
    if len(judged) >= recover_after and not any(judged[-recover_after:]):
        assert not known


@pytest.mark.parametrize("aspect", ["data", "performance"])
def test_severity_follows_the_aspect(aspect: Aspect) -> None:
    assert opened(aspect).severity == ("warn" if aspect == "data" else "fail")
