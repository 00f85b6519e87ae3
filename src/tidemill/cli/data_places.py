"""`tidemill data status`: which files outside differ from the version that they were. Loads neither catalog nor tables."""

from pathlib import Path

import click

from tidemill.cli.show import emit, json_option
from tidemill.core.errors import NotFound
from tidemill.core.settings import STATE_NAME, find_home
from tidemill.datasets.places import PlaceStatus, list_places, status


@click.command("status")
@click.argument("names", nargs=-1)
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Workspace folder. Default: the one you are in.")
@click.option("--check", is_flag=True, help="Exit with 1 when something differs.")
@json_option
def data_status(names: tuple[str, ...], home: Path | None, check: bool, as_json: bool) -> int:
    """Tell which files that were added or got as datasets NAMES (all unless told) have changed since, by their sizes and times."""
    held = list_places((home or find_home()) / STATE_NAME)
    known = [each.name for each in held]
    for name in names:
        if name not in known:
            raise NotFound(f"nothing outside is known of dataset {name!r} (known: {', '.join(known) or 'none'}); add it or get it first")
    found = [status(each) for each in held if not names or each.name in names]
    emit(
        found, as_json=as_json, text=lambda: "\n".join(map(_told, found)) or "no files outside are known; add some with: tidemill data add"
    )
    return int(check and not all(each.clean for each in found))


def _told(found: PlaceStatus) -> str:
    head = f"{found.name}@{found.version}  {', '.join(found.places)}"
    if found.clean:
        return f"{head}: {found.same} files as they were"
    lines = [f"  {what:<8} {path}" for what, paths in _groups(found) for path in paths[:20]]
    lines += [f"  … and {len(paths) - 20} more {what}" for what, paths in _groups(found) if len(paths) > 20]
    counts = ", ".join(f"{len(paths)} {what}" for what, paths in _groups(found) if paths)
    return "\n".join([f"{head}: {counts}, {found.same} as they were", *lines])


def _groups(found: PlaceStatus) -> list[tuple[str, tuple[str, ...]]]:
    return [("changed", found.changed), ("added", found.added), ("gone", found.gone)]
