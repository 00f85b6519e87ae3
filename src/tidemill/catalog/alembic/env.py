"""Run by Alembic: applies migrations on the connection that `catalog.migrate` hands over."""

from alembic import context

from tidemill.catalog.migrate import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
