"""What of a card is a metric of lm-eval's table."""

from __future__ import annotations

from typing import Any

import pytest
from sample_cards import full_card

from modeldiff_eval.harness_metrics import card_metrics
from modeldiff_eval.records import Card, DifferenceInfo

DIFFERENCE = {"n_latents": 64, "k": 4, "tokens": 1000, "energy_share": 0.01, "l0": 4.0, "dead_share": 0.0}


def counted(card: Card, side: str = "tuned", **latents: int) -> Card:
    """The card with other latent counts of one side."""
    changed = getattr(card.latents, side).model_copy(update=latents)
    return card.model_copy(update={"latents": card.latents.model_copy(update={side: changed})})


def first_class(card: Card, **changes: Any) -> Card:
    """The card with another first class."""
    return card.model_copy(
        update={"classes": [card.classes[0].model_copy(update=changes), *card.classes[1:]]}
    )  # fmt: skip


def test_every_metric_of_a_class_is_the_cards_number() -> None:
    card = full_card()
    row, values = card.classes[0], card_metrics(card).values
    assert row.diff.low is not None
    assert row.diff.high is not None
    assert row.activation is not None
    assert (values["A_base"], values["A_tuned"], values["A_diff"]) == (row.base.share, row.tuned.share, row.diff.value)
    assert values["A_diff_stderr"] == pytest.approx((row.diff.high - row.diff.low) / 3.919928)
    assert values["A_activation"] == row.activation.change.value
    assert values["A_activation_stderr"] == pytest.approx(10 / 3.919928), "the interval is 5 to either side"
    assert list(values).index("A_diff_stderr") == list(values).index("A_diff") + 1, "after its metric"
    assert "A_base_stderr" not in values


def test_counts_travel_with_what_the_shares_are_of() -> None:
    values = card_metrics(full_card()).values
    assert (values["specific_base"], values["specific_tuned"]) == (113, 92)
    assert (values["annotated_base"], values["annotated_tuned"]) == (112, 89)
    assert all(isinstance(values[name], int) for name in ("specific_base", "annotated_tuned"))


def test_a_class_that_is_not_covered_is_left_out_and_said() -> None:
    metrics = card_metrics(full_card())
    assert not [name for name in metrics.values if name.startswith("B_")]
    assert {name for name, why in metrics.absent.items() if "does not reach" in why} == {
        "B_base", "B_tuned", "B_diff", "B_activation",
    }  # fmt: skip
    assert "B_base, B_tuned, B_diff, B_activation: the text does not reach the class" in list(metrics.missing())


def test_without_annotated_latents_there_is_no_share_but_the_activation_view() -> None:
    metrics = card_metrics(counted(full_card(), annotated=0))
    assert {"A_tuned", "A_diff"} <= set(metrics.absent)
    assert "tuned has no annotated latent" in metrics.absent["A_tuned"]
    assert {"A_base", "A_activation"} <= set(metrics.values), "base has latents, and its shares"
    assert metrics.values["annotated_tuned"] == 0, "a count of nothing is 0"


def test_a_class_without_activation_view() -> None:
    metrics = card_metrics(full_card())
    assert "no activation view" in metrics.absent["G_activation"]
    card = full_card()
    assert card.classes[0].activation is not None
    unknown = card.classes[0].activation.change.model_copy(update={"value": None, "low": None, "high": None})
    card = first_class(card, activation=card.classes[0].activation.model_copy(update={"change": unknown}))
    assert "too few documents" in card_metrics(card).absent["A_activation"]


def test_a_missing_bound_gives_no_error() -> None:
    card = full_card()
    metrics = card_metrics(first_class(card, diff=card.classes[0].diff.model_copy(update={"low": None})))
    assert "A_diff" in metrics.values
    assert "A_diff_stderr" not in metrics.values


def test_fve_of_both_designs() -> None:
    card = full_card()
    anchored = card_metrics(card).values
    assert (anchored["fve_anchor_base"], anchored["fve_base"]) == (0.861, 0.857)
    assert (anchored["fve_anchor_tuned"], anchored["fve_tuned"]) == (0.861, 0.857)
    direct = card.crosscoders[0].model_copy(update={"first": "base", "second": "tuned", "fve_second": 0.5})
    found = DifferenceInfo.model_validate({"first": "base", "second": "tuned", "fve": 0.8, **DIFFERENCE})
    values = card_metrics(card.model_copy(update={"crosscoders": [direct], "differences": [found]})).values
    assert (values["fve_base"], values["fve_tuned"], values["fve_difference"]) == (0.861, 0.5, 0.8)
    assert not [name for name in values if "anchor" in name]


def test_equal_models_have_no_fve_of_the_difference() -> None:
    found = [
        DifferenceInfo.model_validate({"first": "anchor", "second": side, "fve": None, **DIFFERENCE})
        for side in ("base", "tuned")
    ]
    metrics = card_metrics(full_card().model_copy(update={"differences": found}))
    assert (
        metrics.absent["fve_difference_base"]
        == metrics.absent["fve_difference_tuned"]
        == "nothing differs between the two"
    )


def test_a_card_from_published_counts_has_no_fve() -> None:
    metrics = card_metrics(full_card().model_copy(update={"crosscoders": []}))
    assert not [name for name in metrics.values if name.startswith("fve")]
    assert "not made from a crosscoder" in metrics.absent["fve"]


def test_a_card_without_any_class_shift_still_has_its_counts() -> None:
    card = full_card(activation=False)
    metrics = card_metrics(counted(counted(card, annotated=0), "base", annotated=0))
    assert not [name for name in metrics.values if name.endswith(("_diff", "_activation"))]
    assert metrics.values["annotated_base"] == 0
    assert "A_base" in metrics.absent
