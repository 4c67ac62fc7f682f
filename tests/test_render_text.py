"""Numbers, foreign text and the places of marks on a chart."""

from __future__ import annotations

import math

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup, escape

from modeldiff_eval.records import Estimate, Example
from modeldiff_eval.render_html import environment
from modeldiff_eval.render_latents import LEVELS, pieces
from modeldiff_eval.render_scale import scale
from modeldiff_eval.render_text import escaped, interval, number, visible, visible_html


def test_marks_sit_where_the_numbers_say() -> None:
    line = scale([Estimate(value=5.0, low=-5.0, high=15.0), Estimate(value=0.0, low=-10.0, high=10.0)])
    mark = line.mark(Estimate(value=5.0, low=-5.0, high=15.0), "up")
    assert mark.x is not None
    assert mark.x1 is not None
    assert mark.x2 is not None
    assert mark.x == pytest.approx((mark.x1 + mark.x2) / 2, abs=0.02)
    zero = next(tick for tick in line.ticks if tick.zero)
    assert zero.x == pytest.approx(line.at(0.0), abs=0.01)
    assert zero.label == "0"
    ten = next(tick for tick in line.ticks if tick.label == "+10")
    assert ten.x - zero.x == pytest.approx(mark.x2 - mark.x, abs=0.02)


def test_absurd_intervals_are_cut_and_say_so() -> None:
    wide = Estimate(value=1.0, low=-1e9, high=1e9)
    line = scale([wide, *[Estimate(value=2.0, low=1.0, high=3.0)] * 5])
    mark = line.mark(wide, "unclear")
    assert (mark.x1, mark.x2, mark.cut_left, mark.cut_right) == (0.0, 100.0, True, True)
    assert line.high < 100


@pytest.mark.parametrize(
    "estimates", [[], [Estimate(value=None, low=None, high=None)], [Estimate(value=0.0, low=0.0, high=0.0)]]
)
def test_a_scale_of_nothing_still_has_a_zero(estimates: list[Estimate]) -> None:
    assert [tick.zero for tick in scale(estimates).ticks].count(True) == 1


def test_numbers() -> None:
    assert number(-5.25, 1) == "\u22125.2"
    assert number(5.3, signed=True) == "+5.3"
    assert number(-0.04, signed=True) == "0.0"
    assert number(0.0, 0) == "0"
    assert number(None) == "\u2014"
    assert number(math.nan) == "\u2014"
    assert number(1221, 0) == "1221"
    assert number(150_000, 0) == "150\u202f000"
    assert interval(Estimate(value=1.0, low=-5.5, high=16.3)) == "\u22125.5 \u2026 +16.3"
    assert interval(Estimate(value=1.0, low=-5.5, high=None)) == "\u22125.5 \u2026 \u2014"
    assert interval(None) == "\u2014" == interval(Estimate(value=1.0, low=None, high=None))


def test_foreign_text_is_made_visible() -> None:
    assert visible("a\u202eb\x1b[31m\ud800\n\t") == "a\u2039RLO\u203ab\u2039ESC\u203a[31m\u2039U+D800\u203a\u21b5\u21e5"
    assert (
        visible("\U0001f469\u200d\U0001f4bb caf\u00e9\u00a0\u6f22")
        == "\U0001f469\u200d\U0001f4bb caf\u00e9\u00a0\u6f22"
    )
    assert visible_html("<b>\u202e") == '<bdi>&lt;b&gt;<span class="ctl">RLO</span></bdi>'
    assert len(visible("x" * 500, limit=100)) == 100


class _OfItsOwn:
    def __html__(self) -> str:
        return "<i>own</i>"


@pytest.mark.parametrize(
    "value",
    ["plain", "<a href='x'>\"&\"</a>", Markup("<b>&amp;</b>"), 3, -0.5, None, True, _OfItsOwn(), "\ud800 caf\u00e9"],
)
def test_escaping_is_that_of_markupsafe(value: object) -> None:
    assert str(escaped(value)) == str(escape(value))


def test_templates_escape_by_it() -> None:
    assert "escaped as escape" in environment().compile("{{ x }}", raw=True)
    assert environment().from_string("{{ x }} {{ y }}").render(x="<b>", y=Markup("<i>")) == "&lt;b&gt; <i>"
    with pytest.raises(UndefinedError):
        environment().from_string("{{ missing }}").render()


def test_example_tokens_are_windowed_and_levelled() -> None:
    tokens = [f" t{i}" for i in range(500)]
    strength = [0.0] * 500
    strength[250], strength[251] = 6.0, 3.0
    found = pieces(Example(text="".join(tokens), tokens=tokens, activations=strength))
    assert [(p.text, p.level) for p in found if p.level] == [(" t250", LEVELS), (" t251", LEVELS // 2)]
    assert found[0].text == "\u2026"
    assert found[-1].text.endswith("\u2026")
    assert len(found) == 5, "quiet neighbours are merged"
    assert [p.text for p in pieces(Example(text="only text", tokens=[], activations=[]))] == ["only text"]
