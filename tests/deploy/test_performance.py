"""How an endpoint did by span of local time, against the scores computed by hand."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from tests import world
from tests.deploy import worlds
from tests.deploy.worlds import Ledger
from tidemill.core.errors import Invalid
from tidemill.deploy.endpoints import EndpointNotFound, create_endpoint
from tidemill.deploy.performance import count_journal, read_performance
from tidemill.govern.workspace import Workspace

pytestmark = pytest.mark.slow

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture
def ledger(ws: Workspace):
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    ledger = Ledger(ws)
    yield ledger
    ledger.close()


def test_nothing_was_answered(ws: Workspace, ledger: Ledger) -> None:
    assert read_performance(ws, "delay") == []
    journal = count_journal(ws, "delay")
    assert (journal.predictions, journal.labelled) == (0, 0)


def test_each_span_has_what_callers_were_told_and_what_each_variant_scored(ws: Workspace, ledger: Ledger) -> None:
    random = np.random.default_rng(0)
    told: dict[str, list[tuple[float, bool]]] = {"2013-06": [], "2013-07": []}
    frozen: dict[str, list[tuple[float, bool]]] = {"2013-06": [], "2013-07": []}
    for number in range(120):
        at = datetime(2013, 6, 2, tzinfo=UTC) + timedelta(hours=12 * number)
        month = f"{at.astimezone(NEW_YORK):%Y-%m}"
        truth, (ours, theirs) = bool(random.random() < 0.4), random.random(2).tolist()
        by_challenger = number % 4 == 0
        ledger.predict({str(number): ours}, variant="v2" if by_challenger else "v1", at=at)
        if by_challenger:
            ledger.predict({str(number): theirs}, variant="v1", shadow=True, at=at)
        ledger.label({str(number): truth}, at=at + timedelta(hours=1))
        told[month].append((ours, truth))
        frozen[month].append((theirs if by_challenger else ours, truth))
    found = {(f"{span.start.astimezone(NEW_YORK):%Y-%m}", span.variant): span for span in read_performance(ws, "delay", zone=str(NEW_YORK))}
    assert {variant for _, variant in found} == {"live", "v1", "v2"}
    for month in told:
        for variant, rows in (("live", told[month]), ("v1", frozen[month])):
            scores, truths = (np.array(column) for column in zip(*rows, strict=True))
            span = found[month, variant]
            assert (span.predictions, span.labels) == (len(rows), len(rows))
            assert span.positive_share == pytest.approx(truths.mean())
            assert span.auc == pytest.approx(roc_auc_score(truths, scores))
            assert span.brier == pytest.approx(brier_score_loss(truths, scores))
            assert (span.p50_ms, span.p99_ms) == (1.0, 1.0)
    assert sum(span.predictions for (_, variant), span in found.items() if variant == "live") == 120
    journal = count_journal(ws, "delay")
    assert (journal.predictions, journal.labelled) == (120, 120)


def test_spans_begin_at_local_midnight_also_when_clocks_change(ws: Workspace, ledger: Ledger) -> None:
    for day in (2, 3, 4):  # on 3 November 2013 New York left daylight saving time
        ledger.predict({str(day): 0.5}, at=datetime(2013, 11, day, 12, tzinfo=NEW_YORK))
    starts = [span.start for span in read_performance(ws, "delay", by="day", zone=str(NEW_YORK)) if span.variant == "live"]
    assert starts == [datetime(2013, 11, day, tzinfo=NEW_YORK).astimezone(UTC) for day in (2, 3, 4)]
    assert [(after - before) / timedelta(hours=1) for before, after in pairwise(starts)] == [24.0, 25.0]
    weeks = [
        span.start.astimezone(NEW_YORK) for span in read_performance(ws, "delay", by="week", zone=str(NEW_YORK)) if span.variant == "live"
    ]
    assert [f"{week:%a %d %H}" for week in weeks] == ["Mon 28 00", "Mon 04 00"]


def test_what_has_no_label_or_one_kind_of_label_has_no_score(ws: Workspace, ledger: Ledger) -> None:
    ledger.predict({"a": 0.2, "b": 0.4})
    (live, _) = read_performance(ws, "delay")
    assert (live.predictions, live.labels, live.positive_share, live.auc, live.brier) == (2, 0, None, None, None)
    ledger.label({"a": 0, "b": "cat"})
    (live, _) = read_performance(ws, "delay")
    assert (live.labels, live.positive_share, live.auc, live.brier) == (1, 0.0, None, pytest.approx(0.04))


def test_predictions_may_be_bounded_in_time(ws: Workspace, ledger: Ledger) -> None:
    for hour in range(4):
        ledger.predict({str(hour): 0.5}, at=world.START + timedelta(hours=hour))
    (live, _) = read_performance(ws, "delay", start=world.START + timedelta(hours=1), end=world.START + timedelta(hours=3))
    assert live.predictions == 2
    world.tick(ws, hours=2)
    (live, _) = read_performance(ws, "delay", start=world.START)
    assert live.predictions == 2


def test_what_cannot_be_asked_is_named(ws: Workspace, ledger: Ledger) -> None:
    with pytest.raises(EndpointNotFound, match="there is no endpoint 'nothing'"):
        read_performance(ws, "nothing")
    with pytest.raises(EndpointNotFound, match="there is no endpoint 'nothing'"):
        count_journal(ws, "nothing")
    for zone in ("Mars/Olympus", "", "../etc/passwd"):
        with pytest.raises(Invalid, match="is not known; expected an IANA name such as America/New_York"):
            read_performance(ws, "delay", zone=zone)
    with pytest.raises(Invalid, match="window must end after it starts"):
        read_performance(ws, "delay", start=world.START, end=world.START)
