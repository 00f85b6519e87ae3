"""First tables of checks."""

import sqlalchemy as sa
from alembic import op

revision = "checks_0001"
down_revision = None
branch_labels = ("checks",)


def upgrade() -> None:
    pass
