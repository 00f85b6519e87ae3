"""The table of executors, and the one that runs in place."""

import pytest

from tidemill.compute.conformance import ExecutorConformance
from tidemill.compute.executor import open_executor
from tidemill.core.errors import Invalid


class TestInline(ExecutorConformance):
    in_process = True

    @pytest.fixture
    def executor_name(self) -> str:
        return "inline"


@pytest.mark.parametrize(
    ("name", "says"),
    [("locl", "did you mean 'local'"), ("local:0", "at least 1"), ("local:many", "expected local:N"), ("inline:2", "expected inline")],
)
def test_a_name_that_is_not_known_is_refused(name: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        open_executor(name)
