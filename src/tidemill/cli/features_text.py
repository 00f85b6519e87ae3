"""How `tidemill features` prints plans, views and sources for people."""

from collections.abc import Sequence
from itertools import pairwise

from tidemill.cli.show import cell, table
from tidemill.deploy.skew import SkewReport
from tidemill.features.applied import FeaturePlan, changes_between
from tidemill.features.definitions import ViewVersion
from tidemill.features.feast import FeastImport, Remark
from tidemill.features.sources import KINDS, DeclaredSource, FileSource, JoinedSource, Source, SqlSource, StreamSource
from tidemill.features.views import Feature

CHANGE_COLUMNS = ("", "name", "version", "change", "what")
REMARK_COLUMNS = ("", "what", "name", "why")
SOURCE_COLUMNS = ("source", "kind", "from", "dataset", "rows", "declared", "by")


def told_skew(found: SkewReport) -> str:
    """Return what replaying found, and where history says otherwise."""
    wrong = [each for each in found.features if each.mismatches]
    rows = [
        (each.view, each.feature, f"{each.mismatches:,} of {each.rows:,}", one.prediction, f"{one.at:%Y-%m-%d %H:%M}",
         " ".join(f"{key}={value}" for key, value in one.entity.items()), cell(one.served), cell(one.history))
        for each in wrong for one in each.examples
    ]  # fmt: skip
    lines = [
        f"{found.compared:,} predictions of {found.endpoint} compared, {len(found.features)} features: {found.mismatches:,} values differ"
    ]
    lines += [f"left out: {number:,}, {why}" for why, number in found.left_out.items()]
    columns = ("view", "feature", "rows", "prediction", "at", "of", "served", "history")
    return "\n".join([*lines, *(["", table(columns, rows)] if rows else [])])


def told_plan(plan: FeaturePlan) -> str:
    """Return what applying changes, a line for each definition."""
    return table(CHANGE_COLUMNS, [(c.kind, c.name, c.version, c.action, ", ".join(c.what)) for c in plan.changes])


def told_view(found: ViewVersion) -> str:
    """Return a view with its features."""
    view = found.definition
    head = f"{found.name}@{found.version}  of {view.source}, by {', '.join(view.entity)} at {view.event_timestamp}  {view.description}"
    lines = [head.rstrip()]
    if view.owner or view.tags:
        lines.append(f"owner {view.owner or 'nobody'}, tags {', '.join(view.tags) or 'none'}")
    lines += [f"{name} = {expression}" for name, expression in view.computed.items()]
    rows = [(feature.name, feature.kind, _what(feature), feature.description) for feature in view.features]
    return "\n".join([*lines, "", table(("feature", "kind", "what", "description"), rows)])


def told_versions(found: Sequence[ViewVersion]) -> str:
    """Return the versions of a view, and what each changed."""
    changed = [*(changes_between(old.definition, new.definition) for new, old in pairwise(found)), ("first",)]
    rows = [(each.version, ", ".join(what), each.created_at, each.actor) for each, what in zip(found, changed, strict=True)]
    return table(("version", "changed", "applied", "by"), rows)


def _what(feature: Feature) -> str:
    summary = feature.aggregation
    told = f"latest {feature.reads}" if summary is None else f"{summary.function} of {summary.column or 'events'} in {summary.window}"
    return told if feature.default is None else f"{told}, else {feature.default}"


def told_import(found: FeastImport) -> str:
    """Return what came over from Feast, what did not, and what is different."""
    remarks = [("left out", *_remark(each)) for each in found.left_out] + [("different", *_remark(each)) for each in found.different]
    parts = [told_plan(found.plan), *([table(REMARK_COLUMNS, remarks)] if remarks else [])]
    return "\n\n".join(parts)


def _remark(each: Remark) -> tuple[str, str, str]:
    return each.kind, each.name, each.reason


def told_sources(found: Sequence[DeclaredSource]) -> str:
    """Return sources, a line for each."""
    rows = [
        (each.declaration.name, _kind(each.declaration), _origin(each.declaration), each.dataset, each.rows, each.declared_at, each.actor)
        for each in found
    ]
    return table(SOURCE_COLUMNS, rows, empty="no sources are declared")


def _kind(source: Source) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(source, kind))


def _origin(source: Source) -> str:
    if isinstance(source, FileSource):
        return " ".join(source.files)
    if isinstance(source, SqlSource):
        return source.database or "datasets and files"
    if isinstance(source, JoinedSource):
        return f"{source.rows} with {' '.join(source.features)}"
    return source.url if isinstance(source, StreamSource) else "POST /push"
