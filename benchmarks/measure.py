"""What all benchmarks share: options, rounds taken in turns, and a report of workload, machine, median and spread."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    """What the command line said. quick: tiny sizes and one round, to see that the script still runs."""

    quick: bool
    as_json: bool

    def size(self, full: int, quick: int) -> int:
        """Return how much of something there is to be."""
        return quick if self.quick else full

    def rounds(self, full: int) -> int:
        """Return how often to measure."""
        return 1 if self.quick else full


def options(about: str | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: the figures mean nothing")
    return Options(**vars(parser.parse_args()))


def seconds(act: Callable[[], Any]) -> float:
    """Return how long act takes."""
    start = perf_counter()
    act()
    return perf_counter() - start


def in_turns(rounds: int, tasks: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return what each task measured in each round. They take turns, so that a busy moment of the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            found[name].append(task())
    return found


@dataclass(frozen=True)
class Line:
    """One measured thing. against: the line that it is compared with."""

    what: str
    unit: str
    values: list[float]
    against: str | None = None

    @property
    def middle(self) -> float:
        return median(self.values)


@dataclass
class Report:
    """What one benchmark prints."""

    title: str
    workload: str
    libraries: Sequence[str] = ()
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, what: str, unit: str, values: Sequence[float], *, against: str | None = None) -> None:
        """Add the values that several rounds gave."""
        self.lines.append(Line(what, unit, list(values), against))

    def note(self, text: str) -> None:
        """Add a sentence below the table."""
        self.notes.append(text)

    @contextmanager
    def needed(self, service: Callable[[], Any], what: str) -> Iterator[str | None]:
        """Run a server of `tests.services`; yield its URL, or None with a note of the reason when it cannot be had here."""
        with ExitStack() as stack:
            try:
                url: str | None = stack.enter_context(service())
            except pytest.skip.Exception as reason:
                self.note(f"{what}: skipped, {reason.msg}")
                url = None
            yield url

    def show(self, told: Options) -> None:
        """Print it."""
        sys.stdout.write((self.as_json(told) if told.as_json else self.as_text(told)) + "\n")

    def as_json(self, told: Options) -> str:
        lines = [
            {"what": line.what, "unit": line.unit, "median": line.middle, "min": min(line.values), "max": max(line.values),
             "rounds": len(line.values), "against": line.against, "ratio": self._ratio(line)}
            for line in self.lines
        ]  # fmt: skip
        whole = {"title": self.title, "workload": self.workload, "machine": self.machine(), "quick": told.quick, "lines": lines}
        return json.dumps(whole | {"notes": self.notes}, indent=2)

    def as_text(self, told: Options) -> str:
        rows = [("", "median", "min..max", "unit", "n", "ratio")]
        for line in self.lines:
            ratio = self._ratio(line)
            compared = f"{ratio:.2f} × {line.against}" if ratio is not None else ""
            spread = f"{_short(min(line.values))}..{_short(max(line.values))}"
            rows.append((line.what, _short(line.middle), spread, line.unit, str(len(line.values)), compared))
        widths = [max(len(row[place]) for row in rows) for place in range(5)]
        table = [
            "  ".join((row[0].ljust(widths[0]), *(row[place].rjust(widths[place]) for place in range(1, 5)), row[5])).rstrip()
            for row in rows
        ]
        quick = ["QUICK: tiny sizes, one round; these figures mean nothing"] if told.quick else []
        return "\n".join([self.title, f"workload: {self.workload}", f"machine:  {self.machine()}", *quick, *table, *self.notes])

    def machine(self) -> str:
        """Return what it ran on: never where."""
        versions = ", ".join(f"{name} {_version(name)}" for name in self.libraries)
        return (
            f"{os.cpu_count()} cores, {_memory_gb()} GB, {_processor()}, {platform.system()}, load {self.load:.1f} before it; "
            f"Python {platform.python_version()}{', ' if versions else ''}{versions}; {datetime.now(UTC):%Y-%m-%d}"
        )

    def _ratio(self, line: Line) -> float | None:
        peers = [other for other in self.lines if other.what == line.against]
        return line.middle / peers[0].middle if peers and peers[0].middle else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that share of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" if value >= 100 else f"{value:.3g}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _processor() -> str:
    try:
        found = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        found = []
    return found[0] if found else platform.processor() or platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
