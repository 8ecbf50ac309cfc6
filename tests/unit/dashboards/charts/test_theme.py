"""Contrast by WCAG 2.1: marks at least 3 to 1, text at least 4.5 to 1, on the cards of both themes."""

import re
from pathlib import Path

import pytest

from dashboards.charts.theme import CARDS, COLD_TO_HOT, CYCLE, TEXTS, THEMES, fade
from dashboards.page import html

PAIR = re.compile(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)")
STYLE = (Path(html.__file__).parent / "page.css").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1 of a colour #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_knows_its_ends() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("colour", [*CYCLE, *COLD_TO_HOT])
def test_marks_show_on_both_cards(colour: str, card: str) -> None:
    assert contrast(colour, card) >= 3.0


@pytest.mark.parametrize("theme", CARDS)
def test_texts_of_figures_and_pages_are_readable(theme: str) -> None:
    side = list(CARDS).index(theme)
    pairs = {name: found[side] for name, *found in PAIR.findall(STYLE)}
    assert pairs["card"] == CARDS[theme]
    assert THEMES[theme]["layout"]["font"]["color"] == TEXTS[theme]
    for name, colour in {"figure": TEXTS[theme], **{k: pairs[k] for k in ("text", "soft", "accent")}}.items():
        for ground in (CARDS[theme], pairs["back"]):
            assert contrast(colour, ground) >= 4.5, (name, ground)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_badges_and_results_are_readable(theme: str) -> None:
    side = ["light", "dark"].index(theme)
    pair = r"light-dark\((#\w{6}), (#\w{6})\)"
    hues = re.findall(rf"\.badge(?:\.[\w-]+)? \{{ --hue: {pair}; --hue-text: {pair}", STYLE)
    assert len(hues) == 4
    for *edges, light, dark in hues:
        assert contrast(edges[side], CARDS[theme]) >= 3.0
        assert contrast((light, dark)[side], mix(edges[side], CARDS[theme], 0.12)) >= 4.5
    results = re.findall(r"td\.\w+ \{ color: light-dark\((#\w{6}), (#\w{6})\)", STYLE)
    assert len(results) == 2
    assert all(contrast(pair[side], CARDS[theme]) >= 4.5 for pair in results)


def mix(colour: str, ground: str, share: float) -> str:
    """The colour that covers `share` of a ground, in sRGB as `color-mix` does."""
    both = [(int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in both)


def test_a_faded_colour_keeps_its_hue() -> None:
    assert fade("#d55e00", 0.16) == "rgba(213, 94, 0, 0.16)"
