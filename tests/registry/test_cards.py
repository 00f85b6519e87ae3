"""Model cards: every number comes from the record, and what others read them with can read them."""

import pytest
import yaml

from tests import world
from tidemill.checks.check import CheckResult, Evidence, EvidenceTable
from tidemill.core.signature import Output
from tidemill.core.values import replace
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version
from tidemill.registry.bundles import read_spec
from tidemill.registry.cards import render_card, write_card
from tidemill.registry.versions import bundle_of

pytestmark = pytest.mark.slow

SLICES = EvidenceTable(title="AUC by carrier", columns=("carrier", "auc"), rows=(("UA", 0.76543), ("a|b", None)))
CHECKS = [
    CheckResult(name="auc", verdict="pass", summary="0.765, at least 0.7", evidence=Evidence(tables=(SLICES,))),
    CheckResult(name="odd | name", verdict="warn", summary="two\nlines"),
]


def front(card: str) -> dict[str, object]:
    _, matter, _ = card.split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(matter)
    return found


def test_a_card_tells_what_is_on_record(ws: Workspace) -> None:
    version = world.model(ws, checks=CHECKS, metrics={"auc": 0.765432109, "p: 99": 1.5})
    kept = write_card(ws, version, CHECKS, sources=["dataset:flights@3"], purpose="Late or not.", limits="New York only.")
    assert read_version(ws, "delay@1") == kept
    assert kept.card is not None
    card = ws.objects.get(kept.card).decode()
    assert front(card) == {
        "library_name": "tidemill",
        "pipeline_tag": "tabular-classification",
        "model-index": [
            {
                "name": "delay",
                "results": [
                    {
                        "task": {"type": "tabular-classification"},
                        "dataset": {"type": "tabular", "name": "dataset:flights@3"},
                        "metrics": [{"type": "auc", "value": 0.765432}, {"type": "p: 99", "value": 1.5}],
                    }
                ],
            }
        ],
    }
    for line in (
        "# delay, version 1", "Late or not.", "| checks | **warn** |", "| auc | pass | 0.765, at least 0.7 |",
        "| odd \\| name | warn | two lines |", "### auc: AUC by carrier", "| UA | 0.7654 |", "| a\\|b | None |", "| x | double | request |",
        "- dataset:flights@3", "New York only.", f"| bundle | `{version.bundle}`, 0.00 MB |",
    ):  # fmt: skip
        assert line in card.splitlines(), line


def test_a_card_names_what_is_answered_beside_the_score(ws: Workspace) -> None:
    version = world.model(ws)
    spec = read_spec(ws, bundle_of(version))
    assert "beside its score" not in render_card(version, spec, ())
    others = (Output(name="label", kind="string"), Output(name="probabilities", kind="float", width=3))
    lines = render_card(version, replace(spec, others=others), ()).splitlines()
    place = lines.index("## What it answers beside its score")
    assert lines[place + 1 : place + 7] == [
        "", "| output | kind |", "|---|---|", "| label | string |", "| probabilities | float [-1, 3] |", "",
    ]  # fmt: skip
    assert lines[place + 7] == "## Data"


def test_what_has_no_record_says_so(ws: Workspace) -> None:
    version = world.model(ws)
    card = render_card(version, read_spec(ws, version.bundle), [])
    assert front(card)["model-index"] == []
    assert (card.count("No record."), "No purpose was recorded." in card) == (2, True)


def test_a_viewer_writes_no_card(ws: Workspace) -> None:
    version = world.model(ws)
    with pytest.raises(ActionRefused, match="viewer"):
        write_card(world.acting(ws, "eve", "viewer"), version, [])
