"""Write the migration that brings one package's tables from its last revision to what its modules declare now.

python scripts/new_migration.py datasets "add owner to datasets"
"""

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from sqlalchemy.types import TypeDecorator

from tidemill.catalog import migrate
from tidemill.catalog.catalog import Catalog
from tidemill.catalog.schema import METADATA

ROOT = Path(__file__).resolve().parents[1] / "src" / "tidemill"


def load_tables(last: str) -> dict[str, str]:
    """Import every module of the owners up to the last one asked for; return table name -> owner."""
    owners: dict[str, str] = {}
    for owner in migrate.OWNERS:
        if not (ROOT / owner).is_dir():
            continue
        for module in pkgutil.walk_packages([str(ROOT / owner)], f"tidemill.{owner}."):
            if ".migrations" not in module.name and ".projects" not in module.name:
                importlib.import_module(module.name)
        for name in METADATA.tables:
            owners.setdefault(name, owner)
        if owner == last:
            break
    return owners


def render(kind: str, item: object, context: object) -> str | bool:
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{type(item.impl).__name__}()"
    return False


def main(owner: str, message: str) -> None:
    owners = load_tables(owner)
    folder = ROOT / owner / "migrations"
    folder.mkdir(exist_ok=True)
    last = sorted(path.stem for path in folder.glob(f"{owner}_[0-9]*.py"))
    revision = f"{owner}_{len(last) + 1:04d}"
    with tempfile.TemporaryDirectory() as scratch:
        catalog = Catalog("sqlite:scratch.db", folder=Path(scratch))
        migrate.migrate(catalog)
        with catalog.transaction() as tx:
            options = {
                "include_object": lambda item, name, kind, reflected, other: kind != "table" or owners.get(name) == owner,
                "render_item": render,
                "target_metadata": METADATA,
                "version_table": migrate.VERSION_TABLE,
            }
            script = produce_migrations(MigrationContext.configure(tx, opts=options), METADATA)
            body = render_python_code(script.upgrade_ops, render_item=render)
    lines = "\n".join(line.removeprefix("    ") for line in body.splitlines() if not line.strip().startswith("#"))
    header = f'"""{message}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
    ids = (
        f'revision = "{revision}"\ndown_revision = {last[-1]!r}\n'
        if last
        else f'revision = "{revision}"\ndown_revision = None\nbranch_labels = ("{owner}",)\n'
    )
    text = (
        header
        + ids
        + "\n\ndef upgrade() -> None:\n"
        + "\n".join(f"    {line}" if line.strip() else "" for line in lines.splitlines())
        + "\n"
    )
    path = folder / f"{revision}.py"
    path.write_text(text)
    print(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
