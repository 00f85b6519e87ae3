"""Schemas: the migrations build what the modules declare, on both engines; newer and older workspaces are told apart."""

import importlib
import pkgutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

import tidemill
from tidemill.catalog import migrate
from tidemill.catalog.catalog import Catalog
from tidemill.catalog.schema import METADATA


def load_all_tables() -> None:
    for owner in migrate.OWNERS:
        for module in pkgutil.walk_packages([f"{tidemill.__path__[0]}/{owner}"], f"tidemill.{owner}."):
            if ".migrations" not in module.name:
                importlib.import_module(module.name)


@pytest.mark.slow
def test_migrations_build_what_the_modules_declare(catalog_url: str, tmp_path: Path) -> None:
    load_all_tables()
    catalog = Catalog(catalog_url, folder=tmp_path)
    assert migrate.migrate(catalog)
    assert not migrate.migrate(catalog)
    with catalog.reading() as tx:
        context = MigrationContext.configure(tx, opts={"version_table": migrate.VERSION_TABLE, "compare_type": False})
        assert compare_metadata(context, METADATA) == []
    catalog.close()


def test_a_newer_workspace_is_refused(tmp_path: Path) -> None:
    catalog = Catalog("sqlite:catalog.db", folder=tmp_path)
    migrate.migrate(catalog)
    with catalog.transaction() as tx:
        tx.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = 'catalog_9999' WHERE version_num LIKE 'catalog%'"))
    with pytest.raises(migrate.WorkspaceNewer, match=r"written by a newer Tidemill \(its schema has catalog_9999"):
        migrate.check_schema(catalog)
    catalog.close()


def test_an_old_file_is_backed_up_before_it_is_changed(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.db") as old:
        old.execute("CREATE TABLE kept (word TEXT)")
        old.execute("INSERT INTO kept VALUES ('tide')")
    catalog = Catalog("sqlite:catalog.db", folder=tmp_path)
    assert migrate.migrate(catalog)
    with sqlite3.connect(tmp_path / "catalog.db.before-migration") as backup:
        assert backup.execute("SELECT word FROM kept").fetchall() == [("tide",)]
    catalog.close()
