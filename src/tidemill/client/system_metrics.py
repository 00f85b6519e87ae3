"""What the machine does while a run runs: processors, memory, disk, network, graphics cards. Sampled by a thread of its own."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any, Protocol

from tidemill.core.clock import elapsed
from tidemill.core.errors import ExtraMissing, Invalid

EVERY_S = 10.0
LEAST_EVERY_S = 0.1
WAIT_S = 15.0
MEGABYTE = 1e6
_QUERY = ("utilization.gpu", "memory.used", "memory.total", "temperature.gpu", "power.draw")
_NAMES = ("utilization_percent", "memory_mb", "memory_total_mb", "temperature_celsius", "power_watts")


class Sampler:
    """Logs `system/…` metrics of the machine and this process every so many seconds until it is stopped."""

    def __init__(self, *, every_s: float = EVERY_S) -> None:
        """Begin to measure, not yet to log. Raises ExtraMissing without psutil, Invalid for too short a time."""
        if every_s < LEAST_EVERY_S:
            raise Invalid(
                f"system metrics cannot be sampled every {every_s} s; expected at least {LEAST_EVERY_S} s, or True for {EVERY_S:g} s"
            )
        self._read = Machine()
        self._cards = _cards()
        self._every_s = every_s
        self._stopped = Event()
        self._thread: Thread | None = None

    def start(self, log: Callable[[Mapping[str, float]], None]) -> None:
        """Log from here on."""
        self._thread = Thread(target=self._work, args=(log,), name="tidemill-system", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Sample once more, and then no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(WAIT_S)

    def sample(self) -> dict[str, float]:
        """Return what is so now."""
        found = {**self._read.sample(), **(self._cards.sample() if self._cards is not None else {})}
        return {f"system/{name}": value for name, value in found.items()}

    def _work(self, log: Callable[[Mapping[str, float]], None]) -> None:
        while not self._stopped.wait(self._every_s):
            log(self.sample())
        log(self.sample())  # a short run has one sample at least


class Source(Protocol):
    """Something that can be measured."""

    def sample(self) -> dict[str, float]: ...


class Machine:
    """Processors, memory, disk and network, through psutil: the same numbers on Linux and macOS."""

    def __init__(self) -> None:
        try:
            import psutil
        except ImportError as error:
            raise ExtraMissing("psutil", "tracking") from error
        self._psutil = psutil
        self._process = psutil.Process()
        psutil.cpu_percent()  # the first call only begins to measure
        self._process.cpu_percent()
        self._before, self._at = self._counters(), elapsed()

    def sample(self) -> dict[str, float]:
        """Return shares in percent, sizes in megabytes, rates in megabytes a second since the sample before."""
        memory, disk = self._psutil.virtual_memory(), self._psutil.disk_usage(".")
        counters, now = self._counters(), elapsed()
        passed = max(now - self._at, 1e-6)
        rates = {f"{name}_mb_s": (counters[name] - self._before.get(name, counters[name])) / MEGABYTE / passed for name in counters}
        self._before, self._at = counters, now
        return {
            "cpu_percent": self._psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "memory_used_mb": (memory.total - memory.available) / MEGABYTE,
            "disk_percent": disk.percent,
            "disk_used_mb": disk.used / MEGABYTE,
            "process_cpu_percent": self._process.cpu_percent(),
            "process_memory_mb": self._process.memory_info().rss / MEGABYTE,
            **rates,
        }

    def _counters(self) -> dict[str, int]:
        found: dict[str, int] = {}
        network, disk = self._psutil.net_io_counters(), self._psutil.disk_io_counters()
        if network is not None:
            found.update(network_received=network.bytes_recv, network_sent=network.bytes_sent)
        if disk is not None:  # in some containers there is none to be seen
            found.update(disk_read=disk.read_bytes, disk_written=disk.write_bytes)
        return found


class NvidiaLibrary:
    """Graphics cards through pynvml, which is quick."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.nvmlInit()
        self._cards = [library.nvmlDeviceGetHandleByIndex(number) for number in range(library.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, float]:
        found = {}
        for number, card in enumerate(self._cards):
            memory = self._library.nvmlDeviceGetMemoryInfo(card)
            values = (
                self._library.nvmlDeviceGetUtilizationRates(card).gpu, memory.used / MEGABYTE, memory.total / MEGABYTE,
                self._library.nvmlDeviceGetTemperature(card, self._library.NVML_TEMPERATURE_GPU),
                self._library.nvmlDeviceGetPowerUsage(card) / 1000,
            )  # fmt: skip
            found.update({f"gpu{number}_{name}": float(value) for name, value in zip(_NAMES, values, strict=True)})
        return found


class NvidiaProgram:
    """Graphics cards through nvidia-smi, which is there wherever the driver is."""

    def __init__(self, program: str) -> None:
        self._command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]

    def sample(self) -> dict[str, float]:
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        return parse_cards(done.stdout) if done.returncode == 0 else {}


def parse_cards(text: str) -> dict[str, float]:
    """Return what nvidia-smi's table says, card by card; what a card does not tell (`[N/A]`) is left out."""
    found: dict[str, float] = {}
    for number, line in enumerate(filter(str.strip, text.splitlines())):
        for name, value in zip(_NAMES, line.split(","), strict=False):
            try:
                found[f"gpu{number}_{name}"] = float(value) * (1.048576 if name.startswith("memory") else 1)  # MiB there, MB here
            except ValueError:
                continue
    return found


def _cards() -> Source | None:
    try:
        import pynvml
    except ImportError:
        program = shutil.which("nvidia-smi")
        return NvidiaProgram(program) if program else None
    try:
        return NvidiaLibrary(pynvml)
    except pynvml.NVMLError:
        return None
