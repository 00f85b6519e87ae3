"""Model versions side by side: what was measured, how they were trained, what they take, what they came of. Differences are marked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tidemill.checks.check import list_checks
from tidemill.core.errors import Invalid
from tidemill.core.signature import ModelSpec
from tidemill.core.values import Value
from tidemill.deploy.origins import Origins, read_origins
from tidemill.deploy.places import where_runs
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_aliases, read_version
from tidemill.registry.bundles import describe_bundle
from tidemill.registry.mlmodel import signature_columns
from tidemill.registry.versions import ModelVersion

Aspect = Literal["version", "metrics", "params", "run metrics", "signature", "checks", "origin", "tags"]
LIMIT = 20
Cell = str | float | None
Facts = Mapping[Aspect, Mapping[str, Cell]]


class Line(Value, frozen=True, kw_only=True):
    """One fact of all versions that are compared, in their order; None where a version has none of it."""

    aspect: Aspect
    name: str
    values: tuple[Cell, ...]
    same: bool


class VersionComparison(Value, frozen=True, kw_only=True):
    """Versions side by side."""

    versions: tuple[ModelVersion, ...]
    lines: tuple[Line, ...]


def compare_versions(ws: Workspace, references: Sequence[str]) -> VersionComparison:
    """Set 2 to 20 versions side by side. Raises ModelNotFound, AliasNotFound, Invalid."""
    ws.require("registry.read")
    if not 2 <= len(references) <= LIMIT:
        raise Invalid(f"{len(references)} versions cannot be compared; name 2 to {LIMIT} of them, as in delay@champion delay@7")
    versions = tuple(read_version(ws, reference) for reference in references)
    return VersionComparison(versions=versions, lines=lines([_facts(ws, version) for version in versions]))


def lines(facts: Sequence[Facts]) -> tuple[Line, ...]:
    """Return the facts of several versions line by line: aspects and names in the order in which they first appear."""
    found = []
    for aspect in dict.fromkeys(aspect for each in facts for aspect in each):
        for name in dict.fromkeys(name for each in facts for name in each.get(aspect, {})):
            values = tuple(each.get(aspect, {}).get(name) for each in facts)
            found.append(Line(aspect=aspect, name=name, values=values, same=len(set(map(repr, values))) == 1))
    return tuple(found)


def _facts(ws: Workspace, version: ModelVersion) -> Facts:
    origins = read_origins(ws, version)
    own = next((run for run in origins.runs if run.id == version.run), None)
    return {
        "version": _of_version(ws, version),
        "metrics": dict(sorted(version.metrics.items())),
        "params": dict(sorted(_params(origins).items())),
        "run metrics": dict(sorted(own.metrics.items())) if own else {},
        "checks": {record.result.name: record.result.verdict for record in reversed(list_checks(ws, version.node))},
        "signature": _signature(ws, version),
        "origin": _of_origin(version, origins),
        "tags": dict(sorted(version.tags.items())),
    }


def _of_version(ws: Workspace, version: ModelVersion) -> dict[str, Cell]:
    pointing = [alias for alias, number in read_aliases(ws, version.name).items() if number == version.version]
    runs = [f"{place.endpoint} ({place.role}{f' {place.share:.0%}' if place.share else ''})" for place in where_runs(ws, version)]
    return {
        "made": f"{version.created_at:%Y-%m-%d %H:%M}",
        "by": version.actor,
        "environment": version.environment or None,
        "aliases": ", ".join(pointing) or None,
        "runs at": ", ".join(runs) or None,
        "checks": version.verdict,
        "size_bytes": float(version.size_bytes),
        "bundle": version.bundle,
    }


def _params(origins: Origins) -> dict[str, Cell]:
    """Return the params of all runs of a training; of two of one name, that of the later step counts."""
    return {key: value for run in origins.runs for key, value in run.params.items()}


def _signature(ws: Workspace, version: ModelVersion) -> dict[str, Cell]:
    if version.bundle is None:
        return {}
    described = describe_bundle(ws, version.bundle)
    if described.spec is not None:
        return _spec(described.spec)
    mlmodel = described.mlmodel
    return {**signature_columns(mlmodel), "flavors": ", ".join(mlmodel.flavors)} if mlmodel else {}


def _spec(spec: ModelSpec) -> dict[str, Cell]:
    columns = ((side, column) for side, those in (("in", spec.signature.inputs), ("out", spec.signature.outputs)) for column in those)
    found: dict[str, Cell] = {f"{side} {column.name}": column.kind + ("" if column.required else ", optional") for side, column in columns}
    found |= {f"out {output.name}": output.form for output in spec.others}
    return {**found, "runtime": spec.runtime, "features": spec.feature_service, "threshold": spec.threshold}


def _of_origin(version: ModelVersion, origins: Origins) -> dict[str, Cell]:
    return {
        "run": version.run,
        "code": origins.code,
        "data": _listed(origins.data),
        "features": _listed(origins.features),
        "source": version.source or None,
    }


def _listed(references: Iterable[str]) -> str | None:
    return ", ".join(references) or None
