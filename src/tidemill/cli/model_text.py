"""How `tidemill model` prints models, versions, histories and comparisons for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.checks.check import CheckRecord
from tidemill.cli.show import Branch, cell, table, tree
from tidemill.core.values import Value
from tidemill.deploy.origins import Origins
from tidemill.deploy.places import Place
from tidemill.deploy.versions import Line, VersionComparison
from tidemill.registry.aliases import AliasSet
from tidemill.registry.bundles import Described
from tidemill.registry.comments import Comment
from tidemill.registry.environments import Stay
from tidemill.registry.locks import Lock
from tidemill.registry.mlmodel import signature_columns
from tidemill.registry.models import RegisteredModel
from tidemill.registry.versions import ModelVersion

WIDEST = 44


class Glance(Value, frozen=True, kw_only=True):
    """All that `model show` shows of a version."""

    version: ModelVersion
    aliases: tuple[str, ...]
    lock: Lock | None
    checks: list[CheckRecord]
    files: Described | None
    origins: Origins
    places: list[Place]
    comments: list[Comment]


def model_rows(found: Sequence[RegisteredModel]) -> str:
    """Return models as a table."""
    columns = ("model", "description", "owner", "tags", "changed")
    return table(columns, [(m.name, _cut(m.description), m.owner, _cut(_pairs(m.tags)), m.updated_at) for m in found])


def version_rows(found: Sequence[ModelVersion], held: Mapping[str, Mapping[str, int]]) -> str:
    """Return versions as a table. held: name of the model -> alias -> version."""
    columns = ("model", "version", "alias", "environment", "checks", "made", "run")
    rows = [(v.name, v.version, _pointing(held.get(v.name, {}), v.version), v.environment, v.verdict, v.created_at, v.run) for v in found]
    return table(columns, rows)


def spans(aliases: Sequence[AliasSet], environments: Sequence[Stay], locks: Sequence[Lock]) -> str:
    """Return the spans of a model's history as one table, newest first."""
    rows: list[tuple[Any, ...]] = [(f"alias {s.alias}", s.version, s.valid_from, s.valid_to, s.actor, s.reason) for s in aliases]
    rows += [(f"environment {s.environment}", s.version, s.valid_from, s.valid_to, s.actor, s.reason) for s in environments]
    rows += [("lock", s.version or "all", s.valid_from, s.valid_to, s.actor, s.reason) for s in locks]
    rows.sort(key=lambda row: row[2], reverse=True)
    return table(("what", "version", "from", "to", "by", "reason"), rows)


def remarks(found: Sequence[Comment]) -> str:
    """Return comments, each under who said it when."""
    blocks = []
    for each in found:
        place = "" if each.version is None else f" on version {each.version}"
        edited = f", edited {cell(each.edited_at)}" if each.edited_at else ""
        said = "\n".join(f"  {line}" for line in each.text.splitlines())
        blocks.append(f"{each.actor}{place}, {cell(each.at)}{edited}  [{each.id}]\n{said}")
    return "\n\n".join(blocks) or "none"


def compared(found: VersionComparison, *, everything: bool) -> str:
    """Return versions side by side, a table an aspect; what is the same in all only when everything is asked for."""
    names = [version.reference for version in found.versions]
    lines = [line for line in found.lines if everything or not line.same]
    blocks = [
        f"{aspect}\n{table(('', *names), [_line(line) for line in lines if line.aspect == aspect])}"
        for aspect in dict.fromkeys(line.aspect for line in lines)
    ]
    same = len(found.lines) - len(lines)
    note = f"{same} more are the same in all; show them with --all" if same else ""
    return "\n\n".join([*(blocks or ["no difference"]), *([note] if note else [])])


def glanced(found: Glance) -> str:
    """Return all that is known of a version as a tree, and its checks as a table."""
    version = found.version
    head = f"{version.reference}  checks: {version.verdict}  made {cell(version.created_at)} by {version.actor}"
    checks = table(("check", "verdict", "what was found"), [(r.result.name, r.result.verdict, r.result.summary) for r in found.checks])
    return f"{tree((head, list(_branches(found))))}\n\n{checks}"


def _branches(found: Glance) -> Sequence[Branch]:
    version, origins = found.version, found.origins
    standing: list[Branch] = [(f"alias {alias}", []) for alias in found.aliases]
    standing += [(f"environment {version.environment}", [])] if version.environment else []
    branches: list[Branch] = [(version.description, [])] if version.description else []
    if version.deleted_at is not None:
        branches.append((f"in the trash since {cell(version.deleted_at)}", []))
    if found.lock is not None:
        branches.append((f"locked by {found.lock.actor} since {cell(found.lock.valid_from)}: {found.lock.reason}", []))
    branches += [
        ("stands as", standing or [("nothing yet", [])]),
        ("files", _files(found)),
        ("measured", [(f"{name} = {cell(value)}", []) for name, value in version.metrics.items()]),
        ("came from", _came(version, origins)),
        ("runs at", [(f"{p.endpoint} as {p.variant}, {p.role} {p.share:.0%}", []) for p in found.places] or [("no endpoint", [])]),
        ("tags", [(f"{key} = {_cut(value)}", []) for key, value in version.tags.items()]),
        ("said of it", [(f"{each.actor}, {cell(each.at)}: {_cut(each.text)}", []) for each in found.comments]),
    ]
    return [
        (name, below) for name, below in branches if below or name.startswith(("in the trash", "locked by")) or name == version.description
    ]


def _files(found: Glance) -> list[Branch]:
    version, files = found.version, found.files
    if files is None:
        return [(f"elsewhere: {version.source or 'no record'}", [])]
    what = files.spec.runtime if files.spec else ", ".join(files.mlmodel.flavors) if files.mlmodel else "of no known form"
    lines: list[Branch] = [
        (f"{files.format}: {what}, {files.files} files, {files.size_bytes:,} bytes", []),
        (f"bundle {version.bundle}", []),
    ]
    if files.spec is not None and files.spec.others:
        lines.append(("answers beside its score", [(f"{output.name}: {output.form}", []) for output in files.spec.others]))
    if files.mlmodel is not None and (columns := signature_columns(files.mlmodel)):
        lines.append(("signature", [(f"{name}: {kind}", []) for name, kind in columns.items()]))
    return lines


def _came(version: ModelVersion, origins: Origins) -> list[Branch]:
    runs: list[Branch] = [(f"{run.kind} {run.name}, {run.status}  {run.id}", []) for run in origins.runs]
    if not runs and version.run:
        runs = [(f"run {version.run}, which is not kept here", [])]
    kept = {f"{data.name}@{data.version}": data for data in origins.datasets}
    data: list[Branch] = [(f"data {name}" + (f", {kept[name].rows} rows" if name in kept else ""), []) for name in origins.data]
    return [
        *runs,
        *([(f"logged model {version.logged_model}", [])] if version.logged_model else []),
        *data,
        *((f"features {name}", []) for name in origins.features),
        (f"code {origins.code or 'no record'}", []),
    ]


def _line(line: Line) -> tuple[Any, ...]:
    return line.name, *(_cut(value) if isinstance(value, str) else value for value in line.values)


def _pointing(held: Mapping[str, int], version: int) -> str:
    return ", ".join(alias for alias, number in held.items() if number == version)


def _pairs(tags: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in tags.items())


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else f"{line[: WIDEST - 1]}…"
