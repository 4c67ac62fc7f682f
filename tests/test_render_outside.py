"""What the pages say about agreement, other days of the arena, and fitted ratings."""

from __future__ import annotations

import sample_cards

from modeldiff_eval import render_outside
from modeldiff_eval.records import Arena, Card
from modeldiff_eval.render_html import render_html
from modeldiff_eval.render_markdown import render_markdown

EVIL = "<b>evil</b>"


def _card() -> Card:
    data = sample_cards.full_card().model_dump(mode="json", by_alias=True)
    estimate = {"value": 0.5, "low": -0.25, "high": 0.75}
    data["agreement"] = [
        {
            "class": "A",
            "category_or_task": "toxicity",
            "latent_verdict": "up",
            "outside_verdict": "down",
            "agrees": False,
            "reversed": True,
        }
    ]
    data["rank_correlations"] = [
        {"of": "arena", "n": 9, "classes": 5, "value": estimate, "note": EVIL},
        {
            "of": "benchmarks",
            "n": 1,
            "classes": 1,
            "value": {"value": None, "low": None, "high": None},
            "note": "too few",
        },
    ]
    arena = data["arena"]
    arena |= {"kind": "battles", "scale": EVIL, "snapshot": "2024-06-01"}
    arena["style"] = [{"feature": EVIL, "shrunken": estimate, "unpenalised": None}]
    arena["other_snapshots"] = [{"snapshot": "2024-03-01", "rows": arena["rows"][:1]}]
    return Card.model_validate(data)


def test_the_pages_show_agreement_and_the_arena_on_other_days() -> None:
    card = _card()
    for page in (render_html(card), render_markdown(card)):
        assert render_outside.REVERSED in page
        assert "9 pairs of 5 classes" in page
        assert "not measured over 1 pairs" in page
        assert "Ratings fitted to battles" in page
        assert EVIL not in page
    assert "2024-03-01" in render_html(card)
    assert "2024\\-03\\-01" in render_markdown(card) or "2024-03-01" in render_markdown(card)


def test_one_snapshot_makes_no_table_and_a_day_without_a_row_says_so() -> None:
    arena = _card().arena
    assert isinstance(arena, Arena)
    dates, rows = render_outside.snapshot_rows(arena)
    assert dates == ["2024-03-01", "2024-06-01"]
    assert len(arena.rows) == 1 or any(row[1] == "not listed" for row in rows)
    assert render_outside.snapshot_rows(arena.model_copy(update={"other_snapshots": []})) == ([], [])
