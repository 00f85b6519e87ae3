"""How a run comes to its end, by what its block was left with."""

import signal

import pytest

from tidemill.client.lifetime import MESSAGE_LONGEST, Terminated, outcome


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (None, ("finished", "")),
        (SystemExit(), ("finished", "")),
        (SystemExit(0), ("finished", "")),
        (SystemExit(2), ("failed", "SystemExit: 2")),
        (KeyboardInterrupt(), ("killed", "interrupted")),
        (GeneratorExit(), ("killed", "left before its end")),
        (Terminated(), ("killed", "terminated")),
        (ValueError("first\nlast line"), ("failed", "last line")),
        (ValueError(), ("failed", "ValueError")),
        (RuntimeError("x" * 1000), ("failed", ("RuntimeError: " + "x" * 1000)[:MESSAGE_LONGEST])),
    ],
)
def test_the_outcome_says_what_happened(error: BaseException | None, found: tuple[str, str]) -> None:
    assert outcome(error) == found


def test_being_terminated_ends_a_program_as_a_shell_expects() -> None:
    assert Terminated().code == 128 + signal.SIGTERM
