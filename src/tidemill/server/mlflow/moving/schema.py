"""The tables of an MLflow store as an export writes them: those of revision 6953534de441, the first that knows what we tell.

MLflow brings an older store up to its own schema when it opens it and misses a table, and every release since then has added
some: so one form serves all of them, and none of their later tables has to be written here.
"""

REVISION = "6953534de441"
_RUN = "run_uuid VARCHAR(32) NOT NULL"
_OF_RUN = "FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)"
_EXPERIMENT = "experiment_id INTEGER NOT NULL"
_OF_EXPERIMENT = "FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)"
_OF_MODEL = "FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE"
_OF_TRACE = "FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE"
_OF_NAME = "FOREIGN KEY(name) REFERENCES registered_models (name) ON UPDATE CASCADE"
_LIFE = "CHECK (lifecycle_stage IN ('active', 'deleted'))"
_KEY = "key VARCHAR(250) NOT NULL"

TABLES = {
    "alembic_version": ("version_num VARCHAR(32) NOT NULL", "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"),
    "experiments": (
        "experiment_id INTEGER NOT NULL", "name VARCHAR(256) NOT NULL", "artifact_location VARCHAR(256)", "lifecycle_stage VARCHAR(32)",
        "creation_time BIGINT", "last_update_time BIGINT", "CONSTRAINT experiment_pk PRIMARY KEY (experiment_id)",
        f"CONSTRAINT experiments_lifecycle_stage {_LIFE}", "UNIQUE (name)",
    ),
    "experiment_tags": (
        _KEY, "value VARCHAR(5000)", _EXPERIMENT, "CONSTRAINT experiment_tag_pk PRIMARY KEY (key, experiment_id)", _OF_EXPERIMENT,
    ),
    "runs": (
        _RUN, "name VARCHAR(250)", "source_type VARCHAR(20)", "source_name VARCHAR(500)", "entry_point_name VARCHAR(50)",
        "user_id VARCHAR(256)", "status VARCHAR(9)", "start_time BIGINT", "end_time BIGINT", "source_version VARCHAR(50)",
        "lifecycle_stage VARCHAR(20)", "artifact_uri VARCHAR(200)", "experiment_id INTEGER", "deleted_time BIGINT",
        "CONSTRAINT run_pk PRIMARY KEY (run_uuid)", f"CONSTRAINT runs_lifecycle_stage {_LIFE}",
        "CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT'))", _OF_EXPERIMENT,
        "CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))",
    ),
    "metrics": (
        _KEY, "value FLOAT NOT NULL", "timestamp BIGINT NOT NULL", _RUN, "step BIGINT DEFAULT '0' NOT NULL",
        "is_nan BOOLEAN DEFAULT '0' NOT NULL", "CONSTRAINT metric_pk PRIMARY KEY (key, timestamp, step, run_uuid, value, is_nan)", _OF_RUN,
        "CHECK (is_nan IN (0, 1))",
    ),
    "latest_metrics": (
        _KEY, "value FLOAT NOT NULL", "timestamp BIGINT", "step BIGINT NOT NULL", "is_nan BOOLEAN NOT NULL", _RUN,
        "CONSTRAINT latest_metric_pk PRIMARY KEY (key, run_uuid)", _OF_RUN, "CHECK (is_nan IN (0, 1))",
    ),
    "params": (_KEY, "value VARCHAR(8000) NOT NULL", _RUN, "CONSTRAINT param_pk PRIMARY KEY (key, run_uuid)", _OF_RUN),
    "tags": (_KEY, "value VARCHAR(8000)", _RUN, "CONSTRAINT tag_pk PRIMARY KEY (key, run_uuid)", _OF_RUN),
    "datasets": (
        "dataset_uuid VARCHAR(36) NOT NULL", _EXPERIMENT, "name VARCHAR(500) NOT NULL", "digest VARCHAR(36) NOT NULL",
        "dataset_source_type VARCHAR(36) NOT NULL", "dataset_source TEXT NOT NULL", "dataset_schema TEXT", "dataset_profile TEXT",
        "CONSTRAINT dataset_pk PRIMARY KEY (experiment_id, name, digest)",
        f"CONSTRAINT fk_datasets_experiment_id_experiments {_OF_EXPERIMENT} ON DELETE CASCADE",
    ),
    "inputs": (
        "input_uuid VARCHAR(36) NOT NULL", "source_type VARCHAR(36) NOT NULL", "source_id VARCHAR(36) NOT NULL",
        "destination_type VARCHAR(36) NOT NULL", "destination_id VARCHAR(36) NOT NULL", "step BIGINT DEFAULT '0' NOT NULL",
        "CONSTRAINT inputs_pk PRIMARY KEY (source_type, source_id, destination_type, destination_id)",
    ),
    "input_tags": (
        "input_uuid VARCHAR(36) NOT NULL", "name VARCHAR(255) NOT NULL", "value VARCHAR(500) NOT NULL",
        "CONSTRAINT input_tags_pk PRIMARY KEY (input_uuid, name)",
    ),
    "logged_models": (
        "model_id VARCHAR(36) NOT NULL", _EXPERIMENT, "name VARCHAR(500) NOT NULL", "artifact_location VARCHAR(1000) NOT NULL",
        "creation_timestamp_ms BIGINT NOT NULL", "last_updated_timestamp_ms BIGINT NOT NULL", "status INTEGER NOT NULL",
        "lifecycle_stage VARCHAR(32)", "model_type VARCHAR(500)", "source_run_id VARCHAR(32)", "status_message VARCHAR(1000)",
        "CONSTRAINT logged_models_pk PRIMARY KEY (model_id)", f"CONSTRAINT logged_models_lifecycle_stage_check {_LIFE}",
        f"CONSTRAINT fk_logged_models_experiment_id {_OF_EXPERIMENT} ON DELETE CASCADE",
    ),
    "logged_model_metrics": (
        "model_id VARCHAR(36) NOT NULL", "metric_name VARCHAR(500) NOT NULL", "metric_timestamp_ms BIGINT NOT NULL",
        "metric_step BIGINT NOT NULL", "metric_value FLOAT", _EXPERIMENT, "run_id VARCHAR(32) NOT NULL", "dataset_uuid VARCHAR(36)",
        "dataset_name VARCHAR(500)", "dataset_digest VARCHAR(36)",
        "CONSTRAINT logged_model_metrics_pk PRIMARY KEY (model_id, metric_name, metric_timestamp_ms, metric_step, run_id)",
        f"CONSTRAINT fk_logged_model_metrics_experiment_id {_OF_EXPERIMENT}", f"CONSTRAINT fk_logged_model_metrics_model_id {_OF_MODEL}",
        "CONSTRAINT fk_logged_model_metrics_run_id FOREIGN KEY(run_id) REFERENCES runs (run_uuid) ON DELETE CASCADE",
    ),
    "logged_model_params": (
        "model_id VARCHAR(36) NOT NULL", _EXPERIMENT, "param_key VARCHAR(255) NOT NULL", "param_value TEXT NOT NULL",
        "CONSTRAINT logged_model_params_pk PRIMARY KEY (model_id, param_key)",
        f"CONSTRAINT fk_logged_model_params_experiment_id {_OF_EXPERIMENT}", f"CONSTRAINT fk_logged_model_params_model_id {_OF_MODEL}",
    ),
    "logged_model_tags": (
        "model_id VARCHAR(36) NOT NULL", _EXPERIMENT, "tag_key VARCHAR(255) NOT NULL", "tag_value TEXT NOT NULL",
        "CONSTRAINT logged_model_tags_pk PRIMARY KEY (model_id, tag_key)",
        f"CONSTRAINT fk_logged_model_tags_experiment_id {_OF_EXPERIMENT}", f"CONSTRAINT fk_logged_model_tags_model_id {_OF_MODEL}",
    ),
    "registered_models": (
        "name VARCHAR(256) NOT NULL", "creation_time BIGINT", "last_updated_time BIGINT", "description VARCHAR(5000)",
        "CONSTRAINT registered_model_pk PRIMARY KEY (name)", "UNIQUE (name)",
    ),
    "model_versions": (
        "name VARCHAR(256) NOT NULL", "version INTEGER NOT NULL", "creation_time BIGINT", "last_updated_time BIGINT",
        "description VARCHAR(5000)", "user_id VARCHAR(256)", "current_stage VARCHAR(20)", "source VARCHAR(500)", "run_id VARCHAR(32)",
        "status VARCHAR(20)", "status_message VARCHAR(500)", "run_link VARCHAR(500)", "storage_location VARCHAR(500)",
        "CONSTRAINT model_version_pk PRIMARY KEY (name, version)", _OF_NAME,
    ),
    "registered_model_tags": (
        _KEY, "value VARCHAR(5000)", "name VARCHAR(256) NOT NULL", "CONSTRAINT registered_model_tag_pk PRIMARY KEY (key, name)", _OF_NAME,
    ),
    "model_version_tags": (
        _KEY, "value VARCHAR(5000)", "name VARCHAR(256) NOT NULL", "version INTEGER NOT NULL",
        "CONSTRAINT model_version_tag_pk PRIMARY KEY (key, name, version)",
        "FOREIGN KEY(name, version) REFERENCES model_versions (name, version) ON UPDATE CASCADE",
    ),
    "registered_model_aliases": (
        "alias VARCHAR(256) NOT NULL", "version INTEGER NOT NULL", "name VARCHAR(256) NOT NULL",
        "CONSTRAINT registered_model_alias_pk PRIMARY KEY (name, alias)",
        f"CONSTRAINT registered_model_alias_name_fkey {_OF_NAME} ON DELETE CASCADE",
    ),
    "trace_info": (
        "request_id VARCHAR(50) NOT NULL", _EXPERIMENT, "timestamp_ms BIGINT NOT NULL", "execution_time_ms BIGINT",
        "status VARCHAR(50) NOT NULL", "CONSTRAINT trace_info_pk PRIMARY KEY (request_id)",
        f"CONSTRAINT fk_trace_info_experiment_id {_OF_EXPERIMENT}",
    ),
    "trace_request_metadata": (
        _KEY, "value VARCHAR(8000)", "request_id VARCHAR(50) NOT NULL",
        "CONSTRAINT trace_request_metadata_pk PRIMARY KEY (key, request_id)",
        f"CONSTRAINT fk_trace_request_metadata_request_id {_OF_TRACE}",
    ),
    "trace_tags": (
        _KEY, "value VARCHAR(8000)", "request_id VARCHAR(50) NOT NULL", "CONSTRAINT trace_tag_pk PRIMARY KEY (key, request_id)",
        f"CONSTRAINT fk_trace_tags_request_id {_OF_TRACE}",
    ),
}  # fmt: skip
INDEXES = {
    "datasets": ("dataset_uuid", "experiment_id, dataset_source_type"),
    "inputs": ("destination_type, destination_id, source_type", "input_uuid"),
    "latest_metrics": ("run_uuid",),
    "logged_model_metrics": ("model_id",),
    "metrics": ("run_uuid",),
    "params": ("run_uuid",),
    "tags": ("run_uuid",),
    "trace_info": ("experiment_id, timestamp_ms",),
    "trace_request_metadata": ("request_id",),
    "trace_tags": ("request_id",),
}


def statements() -> list[str]:
    """Return the SQL that makes the empty store."""
    made = [f"CREATE TABLE {name} (\n\t{', '.join(lines)}\n)" for name, lines in TABLES.items()]
    for table, indexes in INDEXES.items():
        made += [f"CREATE INDEX index_{table}_{columns.replace(', ', '_')} ON {table} ({columns})" for columns in indexes]
    return [*made, f"INSERT INTO alembic_version VALUES ('{REVISION}')"]
