"""Files under the proxy's paths, datasets that runs read, logged models."""

import sqlalchemy as sa
from alembic import op

revision = "tracking_0003"
down_revision = "tracking_0002"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("path", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "path", name=op.f("pk_files")),
    )
    op.create_table(
        "input_datasets",
        sa.Column("no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("schema", sa.Text(), nullable=True),
        sa.Column("profile", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_input_datasets")),
        sa.UniqueConstraint("experiment_id", "name", "digest", name=op.f("uq_input_datasets_experiment_id_name_digest")),
    )
    op.create_table(
        "logged_model_metrics",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "key", "at", "step", "run", name=op.f("pk_logged_model_metrics")),
    )
    op.create_index("ix_logged_model_metrics_run", "logged_model_metrics", ["project", "run"], unique=False)
    op.create_index("ix_logged_model_metrics_value", "logged_model_metrics", ["project", "key", "value", "model"], unique=False)
    op.create_table(
        "logged_model_params",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "key", name=op.f("pk_logged_model_params")),
    )
    op.create_table(
        "logged_model_tags",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "key", name=op.f("pk_logged_model_tags")),
    )
    op.create_table(
        "logged_models",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("model_type", sa.Text(), nullable=False),
        sa.Column("source_run", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_logged_models")),
    )
    op.create_index("ix_logged_models_experiment", "logged_models", ["project", "experiment_id", "created_at", "id"], unique=False)
    op.create_index("ix_logged_models_run", "logged_models", ["project", "source_run"], unique=False)
    op.create_table(
        "run_datasets",
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("dataset", sa.BigInteger(), nullable=False),
        sa.Column("context", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "dataset", name=op.f("pk_run_datasets")),
    )
    op.create_index("ix_run_datasets_dataset", "run_datasets", ["dataset", "run"], unique=False)
    op.create_table(
        "run_models",
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "direction", "model", name=op.f("pk_run_models")),
    )
    op.create_index("ix_run_models_model", "run_models", ["model", "direction"], unique=False)
    op.execute(
        "INSERT INTO files (project, path, digest, size_bytes, at) "
        "SELECT a.project, CAST(r.experiment_id AS TEXT) || '/' || a.run || '/artifacts/' || a.path, a.digest, a.size_bytes, r.started_at "
        "FROM run_artifacts a JOIN runs r ON r.project = a.project AND r.id = a.run"
    )
    op.drop_table("run_artifacts")
