"""What the machine does: shares between 0 and 100, rates from counters, cards as nvidia-smi tells of them."""

from pathlib import Path

import pytest

from tidemill.client.system_metrics import Machine, NvidiaProgram, Sampler, parse_cards
from tidemill.core.clock import wait_until


def test_a_sample_has_plausible_numbers() -> None:
    machine = Machine()
    found = machine.sample()
    for name in ("cpu_percent", "memory_percent", "disk_percent"):
        assert 0 <= found[name] <= 100
    assert found["process_memory_mb"] > 5
    assert found["memory_used_mb"] > 50
    assert all(value >= 0 for name, value in found.items() if name.endswith("_mb_s"))


@pytest.mark.slow
def test_samples_come_until_it_is_finished() -> None:
    found: list[dict[str, float]] = []
    sampler = Sampler(every_s=0.1)
    sampler.start(lambda sample: found.append(dict(sample)))
    assert wait_until(lambda: len(found) >= 2, timeout_s=10)
    sampler.finish()
    count = len(found)
    assert all(name.startswith("system/") for name in found[0])
    assert not wait_until(lambda: len(found) > count, timeout_s=0.3)


def test_cards_are_read_from_a_table_and_gaps_left_out() -> None:
    found = parse_cards("37, 1024, 24576, 61, 88.50\n[N/A], 0, 24576, 30, [Not Supported]\n\n")
    assert found == {
        "gpu0_utilization_percent": 37.0, "gpu0_memory_mb": pytest.approx(1073.741824), "gpu0_memory_total_mb": pytest.approx(25769.803776),
        "gpu0_temperature_celsius": 61.0, "gpu0_power_watts": 88.5, "gpu1_memory_mb": 0.0,
        "gpu1_memory_total_mb": pytest.approx(25769.803776), "gpu1_temperature_celsius": 30.0,
    }  # fmt: skip
    assert parse_cards("") == {}


def test_a_program_like_nvidias_is_asked(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '10, 1, 2, 3, 4'\n")
    program.chmod(0o755)
    assert NvidiaProgram(str(program)).sample()["gpu0_utilization_percent"] == 10
    program.write_text("#!/bin/sh\nexit 9\n")
    assert NvidiaProgram(str(program)).sample() == {}
    assert NvidiaProgram(str(tmp_path / "none")).sample() == {}
