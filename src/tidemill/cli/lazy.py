"""Groups of commands that are imported when they are used, so that a quick command does not wait for what others need."""

from collections.abc import Mapping, MutableMapping
from importlib import import_module
from typing import Any

import click

CommandTable = Mapping[str, tuple[str, str]]
"""Name -> (module:command, help). The help stands here so that a group's `--help` loads nothing else."""


class LazyGroup(click.Group):
    """A group over a table of commands."""

    def __init__(self, *args: Any, table: CommandTable, **attributes: Any) -> None:
        self._table = table
        super().__init__(*args, **attributes)

    @property
    def commands(self) -> MutableMapping[str, click.Command]:
        """All commands, imported."""
        return {name: self._load(name) for name in self._table}

    @commands.setter
    def commands(self, found: Any) -> None:
        pass  # click sets what it was given: nothing

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._load(cmd_name) if cmd_name in self._table else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])

    def _load(self, name: str) -> click.Command:
        module, _, attribute = self._table[name][0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found
