"""The page in Chromium, offline: it draws everything, asks nobody, and nothing overlaps or sticks out."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dashboards.charts.barriers import SHARPNESS
from dashboards.page.page import write_page
from dashboards.views import overview
from sweeper.storage import tables
from tests.support.fake_sweep import at_knobs, trial, write_sweep
from trainables.result import PlaneRow

pytestmark = pytest.mark.browser

WIDTHS = (1400, 800)
SERVER = "http://sweeps.localhost"
FIGURES = {"gain_mean", "parents", "collapse", "ranking", "decomposition", "curves", "barriers", "progress", "parallel"}
SECTIONS = ("overview", "collapse", "decomposition", "landscape", "search", "trials")

# all drawn markers of a figure, against those in its data
POINTS = """() => [...document.querySelectorAll('.plot')].map(place => [
  place.id,
  place.querySelectorAll('.scatterlayer .point').length,
  place.data.filter(t => (t.mode || '').includes('markers'))
    .reduce((n, t) => n + t.x.filter(v => v !== null).length, 0),
])"""

# pairs of texts of one figure whose boxes cross by more than a pixel
CROSSING_TEXTS = """() => [...document.querySelectorAll('.plot')].flatMap(place => {
  const texts = [...place.querySelectorAll('.main-svg text')].filter(t => t.textContent.trim()).map(t => {
    const b = t.getBoundingClientRect();
    return {text: t.textContent, l: b.left + 1, r: b.right - 1, t: b.top + 1, b: b.bottom - 1};
  }).filter(b => b.r > b.l && b.b > b.t);
  const bad = [];
  texts.forEach((p, i) => texts.slice(i + 1).forEach(q => {
    if (p.l < q.r && q.l < p.r && p.t < q.b && q.t < p.b) bad.push(`${place.id}: ${p.text} | ${q.text}`);
  }));
  return bad;
})"""

# titles of axes that lie over a panel of their figure
COVERING_TITLES = """() => [...document.querySelectorAll('.plot')].flatMap(place => {
  const panels = [...place.querySelectorAll('.gridlayer')].map(g => g.getBoundingClientRect());
  return [...place.querySelectorAll('[class$=title]')].filter(t => {
    const b = t.getBoundingClientRect();
    return panels.some(p => Math.min(b.right, p.right) - Math.max(b.left, p.left) > 1
      && Math.min(b.bottom, p.bottom) - Math.max(b.top, p.top) > 1);
  }).map(t => `${place.id}: ${t.textContent}`);
})"""

# texts of a figure that stick out of it
CUT_TEXTS = """() => [...document.querySelectorAll('.plot')].flatMap(place => {
  const box = place.getBoundingClientRect();
  return [...place.querySelectorAll('.main-svg text')].filter(t => {
    const b = t.getBoundingClientRect();
    const across = b.left >= box.left - 1 && b.right <= box.right + 1;
    return b.width && !(across && b.top >= box.top - 1 && b.bottom <= box.bottom + 1);
  }).map(t => `${place.id}: ${t.textContent}`);
})"""

# cards and tiles that cross one another, and words wider than their box
CROSSING_BOXES = """() => {
  const bad = [];
  for (const kind of ['.card', '.tile']) {
    const boxes = [...document.querySelectorAll(kind)].map(e => e.getBoundingClientRect());
    boxes.forEach((p, i) => boxes.slice(i + 1).forEach(q => {
      if (p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom) bad.push(kind);
    }));
  }
  document.querySelectorAll('h1, h2, h3, p, .value, .banner, nav a').forEach(e => {
    if (e.scrollWidth > e.clientWidth + 1) bad.push(e.textContent);
  });
  return bad;
}"""


@dataclass
class Opened:
    """A loaded page, with what it complained of and what it asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(write_sweep(tmp_path_factory.mktemp("sweep") / "run", trials=60, budget=80))


@pytest.fixture
def look(chromium: Any):
    contexts: list[Any] = []

    def open_at(html: Path, width: int, scheme: str = "light", served: dict[str, str] | None = None) -> Opened:
        view = {"width": width, "height": 900}
        context = chromium.new_context(viewport=view, offline=True, color_scheme=scheme)
        contexts.append(context)
        seen = Opened(context.new_page())
        seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type not in ("log", "info") else None)
        seen.page.on("pageerror", lambda e: seen.errors.append(str(e)))
        seen.page.on("request", lambda r: seen.requests.append(r.url))
        if served is None:
            seen.page.goto(html.resolve().as_uri())
        else:
            whole = {"body": html.read_bytes(), "content_type": "text/html; charset=utf-8", "headers": served}
            seen.page.route(f"{SERVER}/report", lambda route: route.fulfill(**whole))
            seen.page.goto(f"{SERVER}/report")
        drawn = (
            "[...document.querySelectorAll('.plot')].every(p => p.closest('details:not([open])')"
            " || p.querySelector('svg.main-svg .xtick, svg .x2tick'))"
        )
        seen.page.wait_for_function(drawn)
        return seen

    yield open_at
    for context in contexts:
        context.close()


def unfold(page: Any) -> None:
    """Open what is folded, which draws its figures."""
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.wait_for_selector("#plot-parents .point")


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_drawn_in_silence_and_without_a_network(html, look, width):
    seen = look(html, width)
    assert seen.errors == []
    assert [u for u in seen.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    unfold(seen.page)
    points = {name: (drawn, given) for name, drawn, given in seen.page.evaluate(POINTS)}
    assert set(points) >= {f"plot-{k}" for k in FIGURES}
    for name, (drawn, given) in points.items():
        assert drawn == given, name
    # six panels of 60 configurations
    assert points["plot-collapse"] == (360, 360)
    # objective and noise of 60 configurations
    assert points["plot-progress"] == (120, 120)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps_or_sticks_out(html, look, width, scheme):
    page = look(html, width, scheme).page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(CROSSING_BOXES) == []
    assert page.evaluate(CROSSING_TEXTS) == []
    assert page.evaluate(CUT_TEXTS) == []
    assert page.evaluate(COVERING_TITLES) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_landscape_with_planes_and_sharpness(tmp_path, look, width):
    for number in range(12):
        output = at_knobs(number)
        level = 2.0 + (output.result.noises["paper"] or 0.0)
        measured = {f"{name}_{who}": level for name in SHARPNESS for who in "ab"} | {"barrier_excess": -0.1 * level}
        plane = tuple(
            PlaneRow(output.result.digest, output.result.config, x / 4, y / 4, 1 + x * x + y, 2 + x + y * y)
            for x in range(-1, 6)
            for y in range(-1, 6)
        )
        tables.write(tmp_path, replace(output, result=replace(output.result, landscape=measured), plane=plane))
    (tmp_path / "sweep.yaml").write_text("space: fake_space\nobjective: gain_mean\ntrials: 12\n")
    seen = look(write_page(tmp_path), width)
    assert seen.errors == []
    assert seen.page.locator("#landscape .plot").count() == 4
    assert seen.page.locator("#plot-plane .contourlayer path").count() > 5
    assert seen.page.evaluate(CROSSING_TEXTS) == []
    assert seen.page.evaluate(CUT_TEXTS) == []
    assert seen.page.evaluate(COVERING_TITLES) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_page_of_a_service_works_and_is_a_stranger_there(html, look):
    api_results = pytest.importorskip("sweeper.service.api.results")
    seen = look(html, 1400, served={"Content-Security-Policy": api_results.PAGE_POLICY})
    page = seen.page
    assert seen.errors == []
    unfold(page)
    points = {name: (drawn, given) for name, drawn, given in page.evaluate(POINTS)}
    assert set(points) >= {f"plot-{k}" for k in FIGURES}
    assert all(drawn == given for drawn, given in points.values())
    page.locator("nav a[href='#landscape']").click()
    page.wait_for_function("document.getElementById('landscape').getBoundingClientRect().top < 120")
    place = page.locator("#plot-gain_mean")
    place.scroll_into_view_if_needed()
    place.hover()
    with page.expect_download() as saved:
        place.locator(".modebar-btn[data-title*='Download']").click()
    assert saved.value.suggested_filename.endswith(".png")
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")
    # what a script in it would try
    assert page.evaluate("window.origin") == "null"
    for attempt in ("document.cookie", "localStorage.length", "parent.localStorage.length"):
        assert page.evaluate(f"() => {{ try {{ {attempt}; return 'done'; }} catch (e) {{ return e.name; }} }}") == (
            "SecurityError"
        ), attempt
    assert page.evaluate("fetch('/v1/sweeps', {credentials: 'include'}).then(() => 'done', e => e.name)") == "TypeError"
    assert page.evaluate("new Promise(d => { const i = new Image(); i.onload = () => d('done');"
                         " i.onerror = () => d('refused'); i.src = '/v1/me'; })") == "refused"  # fmt: skip
    assert [e for e in seen.errors if "Content Security Policy" not in e] == []
    assert {"Connecting", "Loading"} <= {e.split()[0] for e in seen.errors}
    assert page.evaluate("window.open('/v1/me')") is None


def test_the_trials_sort_filter_and_keep_their_columns(html, look):
    page = look(html, 800).page
    cells = "[...document.querySelectorAll('#trials tbody tr:not([hidden])')].map(r => r.cells[{}].textContent)"
    assert page.evaluate(cells.format(0))[:2] == ["★", ""]
    heads = page.locator("#trials th").all_text_contents()
    size, score = (next(i for i, h in enumerate(heads) if h.startswith(name)) for name in ("B ", "gain, validation"))
    first = [float(v) for v in page.evaluate(cells.format(score)) if v != "–"]
    assert first[1:] == sorted(first[1:], reverse=True)  # as rounded; the star comes first
    page.locator("#trials th").nth(size).click()
    assert page.locator("#trials th").nth(size).get_attribute("aria-sort") == "descending"
    sizes = [float(v) for v in page.evaluate(cells.format(size))]
    assert sizes == sorted(sizes, reverse=True)
    page.locator("#trials th").nth(size).press("Enter")
    assert [float(v) for v in page.evaluate(cells.format(size))] == sizes[::-1]
    page.locator("#trials input").fill("batch_size >= 64")
    kept = [float(v) for v in page.evaluate(cells.format(size))]
    assert kept == sorted(v for v in sizes if v >= 64)
    assert page.locator("#left").text_content() == f"{len(kept)} of {len(sizes)}"
    # several conditions all act, and words may stand beside them
    page.locator("#trials input").fill("B >= 16 batch_size < 64 and noise > 0")
    assert [float(v) for v in page.evaluate(cells.format(size))] == sorted(v for v in sizes if 16 <= v < 64)
    page.locator("#trials input").fill("ok B > 64")
    assert all(float(v) > 64 for v in page.evaluate(cells.format(size)))
    page.locator("#trials input").fill("batch_size >= 64")
    # an invalid filter says so, and the rows stay
    for text, said in (("nothing >= 64", "no column begins with nothing"), ("batch_size >= many", "many is no number"),
                       ("batch_size >=", "a number must follow, as in B >= 32")):  # fmt: skip
        page.locator("#trials input").fill(text)
        assert page.locator("#left").text_content() == f"{said}; the rows stay as they are"
        assert page.locator("#trials tbody tr:visible").count() == len(kept)
    page.locator("#trials input").fill("diverged")
    assert len(page.evaluate(cells.format(0))) == 3
    page.locator("#trials input").fill("")
    assert len(page.evaluate(cells.format(0))) == len(sizes)
    scroll = page.locator("#trials .scroll")
    left = "document.querySelector('#trials tbody td:nth-child(2)').getBoundingClientRect().left"
    before = page.evaluate(left)
    scroll.evaluate("place => { place.scrollLeft = 300; place.scrollTop = 200; }")
    assert page.evaluate(left) == pytest.approx(before, abs=1)
    top = "document.querySelector('#trials th').getBoundingClientRect().top"
    assert page.evaluate(top) == pytest.approx(scroll.bounding_box()["y"], abs=2)


def test_no_button_sends_a_figure_to_a_server(html, look):
    page = look(html, 1400).page
    titles = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert "Zoom" in titles
    assert not [t for t in titles if "Share" in t or "Cloud" in t]


NOTES = tuple(
    f"Note {i}: the weight decay lies at the lower end of its range, and a wider one may be better." for i in range(3)
)
"""As many notes as an answer has at most."""


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_three_notes_keep_badge_card_and_curve_above_the_fold(monkeypatch, tmp_path, look, width, height):
    monkeypatch.setattr(overview, "list_remarks", lambda *_: NOTES)
    page = look(write_page(write_sweep(tmp_path / "run", trials=60, budget=80)), width).page
    page.set_viewport_size({"width": width, "height": height})
    for part in (".badge", "#use", "#plot-gain_mean .gridlayer"):
        assert page.locator(part).first.bounding_box()["y"] < height, part
    box = page.locator("#use").bounding_box()
    assert box["y"] + box["height"] <= height
    notes = page.locator("#use .note")
    assert notes.count() == len(NOTES)
    assert notes.first.is_visible() == (width > 640)
    assert [t for t in page.evaluate(CUT_TEXTS) if t.startswith("plot-gain_mean")] == []
    if width <= 640:
        assert page.locator(".caveats summary").text_content() == "3 notes on this answer"
        page.locator(".caveats summary").click()
        assert notes.last.is_visible()


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_answer_stands_above_the_fold(html, look, width, height):
    page = look(html, width).page
    page.set_viewport_size({"width": width, "height": height})
    settings = ("#use .copy", "#use .choice:not([hidden]) dd")
    for part in (".badge", *settings, "#scores tbody tr:last-child", "#plot-gain_mean .xtick"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= height, part
    assert page.locator(".badge b").text_content() in ("Hump", "Likely", "Undetermined", "No optimum")


def test_a_figure_of_several_panels_scrolls_on_a_phone(html, look):
    page = look(html, 390).page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    width = "document.querySelector('#plot-{} .main-svg').getBoundingClientRect().width"
    for name in ("collapse", "parallel", "ranking"):
        assert page.evaluate(width.format(name)) >= 640
    assert not [
        t for t in page.evaluate(CUT_TEXTS) if t.split(":")[0][5:] in ("progress", "importance", "parallel", "ranking")
    ]
    assert page.evaluate(width.format("progress")) <= 390


def test_the_settings_follow_the_batch_size_and_are_copied(html, look):
    seen = look(html, 1400)
    page = seen.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    sizes = page.locator("#use option").all_text_contents()
    page.locator("#use select").select_option(label=sizes[-1])
    code = page.locator("#use .choice:not([hidden]) code").text_content()
    assert f"batch_size = {sizes[-1]}" in code or f"batch size {sizes[-1]}" in code
    page.locator("#use .copy").click()
    page.wait_for_function("document.querySelector('#use .copy').textContent === 'copied'")
    assert page.evaluate("navigator.clipboard.readText()").strip() == code.strip()
    assert seen.errors == []


def test_folded_parts_draw_when_they_open(html, look):
    page = look(html, 1400).page
    fold = page.locator("details", has=page.locator("#plot-parents"))
    assert not page.locator("#plot-parents .main-svg").count()
    fold.locator("summary").click()
    page.wait_for_selector("#plot-parents .main-svg")
    assert page.locator("#plot-parents .point").count() == 10


def test_the_buttons_of_a_figure_cover_no_legend(html, look):
    page = look(html, 1400).page
    place = page.locator("#plot-progress")
    place.scroll_into_view_if_needed()
    place.hover()
    legend, buttons = (page.locator(f"#plot-progress {part}").first.bounding_box() for part in (".legend", ".modebar"))
    assert legend["y"] + legend["height"] < buttons["y"]


def test_the_links_lead_to_the_sections(html, look):
    page = look(html, 800).page
    assert page.locator("section.view").evaluate_all("all => all.map(s => s.id)") == list(SECTIONS)
    for name in SECTIONS:
        page.locator(f"nav a[href='#{name}']").click()
        page.wait_for_function(f"Math.abs(document.getElementById('{name}').getBoundingClientRect().top - 52) < 60"
                               " || innerHeight + scrollY >= document.body.scrollHeight - 2")  # fmt: skip
        # the links stay at hand
        assert 0 <= page.locator("nav").bounding_box()["y"] < 60


def test_the_page_follows_the_window_and_the_theme(html, look):
    page = look(html, 1400).page
    wide = page.evaluate("document.querySelector('#plot-collapse .main-svg').getBoundingClientRect().width")
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_function("document.querySelector('#plot-collapse .main-svg').getBoundingClientRect().width < 800")
    assert wide > 1200
    ink = "getComputedStyle(document.querySelector('#plot-gain_mean .xtick text')).fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{ink} !== '{light}'")
    assert (light, page.evaluate(ink)) == ("rgb(51, 60, 73)", "rgb(213, 218, 226)")


def test_hovering_a_point_names_its_trial(html, look):
    page = look(html, 1400).page
    assert page.evaluate("document.querySelector('#plot-gain_mean').data.find(t => t.name === 'validation').text[0]")
    # the last trace drawn over the others: a diverged pair
    point = page.locator("#plot-gain_mean .scatterlayer .trace").last.locator(".point").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    text = page.locator("#plot-gain_mean .hoverlayer .hovertext").first
    text.wait_for()
    assert "the loss became nan in step 7" in text.text_content()


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_that_has_just_begun(tmp_path, look, count):
    seen = look(write_page(write_sweep(tmp_path / "run", trials=count, budget=40)), 800)
    assert seen.errors == []
    assert seen.page.evaluate(CROSSING_TEXTS) == []
    assert "not determined" in seen.page.content()


def test_a_run_without_any_trial_shows_words_only(tmp_path, look):
    seen = look(write_page(write_sweep(tmp_path / "run", trials=0, budget=40)), 800)
    assert seen.errors == []
    assert seen.page.locator(".plot").count() == 0
    assert "No trial has finished yet" in seen.page.content()


def test_every_outcome_and_repeats(tmp_path, look):
    run = write_sweep(tmp_path / "run", trials=12, repeats=3, budget=12)
    for number, outcome in ((12, "not_viable"), (13, "failed")):
        tables.write(run, trial(number, outcome=outcome, outcome_detail="a long & <odd> sentence", scores={}))
    seen = look(write_page(run), 800)
    assert seen.errors == []
    caption = seen.page.locator(".curve p").text_content()
    assert all(words in caption for words in ("● validation", "○ test", "◆ not viable", "✚ failed"))
    assert seen.page.locator("#plot-gain_mean .errorbar").count() > 0
    assert seen.page.evaluate(CROSSING_TEXTS) == []
