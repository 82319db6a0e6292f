"""The report's page in a real browser: what a person sees, points at, clicks and types."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, Browser, Element
from summaries import failed, summary

from hydrapress_registry.frontier import nondominated
from hydrapress_reports.contents import Contents, Point
from hydrapress_reports.gather import contents_of
from hydrapress_reports.page import page

pytestmark = [pytest.mark.slow, BROWSER]

HOSTILE = (
    "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b> {{data}} \u2028 ✂ " + "long " * 20
)
SMALLER = {"size_bytes": True, "latency_ms_p50": True, "macs": True, "accuracy": False, "speedup": False}
BACKENDS = ("onnxruntime-cpu", "litert-cpu", "torch-eager")
READY = "document.querySelector('#frontier').dataset.ready === 'true'"


def made_up(count: int = 60, seed: int = 5) -> tuple[Point, ...]:
    """Give models on backends, with ties, without some metrics, and with intervals."""
    noise = random.Random(seed)
    found = []
    for index in range(count):
        share = noise.choice((0.1, 0.25, 0.5, 0.75, 1.0))
        latency = round(0.02 + share * noise.uniform(0.02, 0.2), 4)
        metrics = {
            "accuracy": round(0.9 + 0.08 * share**0.3 - noise.choice((0.0, 0.01, 0.03)), 3),
            "size_bytes": round(400_000 * share * noise.choice((0.5, 1.0))),
            "latency_ms_p50": latency,
            "latency_ms_ci_low": latency * 0.97,
            "latency_ms_ci_high": latency * 1.04,
            "speedup": round(0.3 / latency, 3),
            "macs": round(300_000 * share),
        }
        if index % 7 == 3:
            del metrics["macs"]
        if index % 11 == 4:
            metrics = {"accuracy": metrics["accuracy"]}
        found.append(
            Point(
                id=f"made/{index}",
                run=None,
                title=f"seed={index} model {index}",
                pipeline="train → prune → int8",
                model="int8",
                backend=noise.choice(BACKENDS),
                threads=1,
                batch_size=1,
                scenario="single_stream",
                format=noise.choice(("onnx", "tflite")),
                metrics=metrics,
                verdict="no difference from 'onnx'" if index % 2 else "",
                reasons=("the intervals overlap",),
                hardware="Examplecorp E-2000 @ 2.00GHz",
                command=f"hydrapress model=lenet5 seed={index}",
            )
        )
    return tuple(found)


def report() -> Contents:
    """Give a report with all that one may hold: two good jobs, a failed one, and hostile names."""
    given = contents_of([summary(0), summary(1, label=HOSTILE), failed(2)], title=HOSTILE, subtitle="by hand")
    broken = dataclasses.replace(
        made_up(1)[0],
        id="broken",
        title="crashed",
        metrics={"accuracy": 0.91},
        problem="the worker was killed by signal 11",
    )
    return dataclasses.replace(given, points=(*given.points, *made_up(), broken))


@dataclasses.dataclass(frozen=True)
class Shown:
    """The report in the browser."""

    browser: Browser
    contents: Contents

    def ids(self) -> list[str]:
        """The rows of the table, from above."""
        script = (
            "return [...document.querySelectorAll('#points-table [data-row-id]')].map(r => r.dataset.rowId)"
        )
        return list(self.browser.run(script))

    def drawn(self, role: str) -> list[str]:
        """The points that plotly has drawn, by their role."""
        script = """return document.querySelector('#frontier').data
            .filter(t => t.meta.role === arguments[0]).flatMap(t => t.customdata)"""
        return list(self.browser.run(script, role))

    def marks(self) -> int:
        """How many symbols there are to be seen in the plot."""
        return int(
            self.browser.run(
                "return document.querySelectorAll('#frontier .scatterlayer .points path').length"
            )
        )

    def choose_axes(self, x: str, y: str) -> None:
        """Switch both axes, and wait for the plot."""
        self.browser.find("#axis-x").choose(x)
        self.browser.find("#axis-y").choose(y)
        at = (
            "(d => d.x === arguments[0] && d.y === arguments[1])(document.querySelector('#frontier').dataset)"
        )
        self.browser.wait_until(at, x, y)

    def filter_text(self, text: str) -> None:
        """Type into the filter, and wait for the plot."""
        self.browser.find("#filter-text").type(text)
        self.settled()

    def settled(self) -> None:
        """Wait until the plot shows the rows that pass the filter."""
        self.browser.wait_until(
            "document.querySelector('#frontier-sentence').textContent.includes("
            "' of ' + Number(document.querySelector('#frontier').dataset.shown).toLocaleString('en') + ' ')"
        )

    def expected(self, x: str, y: str, points: tuple[Point, ...] | None = None) -> set[str]:
        """The frontier, by the registry's own reckoning."""
        having = [p for p in points or self.contents.points if x in p.metrics and y in p.metrics]
        values = np.array([[p.metrics[x], p.metrics[y]] for p in having])
        return {having[i].id for i in nondominated(values, [SMALLER[x], SMALLER[y]])}

    def spot(self, id_: str) -> tuple[Element, int, int]:
        """Where a point is: the plot, and pixels right of and below its middle."""
        script = """const plot = document.querySelector('#frontier'), box = plot.getBoundingClientRect();
            const {xaxis, yaxis} = plot._fullLayout;
            for (const trace of plot.data) {
              const index = (trace.customdata ?? []).indexOf(arguments[0]);
              if (index >= 0) return [xaxis.d2p(trace.x[index]) + xaxis._offset - box.width / 2,
                                      yaxis.d2p(trace.y[index]) + yaxis._offset - box.height / 2];
            }"""
        x, y = self.browser.run(script, id_)
        return self.browser.find("#frontier"), round(x), round(y)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(1400, 1000) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(report()), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser: Browser, file: Path) -> Iterator[Shown]:
    browser.resize(1400, 1000)
    browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    browser.open(file.as_uri())
    browser.run("localStorage.clear()")
    browser.open(file.as_uri())
    browser.wait_until(READY)
    yield Shown(browser, report())
    # whatever a test did: no script failed, and nothing was asked for beyond the file itself
    assert browser.messages() == ()
    assert browser.foreign() == ()


def test_the_frontier_is_drawn_and_its_strong_points_are_the_non_dominated_ones(shown: Shown) -> None:
    data = shown.browser.run("return {...document.querySelector('#frontier').dataset}")
    strong = shown.drawn("frontier")
    assert set(strong) == shown.expected(data["x"], data["y"])
    assert len(strong) == int(data["frontier"]) > 2
    assert shown.marks() == int(data["shown"]) == len(strong) + len(shown.drawn("dominated"))
    marked = shown.browser.run(
        "return [...document.querySelectorAll('#points-table .is-frontier')].map(r => r.dataset.rowId)"
    )
    assert set(marked) == set(strong) & set(shown.ids())
    assert len(shown.browser.run("return document.querySelector('#frontier').data[0].x")) >= len(strong)


def test_pointing_at_a_dot_shows_its_pipeline_its_values_and_its_command(shown: Shown) -> None:
    chosen = next(p for p in shown.contents.points if p.id in shown.drawn("frontier") and "made" in p.id)
    shown.browser.hover(*shown.spot(chosen.id))
    card = shown.browser.wait_for("#hover-card", chosen.title)
    assert chosen.pipeline in card.text
    assert chosen.command in card.text
    assert chosen.backend in card.text
    assert f"{chosen.metrics['accuracy']:.4f}" in card.text
    shown.browser.hover(shown.browser.find("h1"))
    shown.browser.wait_until("document.querySelector('#hover-card').hidden")


@pytest.mark.parametrize(
    ("x", "y"), [("latency_ms_p50", "accuracy"), ("macs", "size_bytes"), ("speedup", "accuracy")]
)
def test_other_axes_have_other_titles_and_their_own_frontier(shown: Shown, x: str, y: str) -> None:
    titles = "return ['x', 'y'].map(a => document.querySelector(`#frontier .${a}title`).textContent)"
    before = shown.browser.run(titles)
    shown.choose_axes(x, y)
    names = {
        "latency_ms_p50": "Median latency, ms",
        "macs": "MACs",
        "size_bytes": "Size",
        "accuracy": "Accuracy",
        "speedup": "Speed-up",
    }
    after = shown.browser.run(titles)
    assert after != before
    for title, name in zip(after, (x, y), strict=True):
        assert title == f"{names[name]}  ({'less' if SMALLER[name] else 'more'} is better)"
    assert set(shown.drawn("frontier")) == shown.expected(x, y)


def test_a_column_sorts_the_rows_both_ways_with_blanks_last(shown: Shown) -> None:
    shown.browser.find("#page-size").choose("100")
    values = {p.id: p.metrics.get("size_bytes") for p in shown.contents.points}
    for way, descending in (("ascending", False), ("descending", True)):
        shown.browser.click("#points-table [data-sort=size_bytes]")
        ids = shown.ids()
        assert len(ids) == len(values)
        sizes = [values[i] for i in ids]
        known = [size for size in sizes if size is not None]
        assert known == sorted(known, reverse=descending)
        assert set(sizes[len(known) :]) == {None}
        head = shown.browser.find("#points-table th:has([data-sort=size_bytes])")
        assert head.attribute("aria-sort") == way
    announcer = shown.browser.find("#announcer").property("textContent")
    assert announcer == "Sorted by Size, descending."


def test_a_text_reduces_rows_and_points(shown: Shown) -> None:
    every = len(shown.contents.points)
    shown.filter_text("seed=17")
    passing = [p for p in shown.contents.points if "seed=17" in p.title or "seed=17" in p.command]
    assert sorted(shown.ids()) == sorted(p.id for p in passing)
    assert shown.browser.find("#table-count").text == f"{len(passing)} of {every} rows"
    assert shown.drawn("frontier") == [p.id for p in passing if "size_bytes" in p.metrics]
    assert shown.marks() == 1
    shown.browser.click("#filter-reset")
    shown.settled()
    assert shown.browser.find("#table-count").text == f"{every} rows"
    shown.browser.wait_until("Number(document.querySelector('#frontier').dataset.shown) > 1")
    shown.filter_text("nothing is called so")
    assert shown.browser.find("#table-count").text == f"None of {every} rows passes the filter."


def test_a_backend_and_the_frontier_alone_can_be_chosen(shown: Shown) -> None:
    shown.browser.find("#page-size").choose("100")
    shown.browser.find("#filter-backend").choose("litert-cpu")
    shown.browser.wait_until(
        "new Set(document.querySelector('#frontier').data.flatMap(t => t.customdata ?? [])).size < 40"
    )
    points = tuple(p for p in shown.contents.points if p.backend == "litert-cpu")
    assert sorted(shown.ids()) == sorted(p.id for p in points)
    x, y = (shown.browser.find(f"#axis-{letter}").property("value") for letter in "xy")
    expected = shown.expected(x, y, points)
    assert set(shown.drawn("frontier")) == expected
    shown.browser.click("#filter-frontier")
    shown.browser.wait_until("document.querySelectorAll('#points-table [data-row-id]').length < 20")
    assert set(shown.ids()) == expected


def test_the_keyboard_walks_over_the_points_and_opens_a_row(shown: Shown) -> None:
    shown.browser.run("document.querySelector('#frontier').focus()")
    x = shown.browser.find("#axis-x").property("value")
    told = []
    for key in ("Home", "ArrowRight", "ArrowUp", "End"):
        shown.browser.press(key)
        told.append(shown.browser.find("#announcer").property("textContent"))
    assert len(set(told)) == len(told)
    assert "on the frontier" in told[2]
    values = {p.id: p.metrics[x] for p in shown.contents.points if x in p.metrics}
    last = shown.browser.find("#hover-card").attribute("data-id")
    assert last is not None
    assert values[last] == max(values.values())
    assert shown.browser.find("#ring").shown
    shown.browser.press("Enter")
    row = shown.browser.wait_for("#points-table tr.is-selected.is-open")
    assert row.attribute("data-row-id") == last
    assert shown.browser.run("return arguments[0].contains(document.activeElement)", row)
    (detail,) = shown.browser.find_all("#points-table tr.detail")
    command = next(p.command for p in shown.contents.points if p.id == last)
    assert command in detail.text


def test_a_click_on_a_dot_finds_its_row(shown: Shown) -> None:
    chosen = next(i for i in shown.drawn("frontier") if i.startswith("made"))
    element, x, y = shown.spot(chosen)
    shown.browser.hover(element, x, y)
    shown.browser.press_mouse()
    row = shown.browser.wait_for("#points-table tr.is-selected")
    assert row.attribute("data-row-id") == chosen
    assert shown.browser.run(
        "const b = arguments[0].getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight", row
    )


def test_enter_opens_a_row_to_its_verdict_reasons_command_and_metrics(shown: Shown) -> None:
    shown.filter_text("model 21")
    toggle = shown.browser.find("#points-table .row-toggle")
    shown.browser.run("arguments[0].focus()", toggle)
    shown.browser.press("Enter")
    detail = shown.browser.wait_for("#points-table tr.detail")
    chosen = next(p for p in shown.contents.points if p.title == "seed=21 model 21")
    for text in (chosen.verdict, *chosen.reasons, chosen.command, chosen.hardware, chosen.pipeline):
        assert text in detail.text
    assert shown.browser.focused.attribute("aria-expanded") == "true"
    shown.browser.press("Enter")
    assert shown.browser.find_all("#points-table tr.detail") == []


def test_every_control_has_a_name_and_is_reached_by_tab(shown: Shown) -> None:
    nameless = shown.browser.run(
        """return [...document.querySelectorAll('button, input, select, summary')]
           .filter(e => e.getClientRects().length)
           .filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
           .map(e => e.outerHTML)"""
    )
    assert nameless == []
    shown.browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    seen = []
    for _ in range(12):
        shown.browser.press("Tab")
        seen.append(shown.browser.run("return document.activeElement.id || document.activeElement.className"))
    assert seen[0] == "skip"
    for wanted in ("theme-toggle", "filter-text", "filter-backend", "axis-x", "axis-y", "frontier"):
        assert wanted in seen
    outline = shown.browser.focused.style("outline-style"), shown.browser.focused.style("box-shadow")
    assert outline != ("none", "none")


def contrasts(browser: Browser) -> dict[str, float]:
    """Give the contrast of each kind of text that is shown with what is behind it (WCAG 2.1)."""
    return dict(
        browser.run(
            """const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
            const rgba = css => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = css; pen.fillRect(0, 0, 1, 1);
              return [...pen.getImageData(0, 0, 1, 1).data]; };
            const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
            const over = (a, b) => a.slice(0, 3).map((v, i) => v * a[3] / 255 + b[i] * (1 - a[3] / 255));
            const behind = e => { const layers = [];
              for (; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
              return layers.reverse().reduce((below, each) => over(each, below), [255, 255, 255]); };
            const found = {};
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
              const e = walk.currentNode.parentElement;
              if (!walk.currentNode.textContent.trim()
                  || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})
                  || e.closest('svg, script, style, .hidden, [disabled], .skip, .heat')) continue;
              const ground = behind(e), ink = over(rgba(getComputedStyle(e).color), ground);
              const [a, b] = [light(ink), light(ground)];
              const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
              const name = `${e.tagName.toLowerCase()}.${e.className} in ${e.parentElement.className}`;
              found[name] = Math.min(found[name] ?? 99, ratio);
            }
            return found"""
        )
    )


def test_the_toggle_darkens_the_page_and_all_text_stays_legible(shown: Shown) -> None:
    def ground() -> str:
        return shown.browser.find("body").style("background-color")

    light = ground()
    shown.browser.click("#points-table .row-toggle")
    assert {k: v for k, v in contrasts(shown.browser).items() if v < 4.5} == {}
    inked = shown.browser.find("#frontier .xtitle").style("fill")
    shown.browser.click("#theme-toggle")
    assert shown.browser.find("#theme-toggle").attribute("aria-pressed") == "true"
    assert ground() != light
    assert {k: v for k, v in contrasts(shown.browser).items() if v < 4.5} == {}
    shown.browser.wait_until(
        "getComputedStyle(document.querySelector('#frontier .xtitle')).fill !== arguments[0]", inked
    )
    shown.browser.run("location.reload()")
    shown.browser.wait_until(READY)
    assert ground() != light, "the choice is remembered"


def test_a_dark_system_gets_a_dark_page(shown: Shown) -> None:
    light = shown.browser.find("body").style("background-color")
    shown.browser.prefer(prefers_color_scheme="dark")
    shown.browser.wait_until("getComputedStyle(document.body).backgroundColor !== arguments[0]", light)
    assert {k: v for k, v in contrasts(shown.browser).items() if v < 4.5} == {}


def test_on_a_phone_nothing_hangs_over_the_edge(shown: Shown) -> None:
    shown.browser.resize(360, 740)
    shown.browser.wait_until("document.querySelector('#frontier').clientWidth <= 360")
    shown.browser.wait_until(
        "document.querySelector('#frontier .main-svg').getBoundingClientRect().width <= 360"
    )
    for details in shown.browser.find_all("#jobs details[data-job]"):
        shown.browser.run("arguments[0].open = true", details)
    shown.browser.click("#points-table .row-toggle")
    width, view = shown.browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= view == 360
    small = shown.browser.run(
        """return [...document.querySelectorAll('main p, main td, main th, main label, main button')]
           .filter(e => e.getClientRects().length && e.textContent.trim())
           .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.className || e.tagName)"""
    )
    assert small == []


def test_hostile_names_are_shown_as_text(shown: Shown) -> None:
    assert "</script><img src=x onerror=" in shown.browser.find("h1").text
    assert "<b>bold</b> {{data}}" in shown.browser.find("h1").text
    shown.filter_text("onerror")
    assert "</script><img src=x" in shown.browser.find("#points-table").text
    shown.browser.hover(*shown.spot(shown.drawn("frontier")[0]))
    shown.browser.wait_for("#hover-card", "</script><img src=x")
    assert shown.browser.find_all("img") == []
    assert shown.browser.find_all("main b") == []
    assert shown.browser.title.startswith("</script><img")


def test_failed_jobs_and_models_without_metrics_are_shown_as_such(shown: Shown) -> None:
    shown.browser.find("#filter-problems").choose("only")
    shown.browser.wait_until("document.querySelectorAll('#points-table [data-row-id]').length < 10")
    assert "broken" in shown.ids()
    row = shown.browser.find('[data-row-id="broken"]')
    assert "not measured" in row.text
    row.find(".row-toggle").click()
    assert "the worker was killed by signal 11" in shown.browser.wait_for("tr.detail").text
    run = next(r for r in shown.contents.runs if r.error)
    job = shown.browser.wait_for("#jobs", str(run.label))
    failures = [d for d in job.find_all("details[data-job]") if "failed" in d.text.lower()]
    assert len(failures) == 1
    shown.browser.run("arguments[0].open = true", failures[0])
    assert str(run.error) in " ".join(failures[0].text.split())


def test_each_job_shows_its_graph_its_layers_and_its_environment(shown: Shown) -> None:
    job = shown.browser.wait_for("#jobs details[data-job='0']")
    shown.browser.run("arguments[0].open = true", job)
    run = shown.contents.runs[0]
    shown.browser.wait_until("document.querySelectorAll(\"details[data-job='0'] g[data-stage]\").length > 0")
    stages = {each.attribute("data-stage") for each in job.find_all("g[data-stage]")}
    assert stages == {stage.id for stage in run.stages}
    for stage in run.stages[:2]:
        text = shown.browser.run(
            "return arguments[0].querySelector(`g[data-stage='${arguments[1]}']`).textContent", job, stage.id
        )
        assert stage.id in text
    assert job.find(".heat").shown
    assert "features.0.weight" in str(job.property("textContent"))
    for text in (run.command, str(run.environment.hardware["cpu"]), "2.13.0"):
        assert text in str(job.property("textContent"))
    shown.browser.wait_until(
        "document.querySelectorAll(\"details[data-job='0'] .curves .main-svg\").length > 0"
    )


def test_each_backend_has_its_own_small_plot(shown: Shown) -> None:
    figures = shown.browser.find_all("#multiples figure[data-backend]")
    assert {f.attribute("data-backend") for f in figures} == {
        p.backend or "not measured" for p in shown.contents.points
    }


@pytest.mark.parametrize("count", [0, 1])
def test_a_report_of_nothing_and_of_one_point_is_shown_too(
    browser: Browser, tmp_path: Path, count: int
) -> None:
    contents = Contents(
        title="Small", subtitle="", metric="accuracy", greater_is_better=True, points=made_up(count)
    )
    path = tmp_path / "small.html"
    path.write_text(page(contents), encoding="utf-8")
    browser.open(path.as_uri())
    if count:
        browser.wait_until(READY)
        assert browser.find("#frontier").attribute("data-frontier") == "1"
    else:
        assert browser.wait_for("#table-count").text == "No model was measured."
        assert not browser.find("#frontier-section").shown
    assert browser.find("h1").text == "Small"
    assert browser.messages() == ()


def test_the_page_works_in_a_sandboxed_frame_without_storage(
    browser: Browser, file: Path, tmp_path: Path
) -> None:
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe sandbox="allow-scripts" src="{file.as_uri()}" width=1200 height=900></iframe>')
    browser.open(outer.as_uri())
    with browser.in_frame(browser.find("iframe")):
        browser.wait_until(READY)
        browser.click("#theme-toggle")
        assert browser.find("#theme-toggle").attribute("aria-pressed") == "true"
        assert re.search(r"\d+ rows", browser.find("#table-count").text)
    assert browser.messages() == ()
