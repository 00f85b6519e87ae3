"""Catalogs as older versions of Tidemill left them, for tests of migrations."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from tidemill.catalog import migrate
from tidemill.catalog.catalog import Catalog


def older(catalog: Catalog, revision: str, rows: str) -> None:
    """Bring a catalog to where one package stood at a revision, and run the statements that fill it as it was filled then."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(files("tidemill"))) / "catalog" / "alembic"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(folder) for folder in migrate.locations()))
    with catalog.transaction() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, revision)
        for statement in rows.split(";\n"):
            if statement.strip():
                tx.execute(text(statement.replace(":", r"\:")))
