"""The curves of a training: where the points lie, what is said about them, and what is said when there are none."""

from __future__ import annotations

import json
import re

import pytest
from sample_pages import CARDS, Page

from modeldiff_eval.records import Card, CrosscoderInfo
from modeldiff_eval.render import render_html, render_markdown
from modeldiff_eval.render_curve import training

ASIDE = {"first": "base", "second": "tuned", "layer": 1, "n_latents": 64, "k": 4, "tokens": 900, "source": "trained"}
CURVE = {
    "rows": [1000, 2000, 4000], "loss": [1.0, 0.5, 0.25], "fve_first": [-0.2, 0.5, 0.78], "fve_second": [0.0, 0.26, 0.52],
    "dead": [0, 9, 3], "steps": 40,
}  # fmt: skip


def crosscoder(**changed: object) -> CrosscoderInfo:
    figures = {"fve_first": 0.52, "fve_second": 0.26, "l0": 4.0, "dead_share": 0.0}
    return CrosscoderInfo.model_validate(ASIDE | figures | {"training": CURVE | changed})


def card(*crosscoders: CrosscoderInfo) -> Card:
    return CARDS["plain"].model_copy(update={"crosscoders": list(crosscoders)})


def trust(html: str) -> str:
    return html[html.index('<h2 id="trust"') : html.index('<h2 id="caveats"')]


def test_points_by_hand() -> None:
    """Rows 0 to 4.2 thousand across; fve 0 to 1.04 up; what is below 0 lies on the axis."""
    made = training(crosscoder())
    loss, fve = made.panels
    assert made.unit == "thousands"
    assert made.cut
    assert [x for x, _ in loss.curves[0].points] == [23.81, 47.62, 95.24]
    assert [y for _, y in loss.curves[0].points] == [4.76, 52.38, 76.19]
    first, second = fve.curves
    assert [y for _, y in first.points] == [100.0, 51.92, 25.0]
    assert [y for _, y in second.points] == [100.0, 75.0, 50.0]
    assert (first.heldout, second.heldout) == (50.0, 75.0)
    assert (first.second, second.second) == (False, True)


@pytest.mark.parametrize(
    ("last", "unit"), [(999, ""), (4000, "thousands"), (2_000_000, "millions"), (10**10, "billions")]
)
def test_rows_have_a_readable_unit(last: int, unit: str) -> None:
    assert training(crosscoder(rows=[1, 2, last])).unit == unit
    words = Page(render_html(card(crosscoder(rows=[1, 2, last])))).text
    assert (f"presented, in {unit}" in words) == bool(unit)


def test_html_draws_and_says_both_models() -> None:
    html = trust(render_html(card(crosscoder())))
    text = Page(f"<div>{html[: html.rindex('</section>')]}</div>").text
    assert "4000 rows presented in 40 steps" in text
    assert "the loss was 0.250 and fve 0.780 / 0.520; on held-out tokens fve is 0.520 / 0.260" in text
    assert "3 of 64 latents had been silent for long (dead) at the end, 9 at most" in text
    assert "it is not held out" in text
    assert "fve below 0 is drawn at 0" in text
    lines = re.findall(r'<g class="s-(off|ink)" stroke="[^"]*" stroke-width="([\d.]+)"([^>]*)>(.*?)</g>', html)
    loss, first, second = ((tone, float(width), rest, body.count("<line")) for tone, width, rest, body in lines)
    assert loss[0] == second[0] == "ink"
    assert "dash" not in loss[2]
    assert first[1] > 2 * second[1]  # told apart by width and dashes, not by tone alone
    assert "dash" in second[2]
    assert {loss[3], first[3], second[3]} == {2}
    aloud = re.findall(r'class="plotted"[^>]*aria-label="([^"]*)"', html)
    assert aloud == [
        "Loss from 1 to 0.25",
        "fve on the training batch, from -0.200 and 0.000 to 0.780 and 0.520",
    ]


def test_one_point_is_a_curve() -> None:
    one = {name: values[-1:] for name, values in CURVE.items() if isinstance(values, list)}
    html = trust(render_html(card(crosscoder(**one))))
    assert html.count("<circle") >= 3
    assert "4000 rows presented" in html


def test_a_crosscoder_without_a_log_says_so() -> None:
    bare = crosscoder().model_copy(update={"training": None})
    html = trust(render_html(card(bare)))
    assert "tuned: no training log came with this crosscoder." in html
    assert 'class="plotted"' not in html
    assert "- Training of base / tuned: no log came with this crosscoder." in render_markdown(card(bare))
    assert "How the training went" not in render_html(card())


def test_markdown_has_one_line() -> None:
    assert (
        "- Training of base / tuned: 4000 rows presented; fve 0.780 / 0.520 on the last training batch, 0.520 / 0.260 held out.\n"
        in render_markdown(card(crosscoder()))
    )


def test_a_card_of_before_still_loads_and_a_new_one_comes_back_equal() -> None:
    whole = CARDS["full"]
    assert Card.model_validate_json(whole.to_json()) == whole
    old = json.loads(whole.to_json())
    for info in old["crosscoders"]:
        del info["training"]
    loaded = Card.model_validate(old)
    assert [info.training for info in loaded.crosscoders] == [None, None]
    assert trust(render_html(loaded)).count("no training log came") == 2
