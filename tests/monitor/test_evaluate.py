"""Judging windows: what moved is named with its numbers, and what did not is let be."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.monitor import worlds
from tests.monitor.worlds import reference_rows, rows, sample
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.monitor.evaluate import Reference, evaluate_window
from tidemill.monitor.monitors import MonitorSpec
from tidemill.monitor.report import Finding, WindowReport, to_checks
from tidemill.monitor.table import DETECTORS

SPEC = MonitorSpec(name="weekly", endpoint="delay")


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference("dataset:flights@1", sample(reference_rows()), SPEC)


def judge(reference: Reference, table: pa.Table, spec: MonitorSpec = SPEC, **options: Any) -> WindowReport:
    return evaluate_window(reference, sample(table, **options), spec, worlds.week(0))


def moved(report: WindowReport) -> set[tuple[str, str]]:
    return {(finding.aspect, finding.subject) for finding in report.moved}


def finding(report: WindowReport, measure: str, subject: str = "") -> Finding:
    return next(each for each in report.findings if each.measure == measure and (not subject or each.subject == subject))


def test_a_window_like_the_reference_s_own_is_quiet(reference: Reference) -> None:
    report = judge(reference, rows(seed=1, wind=10.4))
    assert report.moved == ()
    assert report.verdict == "pass"
    assert (report.rows, report.labels, report.reference_rows, report.note) == (1000, 1000, 8000, "")


@pytest.mark.slow
def test_quiet_windows_are_rarely_taken_for_moved(reference: Reference) -> None:
    alarms = [moved(judge(reference, rows(seed=seed, wind=10 + 0.5 * (-1) ** seed))) for seed in range(1000, 1100)]
    assert sum(bool(alarm) for alarm in alarms) <= 3


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_a_feature_that_moved_is_named_with_before_and_after(detector: str) -> None:
    spec = MonitorSpec(name="weekly", endpoint="delay", detector=detector)
    report = judge(Reference("r", sample(reference_rows()), spec), rows(seed=1, wind=13.0), spec)
    assert ("data", "wind") in moved(report)
    assert ("data", "rain") not in moved(report)
    found = finding(report, detector, "wind")
    assert found.before == pytest.approx(10, abs=0.2)
    assert found.after == pytest.approx(13, abs=0.2)
    assert found.value > found.threshold
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert "wind: mean" in report.what("data")


def test_the_reference_s_own_weeks_set_the_threshold() -> None:
    """Where weeks differ much by themselves, a window that differs as much has not moved."""
    restless = pa.concat_tables([rows(seed=n, start=worlds.START + n * worlds.WEEK, wind=10 + 3 * (-1) ** n) for n in range(6)])
    steady = reference_rows()
    window = rows(seed=77, wind=13.0)
    assert ("data", "wind") in moved(judge(Reference("r", sample(steady), SPEC), window))
    assert ("data", "wind") not in moved(judge(Reference("r", sample(restless), SPEC), window))


def test_a_reference_without_times_has_no_variation_of_its_own() -> None:
    timeless = sample(reference_rows())
    timeless.times = None
    reference = Reference("r", timeless, SPEC)
    assert reference.variation.windows == 0
    assert ("data", "wind") in moved(judge(reference, rows(seed=1, wind=13.0)))


def test_a_known_variation_is_taken_as_it_is(reference: Reference) -> None:
    again = Reference("r", sample(reference_rows()), SPEC, variation=reference.variation)
    assert again.variation is reference.variation
    assert judge(again, rows(seed=1)).findings == judge(reference, rows(seed=1)).findings


def test_categories_that_moved_are_named(reference: Reference) -> None:
    report = judge(reference, rows(seed=1, carriers=(0.1, 0.3, 0.6)))
    assert ("data", "carrier") in moved(report)
    assert "carrier: " in report.what("data")
    assert finding(report, "psi", "carrier").before in (pytest.approx(0.5, abs=0.03), pytest.approx(0.2, abs=0.03))


def test_a_new_category_is_a_move(reference: Reference) -> None:
    table = rows(seed=1)
    other = table.set_column(table.column_names.index("carrier"), "carrier", pa.array(["ZZ"] * 400 + table["carrier"].to_pylist()[400:]))
    report = judge(reference, other)
    assert ("data", "carrier") in moved(report)
    assert "(other)" in report.what("data")


def test_values_that_go_missing_are_named(reference: Reference) -> None:
    report = judge(reference, rows(seed=1, missing_rain=0.5))
    assert moved(report) == {("data", "rain")}
    assert finding(report, "missing").after == pytest.approx(0.5, abs=0.05)


def test_a_feature_that_is_gone_altogether_is_named(reference: Reference) -> None:
    for table in (rows(seed=1, missing_rain=1.0), rows(seed=1).drop_columns(["rain"])):
        report = judge(reference, table)
        assert moved(report) == {("data", "rain")}
        assert report.what("data") == "rain: no value at all in this window"


def test_predictions_that_moved_are_told(reference: Reference) -> None:
    report = judge(reference, rows(seed=1, boast=0.2))
    assert ("prediction", "score") in moved(report)
    assert "predictions: mean" in report.what("prediction")


def test_a_model_that_lost_its_skill_fails_the_window(reference: Reference) -> None:
    report = judge(reference, rows(seed=1, skill=0.3))
    assert ("performance", "ranking") in moved(report)
    assert report.verdict == "fail"
    found = finding(report, "auc")
    assert found.value < found.threshold < 0
    assert found.before is not None
    assert found.after is not None
    assert found.before - 0.1 > found.after


def test_scores_that_boast_fail_on_calibration(reference: Reference) -> None:
    report = judge(reference, rows(3000, seed=1, boast=2.5))
    assert ("calibration", "probabilities") in moved(report)
    assert ("performance", "ranking") not in moved(report)
    assert finding(report, "ece").value > 0.05


def test_a_drop_that_may_be_chance_is_not_called_one(reference: Reference) -> None:
    spec = MonitorSpec(name="weekly", endpoint="delay", labels_min=20, rows_min=20)
    report = judge(reference, rows(40, seed=3, skill=0.6), spec)
    found = finding(report, "auc")
    assert found.value < -0.03
    assert not found.moved


@pytest.mark.parametrize(
    ("table", "labels", "note"),
    [
        (rows(50), True, "50 rows are too few"),
        (rows(500), False, "0 labels are too few"),
        (rows(500).set_column(6, "late", pa.array([False] * 500)), True, "all 500 labels are alike"),
    ],
)
def test_what_cannot_be_judged_is_told(reference: Reference, table: pa.Table, labels: bool, note: str) -> None:
    report = judge(reference, table, labels=labels)
    assert note in report.note
    assert not report.judged("performance")
    assert report.verdict == "pass"


def test_only_named_columns_are_watched() -> None:
    spec = MonitorSpec(name="weekly", endpoint="delay", columns=("rain",))
    report = judge(Reference("r", sample(reference_rows()), spec), rows(seed=1, wind=14.0), spec)
    assert {each.subject for each in report.findings if each.aspect == "data"} == {"rain"}


def test_rows_without_a_score_count_for_features_only() -> None:
    table = reference_rows()
    held = np.arange(8000) >= 6000
    scores = np.where(held, table["score"].to_numpy(), np.nan)
    whole = sample(table)
    whole.scores = scores
    reference = Reference("r", whole, SPEC)
    assert (reference.rows, reference.judged.rows) == (8000, 2000)
    assert finding(judge(reference, rows(seed=1)), "auc").before == pytest.approx(
        finding(judge(Reference("r", sample(table), SPEC), rows(seed=1)), "auc").before, abs=0.03
    )


@pytest.mark.slow
def test_large_references_are_thinned_evenly() -> None:
    large = sample(pa.concat_tables([reference_rows()] * 6))
    reference = Reference("r", large, SPEC)
    assert reference.rows == 48_000
    assert reference.sample.rows == 16_000
    assert not judge(reference, rows(seed=1)).moved


def test_the_worst_comes_first_and_the_rest_is_counted(reference: Reference) -> None:
    base = rows(seed=1)
    many = base
    columns = reference_rows()
    for number in range(5):
        many = many.append_column(f"n{number}", pa.array(base["wind"].to_numpy() + 3 + number))
        columns = columns.append_column(f"n{number}", columns["wind"])
    report = judge(Reference("r", sample(columns), SPEC), many)
    assert [each.subject for each in report.moved] == ["n4", "n3", "n2", "n1", "n0"]
    assert report.what("data").endswith("and 2 more")


def test_a_report_becomes_one_check_for_each_aspect(reference: Reference) -> None:
    report = judge(reference, rows(seed=1, wind=13.0, skill=0.3))
    checks = {check.name: check for check in to_checks(report)}
    assert {name: check.verdict for name, check in checks.items()} == {
        "weekly: data": "warn",
        "weekly: prediction": "warn",
        "weekly: performance": "fail",
        "weekly: calibration": "fail",
    }
    assert checks["weekly: data"].evidence.values["wind psi"] > checks["weekly: data"].evidence.thresholds["wind psi"]
    assert decode(encode(report), WindowReport) == report
    quiet = {check.name: check.summary for check in to_checks(judge(reference, rows(seed=1)))}
    assert quiet["weekly: data"] == "data: none of 3 measures moved"


@pytest.mark.parametrize("changes", [{"every": worlds.WEEK * 0}, {"wait": -worlds.WEEK}, {"detector": "psy"}, {"name": "a b"}])
def test_a_monitor_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"longer than zero|did you mean|not usable"):
        MonitorSpec(**{"name": "weekly", "endpoint": "delay", **changes})
