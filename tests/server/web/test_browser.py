"""The dashboard in a real Chromium: light and dark, wide and narrow, nothing in the console, nothing beyond the edge."""

from collections.abc import Iterator

import pytest

from tests import world
from tests.server.lived import live
from tests.server.web import chromium
from tidemill.core.clock import wait_until
from tidemill.tracking.runs import list_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PAGES = {
    "": "What happened last",
    "/models": "champion",
    "/models/delay/2": "not worse than the champion",
    "/endpoints/delay?span=month": "Answers by variant",
    "/runs": "train",
    "/runs/RUN": "tune",
    "/runs/RUN/metric?key=auc": "Points logged",
    "/compare?run=RUN,OTHER": "2 runs compared",
    "/audit": "unbroken chain",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """A lived-in workspace, served on a socket from a thread: its address, and the ids of two runs of a pipeline."""
    with world.workspace(tmp_path_factory.mktemp("site") / "home") as ws:
        live(ws, weeks=5, rows_an_hour=3)
        run, other = (run.id for run in list_runs(ws, kinds=("pipeline",))[:2])
        with chromium.served(ws) as url:
            yield url, run, other


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium.browser() as started:
        yield started


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_clean(browser, site: tuple[str, str, str], scheme: str, width: int) -> None:
    url, run, other = site
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
    page.on("requestfailed", lambda request: said.append(f"{request.url}: {request.failure}"))
    for path, words in PAGES.items():
        answer = page.goto(f"{url}/projects/default{path.replace('RUN', run).replace('OTHER', other)}")
        assert answer.status == 200
        assert page.get_by_text(words).first.is_visible(), (path, words)
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{path} is {beyond} px too wide at {width}"
    assert not said
    context.close()


def test_charts_are_drawn_in_the_colours_of_the_scheme(browser, site: tuple[str, str, str]) -> None:
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    page.goto(f"{site[0]}/projects/default/endpoints/delay?span=month")
    page.wait_for_selector(".plot .main-svg")
    assert page.locator(".plot").count() == page.locator(".plot:has(.main-svg)").count() >= 4
    fill = "getComputedStyle(document.querySelector('.plot .bars .point path')).fill"
    light = page.evaluate(fill)
    page.emulate_media(color_scheme="dark")
    assert wait_until(lambda: page.evaluate(fill) != light, timeout_s=10)
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--s0').trim()") == "#4cc3d6"
    context.close()


def test_everything_can_be_reached_by_keyboard(browser, site: tuple[str, str, str]) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site[0]}/projects/default")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    reached = set()
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Overview", "Models", "Runs", "Audit"} <= reached
    context.close()
