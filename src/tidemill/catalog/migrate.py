"""Bring a catalog's schema up to this version of Tidemill. Forward only, one transaction, SQLite backed up before."""

import sqlite3
from importlib.resources import files
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from tidemill.catalog.catalog import Catalog
from tidemill.core.errors import Conflict

VERSION_TABLE = "tidemill_schema_version"
# The packages that own tables; each holds its own line of migrations in `<package>/migrations`, named `<package>_NNNN.py`.
OWNERS = ("catalog", "govern", "checks", "datasets", "tracking", "registry", "features", "pipelines", "deploy", "monitor", "automate")


class WorkspaceNewer(Conflict):
    """The catalog was written by a newer Tidemill."""

    def __init__(self, unknown: set[str]) -> None:
        self.unknown = unknown
        super().__init__(
            f"this workspace was written by a newer Tidemill (its schema has {', '.join(sorted(unknown))}, unknown here); "
            "upgrade with: pip install --upgrade tidemill"
        )


class WorkspaceOlder(Conflict):
    """The catalog wants a migration before this version can use it."""

    def __init__(self) -> None:
        super().__init__("this workspace was written by an older Tidemill; bring it up to date with: tidemill init .")


def locations() -> list[Path]:
    """Return the folders of migrations, one an owner."""
    root = Path(str(files("tidemill")))
    return [folder for owner in OWNERS if (folder := root / owner / "migrations").is_dir()]


def known_revisions() -> set[str]:
    """Return all revisions that this version of Tidemill has."""
    return {path.stem for folder in locations() for path in folder.glob("*_[0-9][0-9][0-9][0-9].py")}


def head_revisions() -> set[str]:
    """Return the newest revision of each owner."""
    heads: dict[str, str] = {}
    for revision in sorted(known_revisions()):
        heads[revision.rpartition("_")[0]] = revision
    return set(heads.values())


def check_schema(catalog: Catalog) -> bool:
    """Return whether the schema is this version's. Raises WorkspaceNewer."""
    with catalog.reading() as tx:
        found = _revisions(tx)
    if unknown := found - known_revisions():
        raise WorkspaceNewer(unknown)
    return found == head_revisions()


def migrate(catalog: Catalog) -> bool:
    """Bring the schema up to date; return whether anything had to change. Raises WorkspaceNewer."""
    if catalog.path is not None:
        catalog.path.parent.mkdir(parents=True, exist_ok=True)
    if check_schema(catalog):
        return False
    if catalog.path is not None:
        _backup(catalog.path)
    with catalog.transaction() as tx:
        if tx.dialect.name == "postgresql":  # two servers starting at once: the second waits, then finds nothing to do
            tx.execute(text("SELECT pg_advisory_xact_lock(7461646)"))
        upgrade(tx)
    return True


def upgrade(tx: Connection) -> None:
    """Apply all migrations that are missing, on an open transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(str(files("tidemill"))) / "catalog" / "alembic"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(folder) for folder in locations()))
    config.attributes["connection"] = tx
    command.upgrade(config, "heads")


def _revisions(tx: Connection) -> set[str]:
    if not inspect(tx).has_table(VERSION_TABLE):
        return set()
    return {row[0] for row in tx.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))}


def _backup(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with sqlite3.connect(path) as source, sqlite3.connect(path.with_name(path.name + ".before-migration")) as target:
        source.backup(target)
