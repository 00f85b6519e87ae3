"""Options of endpoints."""

import sqlalchemy as sa
from alembic import op

revision = "deploy_0002"
down_revision = "deploy_0001"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("options", sa.Text(), nullable=True))
