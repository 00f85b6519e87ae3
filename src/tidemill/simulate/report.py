"""What the demo reports. The figures are whatever they are."""

from datetime import datetime
from typing import Any

from tidemill.core.values import Value


class MonthFigures(Value, frozen=True, kw_only=True):
    """One month: flights scored, share of late ones among those with an outcome, the looked-after model beside the frozen one."""

    month: str
    flights: int
    late_share: float | None
    auc_live: float | None
    auc_frozen: float | None
    brier_live: float | None
    brier_frozen: float | None
    alerts: int
    versions: tuple[int, ...]


class AlertFigures(Value, frozen=True, kw_only=True):
    """One alert: when, of what kind, what moved."""

    time: datetime
    kind: str
    what: str


class RolloutFigures(Value, frozen=True, kw_only=True):
    """One rollout: its version, by which policy, how it ended and why, and how many answers callers got from the challenger."""

    version: int
    policy: str
    started: datetime
    ended: datetime | None
    outcome: str
    reason: str
    requests_touched: int
    planted: bool


class SkewFigures(Value, frozen=True, kw_only=True):
    """Features as they were looked up for answers, held against history: answers and values compared, and values that differ."""

    predictions: int
    values: int
    differ: int


class Champion(Value, frozen=True, kw_only=True):
    """The version that leads at the end."""

    version: int
    digest: str


class DemoReport(Value, frozen=True, kw_only=True):
    """All figures of one replay. flights_unlabelled were scored and then cancelled or diverted, or land after the replay's end."""

    seed: int
    seconds: float
    seconds_by_part: dict[str, float]
    simulated_from: datetime
    simulated_to: datetime
    rows_set_aside: int
    flights_scored: int
    flights_unlabelled: int
    predictions_acknowledged: int
    predictions_journaled: int
    labels_joined: int
    skew: SkewFigures
    requests: int
    alerts: tuple[AlertFigures, ...]
    retrains: int
    rollouts: tuple[RolloutFigures, ...]
    rollbacks: int
    promotions: int
    planted: RolloutFigures | None
    months: tuple[MonthFigures, ...]
    champion: Champion
    champion_digests: tuple[str, ...]
    events: int
    audit_verified: bool
    trace: dict[str, Any]
    versions: dict[str, str]
    home: str
