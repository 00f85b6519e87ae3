"""The door: finds the command, prints errors as one sentence. Loads a noun's module only when that noun is used."""

import sys
from importlib import import_module

import click

from tidemill import __version__
from tidemill.core.errors import TidemillError

# noun -> (module:command, help). The help stands here so that `tidemill --help` loads nothing else.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("tidemill.cli.workspace:init", "Make a workspace in a folder."),
    "up": ("tidemill.cli.up:up", "Serve a workspace: dashboard, API, predictions, controller."),
    "status": ("tidemill.cli.status:status", "Show what a workspace holds and what serves it."),
    "doctor": ("tidemill.cli.workspace:doctor", "Look for trouble and say what to do about it."),
    "gc": ("tidemill.cli.upkeep:gc", "Empty the trash and give disk back."),
    "demo": ("tidemill.cli.demo:demo", "Replay a year of real flights through the whole loop."),
    "data": ("tidemill.cli.data:data", "Datasets: add, ingest, list, show."),
    "features": ("tidemill.cli.features:features", "Features: list, show, apply, materialize."),
    "pipeline": ("tidemill.cli.pipeline:pipeline", "Pipelines: run, list."),
    "run": ("tidemill.cli.run:run", "Runs: list, compare, export, delete, merge."),
    "model": ("tidemill.cli.model:model", "Models: search, show, compare, alias, move, lock, where."),
    "endpoint": ("tidemill.cli.endpoint:endpoint", "Endpoints: list, show, create, roll out, roll back."),
    "predict": ("tidemill.cli.predict:predict", "Predictions: for rows given here, for tables, for streams."),
    "monitor": ("tidemill.cli.monitor:monitor", "Monitors: list, windows."),
    "alert": ("tidemill.cli.monitor:alert", "Alerts: list, resolve."),
    "rule": ("tidemill.cli.rule:rule", "Rules: list, firings."),
    "audit": ("tidemill.cli.audit:audit", "The audit log: list, verify."),
    "access": ("tidemill.cli.access:access", "Roles, API keys, projects."),
    "import": ("tidemill.cli.moving:import_", "Bring an MLflow store here: runs, histories, artifacts, models."),
    "export": ("tidemill.cli.moving:export", "Write everything as an MLflow store."),
    "trace": ("tidemill.cli.trace:trace", "Follow one prediction back to rows, code, checks and people."),
}


class Door(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="tidemill")
def tidemill() -> None:
    """Data, features, training, checks, registry, release, serving, monitoring and retraining in one package.

    Start with: tidemill demo
    """


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    try:
        result = tidemill.main(args=argv, prog_name="tidemill", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TidemillError as error:
        click.echo(f"tidemill: {error}", err=True)
        return 1
    except OSError as error:  # a file that a command reads or writes: a full disk, a folder that is not one's own
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"tidemill: {place}{error.strerror or error}; check the path, its permissions and the free space", err=True)
        return 1
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the `tidemill` command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
