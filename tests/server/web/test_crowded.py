"""A large workspace in a real Chromium: pages of ten thousand metrics and a hundred runs stay small, and lead to everything."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import world
from tests.server.web import chromium
from tests.server.web.crowded import LAYERS, LONG_POINTS, METRICS, Crowd, crowd
from tidemill.core.clock import elapsed, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
HTML_MAX = 300_000  # bytes of a page as it comes
NODES_MAX = 9000  # elements of a page, with the charts that are in view


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Crowd]]:
    with world.workspace(tmp_path_factory.mktemp("crowded") / "home") as ws:
        filled = crowd(ws)
        with chromium.served(ws) as url:
            yield f"{url}/projects/default", filled


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.browser() as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that has nothing to complain about."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    made = context.new_page()
    said: list[str] = []
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(str(error)))
    yield made
    context.close()
    assert not said


def opened(page: Any, url: str, *, usable: str) -> None:
    """Open a page, wait until something on it can be used, and tell how long that took; it must be small."""
    began = elapsed()
    answer = page.goto(url)
    page.wait_for_selector(usable)
    took = elapsed() - began
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    name = url.partition("/default")[2][:50]
    print(f"{name}: {took * 1000:.0f} ms, first painted at {painted} ms, {len(answer.body())} bytes, {nodes(page)} elements")  # noqa: T201 (read with -s)
    assert answer.status == 200
    assert len(answer.body()) < HTML_MAX
    assert nodes(page) < NODES_MAX


def nodes(page: Any) -> int:
    found: int = page.evaluate("document.querySelectorAll('*').length")
    return found


def drawn(page: Any) -> int:
    found: int = page.locator(".plot .main-svg:first-child").count()
    return found


def test_a_run_of_ten_thousand_metrics_is_drawn_where_one_looks(page: Any, site: tuple[str, Crowd]) -> None:
    url, filled = site
    for _ in range(2):  # the first time, the browser has yet to read the script that draws
        opened(page, f"{url}/runs/{filled.large}", usable=".plot .main-svg")
    assert "10\u202f002" in page.locator("#metrics h2").inner_text()
    cards = page.locator("[data-chart-from]").count()
    assert cards == 24
    assert wait_until(lambda: page.locator("[data-near]").count() == drawn(page) > 0, timeout_s=20)
    assert drawn(page) < cards
    last = page.locator("#metrics figure").last
    last.scroll_into_view_if_needed()
    assert wait_until(lambda: last.locator(".main-svg").count() > 0, timeout_s=20)
    page.locator("#tags").scroll_into_view_if_needed()
    assert wait_until(lambda: drawn(page) < cards, timeout_s=20)
    assert nodes(page) < NODES_MAX


def test_metrics_are_found_by_name_by_group_and_by_turning_pages(page: Any, site: tuple[str, Crowd]) -> None:
    url, filled = site
    page.goto(f"{url}/runs/{filled.large}")
    seen = page.locator("#metrics h3").all_inner_texts()
    page.get_by_text("Next metrics").click()
    page.wait_for_url("**metrics=*")
    assert not set(seen) & set(page.locator("#metrics h3").all_inner_texts())
    page.get_by_text("First metrics").click()
    page.get_by_role("link", name="probe/", exact=False).click()
    page.wait_for_url("**under=probe*")
    assert page.locator("#metrics h2").inner_text().startswith(f"Metrics {LAYERS} of")
    assert page.locator("#metrics h3").first.inner_text() == "probe/0"
    page.get_by_role("link", name="all", exact=True).click()
    page.get_by_role("searchbox").fill("weight.7/ layer.39")
    page.get_by_role("button", name="Find").click()
    page.wait_for_url("**find=*")
    assert page.locator("#metrics h3").all_inner_texts() == [f"layer.{number}/weight.7/norm" for number in (39, *range(390, 400))]
    assert page.locator("#params").get_by_text("None fits.").is_visible()


def test_a_million_points_are_drawn_with_their_extremes(page: Any, site: tuple[str, Crowd]) -> None:
    url, filled = site
    page.goto(f"{url}/runs/{filled.large}?find=train/loss")
    page.wait_for_selector(".plot .main-svg")
    page.get_by_role("link", name="train/loss").click()
    page.wait_for_selector(".large .plot .main-svg")
    stats = page.locator(".stats").inner_text()
    assert "9.5" in stats
    assert f"{LONG_POINTS:,}".replace(",", "\u202f") in stats
    points, high = page.evaluate("(d => [d[0].y.length, Math.max(...d[0].y)])(document.querySelector('.plot').data)")
    assert points <= 1000
    assert high == 9.5
    page.get_by_text("Numbers").click()
    assert page.locator("details tbody tr").count() <= 200
    opened(page, page.url, usable=".plot .main-svg")


def test_many_params_and_long_values_take_little_room(page: Any, site: tuple[str, Crowd]) -> None:
    url, filled = site
    page.goto(f"{url}/runs/{filled.large}?find=prompt")
    cell = page.locator("#params td")
    assert len(cell.inner_text()) < 400
    cell.get_by_text("letters").click()
    page.wait_for_url("**/text?*")
    assert len(page.locator("pre").inner_text()) == len("You are a careful forecaster. ") * 200
    page.goto(f"{url}/runs/{filled.large}")
    assert page.locator("#params tr").count() == page.locator("#files tr").count() == 30
    page.get_by_text("Next files").click()
    page.wait_for_url("**files=*")
    assert page.locator("#files th").first.inner_text() == "checkpoints/step-30.txt"


def test_the_list_of_a_thousand_runs_is_turned_sorted_and_filtered(page: Any, site: tuple[str, Crowd]) -> None:
    url, filled = site
    opened(page, f"{url}/runs", usable="table.runs")
    names = page.locator("table.runs tbody th a")
    assert names.count() == 100
    assert page.locator(f'a[href$="{filled.newest}"]').is_visible()
    page.get_by_text("Next page").click()
    page.wait_for_url("**page=*")
    assert names.first.inner_text() == "trial 1100"
    page.get_by_role("link", name="auc").click()
    page.wait_for_url("**order=*")
    shown = [float(text) for text in page.locator("table.runs tbody td:nth-child(7)").all_inner_texts()]
    assert len(shown) == 100
    assert shown == sorted(shown, reverse=True)
    page.get_by_label("Experiment").fill("sweep-1")
    page.get_by_label("Filter").fill("params.depth = '3' AND metrics.auc < 2")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**experiment=sweep-1*")
    assert 0 < names.count() <= 100
    assert set(page.locator("table.runs tbody tr td:nth-child(3)").all_inner_texts()) == {"sweep-1"}
    page.get_by_label("Filter").fill("auc")
    page.get_by_role("button", name="Show").click()
    assert page.get_by_text("filter was not understood at character").is_visible()


def test_a_hundred_runs_are_compared(page: Any, site: tuple[str, Crowd]) -> None:
    url, _ = site
    page.goto(f"{url}/runs?experiment=sweep-0")
    compare = page.locator("[data-chosen]")
    assert compare.is_disabled()
    page.get_by_label("choose all").check()
    assert compare.inner_text() == "Compare 100"
    compare.click()
    page.wait_for_selector(".plot .main-svg")
    assert page.locator("h1").inner_text() == "100 runs compared"
    opened(page, page.url, usable=".plot .main-svg")
    assert page.evaluate("document.querySelector('.plot').data.length") == 100
    assert page.locator("#metrics h2").inner_text() == f"Metrics {METRICS}"
    assert page.locator("#metrics thead th").count() == 101
    assert page.locator("#params tbody th").all_inner_texts() == ["depth", "optimiser", "rate"]
    page.get_by_text("Next metrics").click()
    page.wait_for_url("**metrics=*")
    page.locator("#metrics tbody th a").last.click()
    page.wait_for_selector(".plot .main-svg")
    assert page.locator("#chart h3").inner_text() == "fold.9/loss"
    page.get_by_role("searchbox").fill("data")
    page.get_by_label("what is the same too").check()
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**everything=yes*")
    assert page.locator("#params tbody th").all_inner_texts() == ["data"]
