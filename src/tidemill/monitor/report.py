"""What was found in one window: findings, each with its numbers and a sentence, and the report that holds them."""

from collections.abc import Sequence
from typing import Literal

from tidemill.checks.check import CheckResult, Evidence, EvidenceTable, Verdict
from tidemill.core.values import Value
from tidemill.core.window import Window

Aspect = Literal["freshness", "data", "prediction", "performance", "calibration"]
ASPECTS: tuple[Aspect, ...] = ("freshness", "data", "prediction", "performance", "calibration")
# What a window that moved means for the model: inputs may move and the model still be right, answers that are wrong are wrong.
SEVERITY: dict[Aspect, Verdict] = {"freshness": "warn", "data": "warn", "prediction": "warn", "performance": "fail", "calibration": "fail"}


class Finding(Value, frozen=True, kw_only=True):
    """One thing measured in a window and held against the reference.

    moved: value lies beyond threshold, and that is no chance (p_value, corrected for how many were tested, below alpha).
    before and after: the plain quantity in the reference and in the window (a mean, a share, an area), for readers.
    """

    aspect: Aspect
    subject: str
    measure: str
    value: float
    threshold: float
    p_value: float | None
    moved: bool
    before: float | None
    after: float | None
    text: str


class WindowReport(Value, frozen=True, kw_only=True):
    """A window of an endpoint's answers, or of a view's events, held against a reference.

    readers: the model versions that read the view, with their endpoints. note says why something was not judged, fault why nothing
    could be.
    """

    monitor: str
    endpoint: str
    view: str = ""
    readers: tuple[str, ...] = ()
    window: Window
    reference: str
    rows: int
    reference_rows: int
    labels: int
    findings: tuple[Finding, ...]
    note: str = ""
    fault: str = ""

    @property
    def moved(self) -> tuple[Finding, ...]:
        """The findings that moved, the furthest beyond their thresholds first."""
        return tuple(sorted((each for each in self.findings if each.moved), key=_excess, reverse=True))

    @property
    def verdict(self) -> Verdict:
        verdicts = {SEVERITY[finding.aspect] for finding in self.moved}
        return "fail" if "fail" in verdicts else "warn" if verdicts or self.fault else "pass"

    def judged(self, aspect: Aspect) -> bool:
        """Return whether the window said anything of an aspect."""
        return any(finding.aspect == aspect for finding in self.findings)

    def what(self, aspect: Aspect) -> str:
        """Return what moved in one aspect, as a sentence; empty when nothing did."""
        moved = [finding.text for finding in self.moved if finding.aspect == aspect]
        more = f"; and {len(moved) - 3} more" if len(moved) > 3 else ""
        said = "; ".join(moved[:3]) + more
        if not (said and self.view):
            return said
        return f"feature view {self.view}: {said}; read by {', '.join(self.readers) or 'no model that is served'}"


def to_checks(report: WindowReport) -> list[CheckResult]:
    """Return the report as check results, one for each aspect that was judged."""
    return [_check(report, aspect) for aspect in ASPECTS if report.judged(aspect)]


def _check(report: WindowReport, aspect: Aspect) -> CheckResult:
    findings = [finding for finding in report.findings if finding.aspect == aspect]
    what = report.what(aspect)
    verdict: Verdict = SEVERITY[aspect] if what else "pass"
    columns = ("subject", "measure", "value", "threshold", "p_value", "moved", "before", "after")
    rows = tuple(tuple(getattr(finding, name) for name in columns) for finding in sorted(findings, key=_excess, reverse=True))
    evidence = Evidence(
        values={f"{each.subject} {each.measure}": each.value for each in findings},
        thresholds={f"{each.subject} {each.measure}": each.threshold for each in findings},
        tables=(
            EvidenceTable(title=f"{aspect} of {report.view or report.endpoint} against {report.reference}", columns=columns, rows=rows),
        ),
        sources=(report.reference,),
    )
    return CheckResult(name=f"{report.monitor}: {aspect}", verdict=verdict, summary=what or _quiet(aspect, findings), evidence=evidence)


def _quiet(aspect: Aspect, findings: Sequence[Finding]) -> str:
    return f"{aspect}: none of {len(findings)} measures moved" if len(findings) > 1 else f"{aspect}: {findings[0].text}"


def _excess(finding: Finding) -> float:
    return abs(finding.value) / max(abs(finding.threshold), 1e-9)
