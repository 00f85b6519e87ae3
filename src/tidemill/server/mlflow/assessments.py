"""What MLflow's clients say of traces."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.codec import decode_any, encode_text
from tidemill.core.errors import Invalid
from tidemill.core.values import Wire, field, replace
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.times import timestamp
from tidemill.server.mlflow.wire import DONE, Empty, Filled, millis
from tidemill.tracking import assessments
from tidemill.tracking.assessments import Assessment, AssessmentKind

_KINDS: Mapping[str, AssessmentKind] = {"feedback": "feedback", "expectation": "expectation", "issue": "issue"}
_CHANGEABLE = frozenset({"assessment_name", "expectation", "feedback", "rationale", "metadata"})


class Create(Wire, frozen=True, kw_only=True):
    """A judgement of a trace."""

    trace_id: Filled
    assessment: dict[str, Any]


class ById(Wire, frozen=True, kw_only=True):
    """Names a judgement."""

    trace_id: Filled
    assessment_id: Filled


class Update(Wire, frozen=True, kw_only=True):
    """What is to change of a judgement."""

    trace_id: Filled
    assessment_id: Filled
    assessment: dict[str, Any] = field(default_factory=dict)
    update_mask: str = ""


def told(ws: Workspace, traces: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the judgements of traces as MLflow tells them."""
    return {trace: [to_wire(item) for item in found] for trace, found in assessments.read_assessments(ws, traces).items()}


def to_wire(item: Assessment) -> dict[str, Any]:
    """Return a judgement as MLflow tells it: as it came, with what the server knows of it."""
    known = {"assessment_id": item.id, "assessment_name": item.name, "trace_id": item.trace, "valid": item.valid}
    return {**item.body, **known}


def create(ws: Workspace, request: Create) -> dict[str, Any]:
    """Keep a judgement."""
    return {"assessment": to_wire(assessments.create_assessment(ws, from_wire(ws, request.trace_id, request.assessment)))}


def from_wire(ws: Workspace, trace: str, said: Mapping[str, Any]) -> Assessment:
    """Return a judgement of a trace as MLflow tells it. Raises Invalid."""
    body = dict(said)
    kind = _kind(body)
    now = ws.clock.now()
    for name in ("create_time", "last_update_time"):
        body.setdefault(name, timestamp(millis(now), now))
    found = Assessment(
        id=_text(body, "assessment_id"),
        trace=trace,
        name=_text(body, "assessment_name"),
        kind=kind,
        value=encode_text(value_of(body, kind)),
        body=body,
        overrides=_text(body, "overrides") or None,
        valid=body.get("valid", True) is not False,
    )
    assessments.check_assessment(found)
    return found


def keep_told(ws: Workspace, given: Sequence[Assessment]) -> None:
    """Keep what came with a trace, but for what came with it before."""
    if not given:
        return
    known = assessments.read_assessments(ws, [given[0].trace])[given[0].trace]
    for item in given:
        if not any(item.id == other.id if item.id else _same(item, other) for other in known):
            assessments.create_assessment(ws, item)


def get(ws: Workspace, request: ById) -> dict[str, Any]:
    """Return a judgement."""
    return {"assessment": to_wire(assessments.read_assessment(ws, request.trace_id, request.assessment_id))}


def update(ws: Workspace, request: Update) -> dict[str, Any]:
    """Change what a judgement says; metadata is added to what is there."""
    now = ws.clock.now()
    told_at = timestamp(millis(now), now)
    made = assessments.update_assessment(
        ws, request.trace_id, request.assessment_id, change=lambda before: changed(before, request, told_at)
    )
    return {"assessment": to_wire(made)}


def changed(before: Assessment, request: Update, told_at: str) -> Assessment:
    """Return what a judgement says after an update. Raises Invalid."""
    named = [
        re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name.strip()) for name in request.update_mask.split(",") if name.strip()
    ]
    if wrong := sorted(set(named) - _CHANGEABLE):
        raise Invalid(f"update_mask names {', '.join(wrong)}, which cannot be changed; expected some of {', '.join(sorted(_CHANGEABLE))}")
    wanted = {name: request.assessment[name] for name in named if name in request.assessment}
    if (set(wanted) & set(_KINDS)) - {before.kind}:
        raise Invalid(f"this assessment is {before.kind}, and cannot become another kind; delete it and create a new one")
    if "metadata" in wanted:
        if not isinstance(wanted["metadata"], dict):
            raise Invalid(f"metadata of an assessment must be an object of texts, got {encode_text(wanted['metadata'])[:80]}")
        wanted["metadata"] = {**before.body.get("metadata", {}), **wanted["metadata"]}
    body = {**before.body, **wanted, "last_update_time": told_at}
    name = _text(body, "assessment_name") or before.name
    return replace(before, name=name, value=encode_text(value_of(body, before.kind)), body=body)


def delete(ws: Workspace, request: ById) -> Empty:
    """Remove a judgement; it does not matter when there is none."""
    assessments.delete_assessment(ws, request.trace_id, request.assessment_id)
    return DONE


def value_of(body: Mapping[str, Any], kind: AssessmentKind) -> Any:
    """Return what was said, as plain JSON data."""
    said = body.get(kind)
    if not isinstance(said, dict):
        return None
    if isinstance(packed := said.get("serialized_value"), dict):
        return decode_any(packed.get("value", "null"), what="a serialized value")
    return said.get("value")


def _same(one: Assessment, other: Assessment) -> bool:
    """Return whether two judgements say the same, whenever that was."""
    known = {"assessment_id", "trace_id", "create_time", "last_update_time"}
    said, before = ({key: value for key, value in each.body.items() if key not in known} for each in (one, other))
    return said == before


def _kind(body: Mapping[str, Any]) -> AssessmentKind:
    found = [kind for name, kind in _KINDS.items() if name in body]
    if len(found) != 1:
        raise Invalid(f"an assessment must be one of {', '.join(_KINDS)}, got {', '.join(found) or 'none of them'}")
    return found[0]


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise Invalid(f"{name} of an assessment must be text, got {value!r}")
    return value


_OF = "/mlflow/traces/{trace_id}/assessments"
ENDPOINTS = (
    Endpoint("POST", _OF, Create, create, versions=(3,)),
    Endpoint("GET", _OF + "/{assessment_id}", ById, get, versions=(3,)),
    Endpoint("PATCH", _OF + "/{assessment_id}", Update, update, versions=(3,)),
    Endpoint("DELETE", _OF + "/{assessment_id}", ById, delete, versions=(3,)),
)
