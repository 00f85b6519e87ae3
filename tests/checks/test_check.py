"""Check results: kept with their evidence, tied to what they judged; the worst of them counts."""

import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.checks.check import CheckResult, Evidence, EvidenceTable, Verdict, list_checks, overall, record_checks
from tidemill.core.errors import Invalid
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace

EVIDENCE = Evidence(
    values={"auc": 0.75},
    thresholds={"auc": 0.7},
    tables=(EvidenceTable(title="by carrier", columns=("carrier", "auc"), rows=(("UA", 0.7), ("AA", None))),),
    sources=("dataset:flights@3",),
)


def result(verdict: Verdict, name: str = "auc") -> CheckResult:
    return CheckResult(name=name, verdict=verdict, summary="0.75, at least 0.7", evidence=EVIDENCE)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [([], "pass"), (["pass", "pass"], "pass"), (["pass", "warn"], "warn"), (["fail", "warn"], "fail"), (["warn", "fail", "pass"], "fail")],
)
def test_the_worst_verdict_counts(verdicts: list[Verdict], worst: Verdict) -> None:
    assert overall([result(verdict) for verdict in verdicts]) == worst


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["values", "thresholds"])
def test_evidence_that_could_not_be_read_again_is_refused(field: str, value: float) -> None:
    with pytest.raises(Invalid, match="evidence auc is no finite number; leave out what could not be measured"):
        Evidence(**{field: {"fine": 1.0, "auc": value}})


@pytest.mark.slow
def test_results_are_kept_with_their_evidence(any_ws: Workspace) -> None:
    record_checks(any_ws, "dataset:flights@3", [result("pass"), result("warn", "rows")], reason="intake")
    world.tick(any_ws, hours=1)
    record_checks(any_ws, "dataset:flights@3", [result("fail")])
    record_checks(any_ws, "dataset:other@1", [result("fail")])
    found = list_checks(any_ws, "dataset:flights@3")
    assert (found[0].result.name, found[0].result.verdict) == ("auc", "fail")
    assert {(record.result.name, record.result.verdict) for record in found[1:]} == {("auc", "pass"), ("rows", "warn")}
    assert all(record.result.evidence == EVIDENCE and any_ws.objects.has(record.artifact) for record in found)
    assert len(list_checks(any_ws, "dataset:flights@3", limit=2)) == 2
    newest, oldest = list_events(any_ws, subject="dataset:flights@3")
    assert (newest.body, oldest.body, oldest.reason) == (
        {"verdicts": {"auc": "fail"}},
        {"verdicts": {"auc": "pass", "rows": "warn"}},
        "intake",
    )
    with any_ws.catalog.reading() as tx:
        assert {edge.source for edge in walk(tx, any_ws.project, f"check:{found[0].id}")} == {"dataset:flights@3"}


@pytest.mark.slow
def test_a_viewer_reads_and_does_not_judge(ws: Workspace) -> None:
    viewer = world.acting(ws, "eve", "viewer")
    assert list_checks(viewer, "dataset:flights@3") == []
    with pytest.raises(ActionRefused, match="viewer"):
        record_checks(viewer, "dataset:flights@3", [result("pass")])
