"""Cards from published counts: the paper's tables to the digit, what they contradict, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeldiff_eval.counts import card_from_counts
from modeldiff_eval.counts_spec import read_spec
from modeldiff_eval.errors import UsageError
from modeldiff_eval.published import compare_shifts
from modeldiff_eval.records import Card, ClassRow
from modeldiff_eval.resources import resource

CREATED = "2026-01-01T00:00:00+00:00"

# The printed tables, typed from the paper: (base share, tuned share, diff, change), change with its printed decimals.
TABLE_2 = {
    "B": ("6.25", "8.99", "+2.74", "+43.8"),
    "A": ("16.07", "21.35", "+5.28", "+32.8"),
    "C": ("16.96", "17.98", "+1.01", "+6.0"),
    "E": ("10.71", "11.24", "+0.52", "+4.9"),
    "D": ("14.29", "12.36", "-1.93", "-13.5"),
    "G": ("28.57", "23.60", "-4.98", "-17.4"),
    "F": ("6.25", "4.49", "-1.76", "-28.1"),
}
TABLE_4 = {
    "A.4": ("4.46", "7.87", "+76.2"),
    "E.20": ("1.79", "4.49", "+151.7"),
    "D.16": ("1.79", "4.49", "+151.7"),
    "B.7": ("3.57", "5.62", "+57.3"),
    "C.12": ("1.79", "3.37", "+88.8"),
    "G.30": ("8.04", "4.49", "-44.1"),
    "D.14": ("8.93", "5.62", "-37.1"),
    "E.18": ("7.14", "4.49", "-37.1"),
    "F.22": ("3.57", "1.12", "-68.5"),
    "G.24": ("6.25", "4.49", "-28.1"),
}
TABLE_5 = {
    "F": ("6.25", "8.26", "+2.01", "+32"),
    "D": ("14.29", "18.35", "+4.06", "+28"),
    "E": ("10.71", "12.84", "+2.13", "+20"),
    "A": ("16.07", "14.68", "-1.39", "-9"),
    "G": ("28.57", "25.69", "-2.88", "-10"),
    "B": ("6.25", "5.50", "-0.75", "-12"),
    "C": ("16.96", "14.68", "-2.29", "-13"),  # printed -2.28, from rounded shares
}


@pytest.fixture(scope="module")
def simpo() -> Card:
    return card_from_counts(resource("reports/paper_simpo.yaml"), created=CREATED)


@pytest.fixture(scope="module")
def dpo() -> Card:
    return card_from_counts(resource("reports/paper_dpo.yaml"), created=CREATED)


def cells(row: ClassRow, *, change_digits: int) -> tuple[str, str, str, str]:
    assert row.change is not None
    return (
        f"{row.base.share:.2f}",
        f"{row.tuned.share:.2f}",
        f"{row.diff.value:+.2f}",
        f"{row.change.value:+.{change_digits}f}",
    )


def test_table_2_to_the_digit(simpo: Card) -> None:
    assert {row.code: cells(row, change_digits=1) for row in simpo.classes} == TABLE_2


def test_table_4_to_the_digit(simpo: Card) -> None:
    printed = {row.code: cells(row, change_digits=1) for row in simpo.categories}
    assert {code: (base, tuned, change) for code, (base, tuned, _, change) in printed.items()} == TABLE_4


def test_table_5_to_the_digit(dpo: Card) -> None:
    assert {row.code: cells(row, change_digits=0) for row in dpo.classes} == TABLE_5


def test_no_class_shift_excludes_zero(simpo: Card, dpo: Card) -> None:
    for row in (*simpo.classes, *simpo.categories, *dpo.classes):
        assert row.diff.low < 0 < row.diff.high, row.name
        assert row.diff_simultaneous.low < 0 < row.diff_simultaneous.high
        assert row.verdict == "unclear"
        assert row.p_adjusted > 0.05
    safety = simpo.classes[0]
    assert (safety.diff.low, safety.diff.high) == pytest.approx((-5.5, 16.3), abs=0.5)


def test_headline_says_so(simpo: Card) -> None:
    assert simpo.headline.startswith("None of the 7 class shifts is distinguishable from zero at 112 and 89 latents;")
    assert "Safety & Content Moderation at +5.3 points" in simpo.headline
    assert len(simpo.not_significant) >= 17
    assert all(any(row.name in text for text in simpo.not_significant) for row in simpo.classes)


def test_specific_beside_annotated(simpo: Card, dpo: Card) -> None:
    base, tuned = simpo.latents.base, simpo.latents.tuned
    assert (base.specific, base.annotated, base.none, base.failed, base.effective_n) == (113, 112, 1, 1, 112)
    assert (tuned.specific, tuned.annotated, tuned.none, tuned.failed, tuned.effective_n) == (92, 89, 0, 3, 89)
    assert any("not published" in text and "109" in text for text in dpo.caveats)


def test_composition_is_named(simpo: Card) -> None:
    information = simpo.classes[2]
    assert (information.diff.value > 0, information.count_change.value) == (True, -3)
    assert any("Information Processing, share only" in text and "19 to 16" in text for text in simpo.caveats)


def test_every_printed_cell_is_compared(simpo: Card, dpo: Card) -> None:
    spec = read_spec(resource("reports/paper_dpo.yaml"))
    checked = compare_shifts(spec.published, dpo.classes, dpo.categories)
    assert len(checked) == 28
    assert [(cell.code, cell.column, cell.printed, cell.rounded_first) for cell in checked if not cell.reproduced] == [
        ("C", "diff", -2.28, True)
    ]
    assert any("27 of 28" in text for text in dpo.caveats)
    assert any(
        "prints −2.28, the difference of the rounded shares; from the counts it is −2.29" in t for t in dpo.caveats
    )
    assert any("58 of 58" in text for text in simpo.caveats)


def test_arena_rows_and_the_math_contradiction(simpo: Card) -> None:
    rows = {row.category: row for row in simpo.arena.rows}
    assert len(rows) == 12
    math = rows["math"]
    assert (math.delta.value, math.delta.low, math.delta.high) == pytest.approx((-10.6, -26.9, 5.8), abs=0.05)
    assert math.verdict == "unclear"
    assert math.style_effect.value == pytest.approx(math.delta_style.value - math.delta.value)
    assert (math.style_effect.low, math.style_effect.high) == (None, None)
    assert rows["overall"].verdict == "up"
    (found,) = [text for text in simpo.caveats if "contradicts the source" in text]
    assert "Arena math without style control" in found
    assert "prints +10" in found
    assert "true sign is itself unclear" in found
    assert "two models exchanged" in found


def edited(tmp_path: Path, name: str, change: Any) -> Path:
    raw = yaml.safe_load(resource(f"reports/{name}.yaml").read_text(encoding="utf-8"))
    change(raw)
    path = tmp_path / "counts.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def test_the_contradiction_is_computed_not_typed(tmp_path: Path) -> None:
    """A printed value that agrees gives no caveat; one in another row gives that row's."""

    def change(raw: dict[str, Any]) -> None:
        raw["published"]["arena"]["math"]["delta"] = -10
        raw["published"]["arena"]["german"]["delta"] = -34
        raw["published"]["arena"]["english"]["delta"] = 60
        raw["published"]["classes"]["A"]["change"] = 33.0

    card = card_from_counts(edited(tmp_path, "paper_simpo", change), draws=200)
    assert not [text for text in card.caveats if "Arena math without" in text]
    assert [
        text for text in card.caveats if "Arena math, difference without style control: the paper prints −10" in text
    ]
    assert [text for text in card.caveats if "Arena german" in text and "contradicts the source" in text]
    assert [text for text in card.caveats if "Arena english" in text and "outside the interval" in text]
    assert [text for text in card.caveats if "57 of 58" in text]
    assert [text for text in card.caveats if "change: the paper prints +33.0; from the counts it is +32.8" in text]


def test_arena_table_by_path(tmp_path: Path, simpo: Card) -> None:
    """The same ratings in a file in LMArena's long form, with its own category names, give the same rows."""
    raw = yaml.safe_load(resource("reports/paper_simpo.yaml").read_text(encoding="utf-8"))
    names = {"overall": "full", "instruction_following": "if", "multi_turn": "multiturn", "hard_prompts": "hard_6"}
    lines = ["snapshot,style_control,category,model,rating,rating_q025,rating_q975"]
    for row in raw["arena"]["rows"]:
        for side in ("base", "tuned"):
            for style, key in enumerate((side, f"{side}_style")):
                r, name = row[key], names.get(row["category"], row["category"])
                lines.append(f"2025-12-17,{style},{name},model-{side},{r['rating']},{r['low']},{r['high']}")
    (tmp_path / "arena.csv").write_text("\n".join(lines), encoding="utf-8")

    def change(raw: dict[str, Any]) -> None:
        raw["arena"] = {"table": "arena.csv", "base": "org/Model-Base", "tuned": "model-tuned"}

    card = card_from_counts(edited(tmp_path, "paper_simpo", change), draws=200)
    assert [row.delta for row in card.arena.rows] == [row.delta for row in simpo.arena.rows]
    assert [row.verdict for row in card.arena.rows] == [row.verdict for row in simpo.arena.rows]
    assert any("Arena math" in text and "contradicts the source" in text for text in card.caveats)
    assert {row.category_or_task for row in card.agreement} == {row.category_or_task for row in simpo.agreement}
    with pytest.raises(UsageError, match=r"nowhere\.csv does not exist; the path is relative to the counts file"):
        card_from_counts(
            edited(
                tmp_path,
                "paper_simpo",
                lambda raw: raw.update(arena={"table": "nowhere.csv", "base": "a", "tuned": "b"}),
            )
        )


def test_agreement_is_null_while_either_side_is_unclear(simpo: Card) -> None:
    pairs = {(row.class_, row.category_or_task) for row in simpo.agreement}
    assert {("B", "chinese"), ("D.16", "instruction_following"), ("G.24", "coding")} <= pairs
    assert all(row.agrees is None for row in simpo.agreement)


def test_benchmarks_have_intervals_where_they_can(simpo: Card) -> None:
    rows = {(row.task, row.metric): row for row in simpo.benchmarks}
    gsm8k, win_rate = rows["gsm8k", "accuracy"], rows["alpaca_eval_2", "length-controlled win rate"]
    assert gsm8k.delta.low < 0.6 < gsm8k.delta.high
    assert (gsm8k.paired, gsm8k.verdict) == (False, "unclear")
    assert (win_rate.delta.low, win_rate.p, win_rate.mde, win_rate.verdict) == (None, None, None, "unclear")


def test_equal_runs_give_equal_cards_and_json_round_trips(simpo: Card) -> None:
    again = card_from_counts(resource("reports/paper_simpo.yaml"), created=CREATED)
    assert again == simpo
    assert Card.model_validate(json.loads(simpo.to_json())) == simpo
    other = card_from_counts(resource("reports/paper_simpo.yaml"), created=CREATED, seed=1, draws=1000, title="T")
    assert other.title == "T"
    assert other.classes != simpo.classes


def test_a_real_shift_is_reported(tmp_path: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["classes"]["A"]["tuned"], raw["classes"]["G"]["tuned"] = 39, 1
        raw["classes"]["B"]["tuned"] = 7
        del raw["published"], raw["categories"]
        raw["not_covered"] = ["F"]

    card = card_from_counts(edited(tmp_path, "paper_simpo", change), draws=2000)
    verdicts = {row.code: row.verdict for row in card.classes}
    assert (verdicts["A"], verdicts["G"], verdicts["F"]) == ("up", "down", "not covered")
    assert card.headline.startswith("Safety & Content Moderation rises by") or "; Safety & Content" in card.headline
    assert "Specialized Capabilities falls by" in card.headline
    assert "1 class could not be seen" in card.headline


BAD = [
    (lambda raw: raw["latents"]["base"].update(annotated=100), "base counts do not add up: the classes sum to 111"),
    (lambda raw: raw["latents"]["base"].update(none=5), r"classes 111 \+ none 5 = 116, but annotated is 112"),
    (lambda raw: raw["latents"]["tuned"].update(specific=80), r"annotated 89 \+ failed 0 exceed specific 80"),
    (lambda raw: raw["latents"]["tuned"].update(failed=2), r"annotated 89 \+ failed 2 is not specific 92"),
    (lambda raw: raw["categories"]["F.22"].update(base=9), "categories of class F hold 9 latents, the class 7"),
    (lambda raw: raw["categories"].update({"Z.1": {"base": 1, "tuned": 1}}), "category Z.1 belongs to class 'Z'"),
    (
        lambda raw: raw["categories"].update({"A.99": {"base": 1, "tuned": 1}}),
        "'A.99' is no code of the packaged taxonomy",
    ),
    (
        lambda raw: raw["latents"]["base"].update(anotated=1),
        "latents.base.anotated: unknown key. Did you mean 'annotated'?",
    ),
    (lambda raw: raw["classes"]["A"].update(base=-1), "classes.A.base: .*greater than or equal to 0"),
    *(
        (
            lambda raw, value=value: raw["classes"]["A"].update(base=value),
            r"classes\.A\.base: must be a whole number \(got",
        )
        for value in ("many", "3", True, 3.0, 3.5, None, float("nan"), float("inf"), "9" * 5000)
    ),
    (lambda raw: raw["latents"]["base"].update(specific="113"), r"latents\.base\.specific: must be a whole number"),
    (lambda raw: raw["benchmarks"][0].update(n=True), r"benchmarks\.0\.n: must be a whole number"),
    (lambda raw: raw["models"].update(base=""), r"models\.base is empty"),
    (lambda raw: raw["models"].update(tuned=" "), r"models\.tuned is empty"),
    (lambda raw: raw["models"].update(tuned={"id": ""}), r"models\.tuned is empty"),
    (lambda raw: raw["models"].update(anchor=""), r"models\.anchor is empty"),
    (lambda raw: raw["models"].pop("anchor"), r"mode anchored needs models\.anchor"),
    (lambda raw: raw.pop("models"), "models: is missing"),
    (lambda raw: raw.update(classes={}, categories={}, published=None), "'classes' is empty"),
    (lambda raw: raw["published"]["classes"].update({"H": {"diff": 1}}), "'H' has no counts in this file"),
    (lambda raw: raw["arena"]["rows"][0]["base"].update(low=5000.0), "lies outside its bounds"),
    (lambda raw: raw["arena"].update(table="t.csv"), "either 'rows' or 'table'"),
    (lambda raw: raw["benchmarks"][0].update(base=187.4), "outside 0 to 100"),
    (lambda raw: raw["benchmarks"][0].update(n=0), "benchmarks.0.n"),
    (lambda raw: raw["latents"]["base"].update(annotated=2_000_000_000), "latents.base.annotated"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_counts_are_refused_with_where_and_why(tmp_path: Path, change: Any, message: str) -> None:
    path = edited(tmp_path, "paper_simpo", change)
    with pytest.raises(UsageError, match=message) as caught:
        card_from_counts(path, draws=100)
    assert "counts.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        card_from_counts(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="suffix"):
        card_from_counts(tmp_path / "counts.txt")
    broken = tmp_path / "broken.yaml"
    for text, message in (
        ("classes: [", "not valid YAML"),
        ("- a list", "expected a mapping"),
        ("classes:\n  A: {base: 1, tuned: 1}\n  A: {base: 2, tuned: 1}\n", "line 3: .*'A' is given twice"),
    ):
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            card_from_counts(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        card_from_counts(broken)


def latents_csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "latents.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_latents_csv_gives_the_card_of_its_counts(tmp_path: Path, simpo: Card) -> None:
    """The paper's counts written out one latent a row: the same shares, the same tests."""
    lines = ["model,latent,class"]
    for side, failed in (("base", 1), ("tuned", 3)):
        counts = {row.code: getattr(row, side).count for row in simpo.classes} | {
            "none": getattr(simpo.latents, side).none
        }
        codes = [code for code, count in counts.items() for _ in range(count)] + [""] * failed
        lines += [f"{side},{i},{code}" for i, code in enumerate(codes)]
    card = card_from_counts(latents_csv(tmp_path, "\n".join(lines)), created=CREATED)
    assert card.latents == simpo.latents
    for ours, theirs in zip(card.classes, simpo.classes, strict=True):
        assert ours == theirs
    assert card.categories == []


def test_latents_csv_with_categories_names_and_families(tmp_path: Path) -> None:
    text = (
        "model,latent,category,family\n"
        "it,1,A.1,x\nit,2,Harmful Content Detection,x\nit,3,none,\nit,4,,\n"
        "dpo,1,g.24,x\ndpo,2,failed,y\ndpo,9,B.7,z\n"
    )
    card = card_from_counts(latents_csv(tmp_path, text), models=("it", "dpo"), draws=500)
    assert card.title == "it → dpo"
    base, tuned = card.latents.base, card.latents.tuned
    assert (base.specific, base.annotated, base.none, base.failed) == (4, 3, 1, 1)
    assert (tuned.annotated, tuned.failed) == (2, 1)
    assert base.effective_n == pytest.approx(9 / 5)
    assert {row.code: row.base.count for row in card.categories if row.base.count} == {"A.1": 2}
    assert {row.code: row.tuned.count for row in card.classes if row.tuned.count} == {"B": 1, "G": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,latent\nbase,1\n", r"category \(or class\) is missing"),
        ("model,latent,categry\nbase,1,A.1\n", "unknown column 'categry'. Did you mean 'category'?"),
        ("model,latent,category\nit,1,A.1\n", "line 2: model 'it' is neither 'base' nor 'tuned'"),
        ("model,latent,category\nbase,1,A.1\nbase,1,A.2\n", "line 3: latent '1' of base is listed twice"),
        ("model,latent,category\nbase,1,A.77\n", "line 2: category 'A.77' is not in the taxonomy"),
        ("model,latent,category,class\nbase,1,A.1,B\n", "does not belong to class 'B'"),
        ("model,latent,category\n", "no latents"),
        ("model,latent,category\n\n\n", "no latents"),
        ("", "the column model, latent is missing"),
        ('model,latent,category\nbase,1,A.1\n\nbase,2,"A.1\nbase,3,A.1\ntuned,1,A.1\n', "line 4: not CSV .*quote"),
        ('model,latent,category\nbase,1,"A.1\nbase,2,"A.2"\ntuned,1,A.1\n', "line 2: not CSV .*quote"),
        ('model,latent,category\nbase,"1,A.1\nbase,2,A.1"\ntuned,1,A.1\n', "line 2: not CSV .*quote"),
        ('model,"latent,category\nbase,1,A.1\n', "line 1: not CSV .*quote"),
    ],
)
def test_bad_latents_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        card_from_counts(latents_csv(tmp_path, text))
