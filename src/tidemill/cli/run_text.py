"""Runs as text for people."""

from collections.abc import Sequence

from tidemill.automate.disk import DiskUse
from tidemill.automate.upkeep import Upkept
from tidemill.cli.show import size_text, table
from tidemill.client.sync import Merged
from tidemill.tracking.compare import Comparison, Row
from tidemill.tracking.experiments import Experiment
from tidemill.tracking.runs import Run
from tidemill.tracking.trash import Trash


def run_rows(runs: Sequence[Run], metrics: Sequence[str] = ()) -> str:
    """Return runs as a table, with a column for each metric that was asked for."""
    columns = ("run", "experiment", "name", "kind", "status", "started", *metrics)
    return table(
        columns, [(r.id, r.experiment, r.name, r.kind, r.status, r.started_at, *(r.metrics.get(m) for m in metrics)) for r in runs]
    )


def run_text(found: Run) -> str:
    """Return one run with all that it has."""
    trash = f" (in the trash since {found.deleted_at:%Y-%m-%d %H:%M})" if found.deleted_at is not None else ""
    head = f"run {found.id}  {found.name} ({found.kind}) of {found.experiment}: {found.status} {found.message}".rstrip() + trash
    ended = f"{found.ended_at:%Y-%m-%d %H:%M:%S}" if found.ended_at is not None else "-"
    times = (
        f"began {found.started_at:%Y-%m-%d %H:%M:%S}, ended {ended}, by {found.actor}{f', part of {found.parent}' if found.parent else ''}"
    )
    metrics = [(key, value, found.last[key].step) for key, value in found.metrics.items()]
    blocks = [
        f"{title}\n{table(columns, rows)}"
        for title, columns, rows in (
            ("params", ("key", "value"), list(found.params.items())),
            ("metrics", ("key", "latest", "step"), metrics),
            ("tags", ("key", "value"), list(found.tags.items())),
            ("files", ("path", "bytes", "digest"), [(a.path, a.size_bytes, a.digest) for a in found.artifacts]),
        )
        if rows
    ]
    return "\n\n".join([f"{head}\n{times}", *blocks])


def comparison_text(found: Comparison) -> str:
    """Return runs side by side, section by section."""
    names = [run.name if len({other.name for other in found.runs}) == len(found.runs) else run.id[-8:] for run in found.runs]
    about = [
        Row(key="run", values=tuple(run.id for run in found.runs)),
        Row(key="experiment", values=tuple(run.experiment for run in found.runs)),
        Row(key="status", values=tuple(run.status for run in found.runs)),
        Row(key="began", values=tuple(f"{run.started_at:%Y-%m-%d %H:%M:%S}" for run in found.runs)),
        Row(key="seconds", values=tuple(run.seconds for run in found.runs)),
    ]
    sections = (
        ("", about), ("params", found.params), ("metrics", found.metrics), ("tags", found.tags), ("data", found.data),
        ("code", found.code), ("packages", found.packages),
    )  # fmt: skip
    blocks = [f"{title}\n{table(('', *names), [(row.key, *row.values) for row in rows])}".lstrip() for title, rows in sections if rows]
    return "\n\n".join([*blocks, *([f"code that was not committed\n{found.code_diff.rstrip()}"] if found.code_diff else [])])


def experiment_rows(experiments: Sequence[Experiment], counts: dict[int, int], trash: Sequence[Trash], default_days: int) -> str:
    """Return experiments with what they hold and for how long their trash is kept."""
    gone = {each.experiment_id: each.runs for each in trash}
    rows = [
        (e.id, e.name, counts.get(e.id, 0), gone.get(e.id, 0), default_days if e.keep_days is None else e.keep_days, e.created_at)
        for e in experiments
    ]
    return table(("id", "experiment", "runs", "in the trash", "kept for days", "made"), rows)


def merged_text(found: Merged) -> str:
    """Return what became of a run that was merged."""
    said = f"{found.run}  {found.name} of {found.experiment}: {found.requests} requests and {found.files} files sent"
    said += f", {found.models} models registered" if found.models else ""
    said += f", {found.busy} processes log to it still" if found.busy else ""
    said += f", {found.cut_bytes} bytes torn by a crash" if found.cut_bytes else ""
    return "\n".join([said, *(f"  refused: {reason}" for reason in found.refused)])


def trash_rows(trash: Sequence[Trash]) -> str:
    """Return what lies in the trash."""
    columns = ("experiment", "runs", "logged models", "whole", "kept for days", "due now", "next due")
    rows = [(t.experiment, t.runs, t.models, "yes" if t.whole else "no", t.keep_days, t.due, t.next_due) for t in trash]
    return table(columns, rows, empty="the trash is empty")


def upkept_text(found: Upkept) -> str:
    """Return what upkeep removed, with the counts that show it."""
    removed = {
        "runs": found.runs,
        "experiments": found.experiments,
        "logged models": found.logged_models,
        "models": found.models,
        "datasets": found.datasets,
    }
    lines = [
        f"removed for good: {', '.join(f'{len(each)} {name}' for name, each in removed.items())}",
        f"objects before: {found.before.objects} ({size_text(found.before.size_bytes)})",
        f"objects after:  {found.after.objects} ({size_text(found.after.size_bytes)})",
    ]
    if found.catalog_bytes_after < found.catalog_bytes_before:
        lines.append(f"catalog: {size_text(found.catalog_bytes_before)} before, {size_text(found.catalog_bytes_after)} after")
    lines.append(f"freed: {size_text(found.freed_bytes)}")
    if found.young:
        lines.append(f"unused, but too young to be removed: {found.young} objects ({size_text(found.young_bytes)}); run it again later")
    if found.kept:
        lines.append(f"due, and kept because a registered version came of it: {', '.join(found.kept)}")
    return "\n".join(lines)


def disk_text(found: DiskUse) -> str:
    """Return what takes how much disk, the largest first."""
    rows = [(owner.kind, owner.name, size_text(owner.size_bytes), owner.items) for owner in found.owners if owner.size_bytes]
    totals = [(kind, size_text(size)) for kind, size in found.totals.items() if size]
    unused = f"{found.unused.objects} of them ({size_text(found.unused.size_bytes)}) unused; remove them with: tidemill gc"
    return "\n\n".join(
        [
            table(("what", "owner", "size", "items"), rows),
            table(("in all", "size"), totals),
            f"object store: {found.objects.objects} objects, {size_text(found.objects.size_bytes)}; {unused}\n"
            f"{size_text(found.free_bytes)} free on the disk",
        ]
    )
