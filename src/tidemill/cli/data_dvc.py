"""`tidemill data import-dvc`: what a DVC repository holds."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, progress, size_text, table
from tidemill.datasets.dvc import DvcImport, import_dvc


@click.command("import-dvc")
@click.argument("repository", type=click.Path(path_type=Path, file_okay=False))
@click.option("--branch", default="HEAD", show_default=True, help="The Git branch, tag or commit whose history comes.")
@click.option(
    "--cache", multiple=True, type=click.Path(path_type=Path), help="A cache or remote of DVC to look into first. May be repeated."
)
@click.option("--dry-run", is_flag=True, help="Only say what would come; no data is read.")
@click.option("--reason", default="", help="Why, for the audit log.")
@workspace_options
@json_option
def import_dvc_(
    repository: Path, branch: str, cache: tuple[Path, ...], dry_run: bool, reason: str, home: Path | None, project: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Bring the datasets of the DVC repository REPOSITORY: files and folders that DVC caches, a version for each content along the branch.

    Done again it brings what is new. What is in no cache or local remote, or damaged, is left out and named; the exit code is then 1.
    """
    ws = opened(home, project)
    with progress("versions") as watch:
        found = import_dvc(ws, repository, branch=branch, caches=cache, dry_run=dry_run, reason=reason, watch=watch)
    emit(found, as_json=as_json, text=lambda: _told(found))
    return 1 if found.left_out else 0


def _told(found: DvcImport) -> str:
    datasets: dict[str, tuple[str, int, int]] = {}
    for each in found.versions:
        path, new, there = datasets.get(each.dataset, (each.path, 0, 0))
        datasets[each.dataset] = (path, new + each.new, there + (not each.new))
    rows = [(name, *counts) for name, counts in sorted(datasets.items())]
    sizes = f"{found.files} files of {size_text(found.size_bytes)}"
    came = f"{found.brought} {'would come' if found.dry_run else 'came'} ({sizes}), {found.there} were here, {len(found.left_out)} left out"
    return "\n".join(
        [
            f"{found.repository}: {found.found} versions in {found.commits} commits of {found.branch}: {came}; {len(found.tags)} tags",
            "",
            table(("dataset", "path", "would come" if found.dry_run else "came", "were here"), rows),
            *(f"left out: {each.path} at commit {each.commit[:12]}: {each.reason}" for each in found.left_out),
            *(f"note: {each.what}: {each.reason}" for each in found.notes),
        ]
    )
