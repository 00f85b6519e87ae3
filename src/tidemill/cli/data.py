"""`tidemill data`: datasets and their versions."""

import click

from tidemill.cli.lazy import CommandTable, LazyGroup

COMMANDS: CommandTable = {
    "add": ("tidemill.cli.data_versions:add", "Make a version of files, folders, patterns, or what a query says."),
    "list": ("tidemill.cli.data_versions:list_", "List datasets."),
    "show": ("tidemill.cli.data_versions:show", "Show one version."),
    "describe": ("tidemill.cli.data_describe:describe", "Tell what the columns of a version are like."),
    "log": ("tidemill.cli.data_versions:log", "List the versions of a dataset, newest first."),
    "diff": ("tidemill.cli.data_diff:diff", "Tell how two versions differ: files, columns, rows, distributions."),
    "status": ("tidemill.cli.data_places:data_status", "Tell which files changed since they were added or got."),
    "get": ("tidemill.cli.data_versions:get", "Write the files of a version into a folder."),
    "tag": ("tidemill.cli.data_versions:tag", "Let a tag stand for a version."),
    "rm": ("tidemill.cli.data_versions:rm", "Put versions into the trash."),
    "restore": ("tidemill.cli.data_versions:restore", "Bring versions back from the trash."),
    "push": ("tidemill.cli.data_remotes:push_", "Send versions to a folder or bucket: only what it lacks."),
    "pull": ("tidemill.cli.data_remotes:pull_", "Bring versions from a folder or bucket: only what is missing."),
    "clone": ("tidemill.cli.data_remotes:clone", "Bring every dataset of a folder or bucket."),
    "verify": ("tidemill.cli.data_remotes:verify_", "Read every file again; mend what is broken from a remote."),
    "import-dvc": ("tidemill.cli.data_dvc:import_dvc_", "Bring the datasets of a DVC repository with their versions."),
    "ingest": ("tidemill.cli.data_ingest:ingest", "Take rows as they come, from a topic or a folder."),
}


@click.command(cls=LazyGroup, table=COMMANDS)
def data() -> None:
    """Datasets: names with immutable versions."""
