"""A leaderboard: which cards have a row, what the figures are, and what the page, the JSON and the CSV hold."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from codecs import BOM_UTF8
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample_cards import HOSTILE, full_card

from modeldiff_eval.card_digest import seal
from modeldiff_eval.errors import OutputError, SettingsError, UsageError
from modeldiff_eval.leaderboard import write_leaderboard
from modeldiff_eval.leaderboard_cli import leaderboard
from modeldiff_eval.leaderboard_files import find_cards
from modeldiff_eval.leaderboard_records import Leaderboard
from modeldiff_eval.leaderboard_rows import collect
from modeldiff_eval.records import Card
from modeldiff_eval.render_leaderboard import leaderboard_html


def plain(
    title: str = "one", *, created: str = "2026-01-15T10:30:00Z", elo: float | None = None, **update: Any
) -> Card:
    card = full_card(hostile=False)
    if elo is not None:
        assert card.arena is not None
        row = card.arena.rows[0].model_dump() | {
            "category": "overall", "delta": {"value": elo, "low": elo - 4, "high": elo + 4}, "delta_style": None, "style_effect": None,
        }  # fmt: skip
        update["arena"] = card.arena.model_dump() | {"rows": [row]}
    return Card.model_validate(card.model_dump(by_alias=True) | {"title": title, "created": created} | update)


def put(folder: Path, card: Card) -> Path:
    folder.mkdir(parents=True)
    path = folder / "card.json"
    path.write_text(card.to_json(), encoding="utf-8")
    return path


def benchmark(task: str, value: float, half: float | None, **update: Any) -> dict[str, Any]:
    row = full_card(hostile=False).benchmarks[0].model_dump()
    bounds = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    return row | {
        "task": task, "metric": "acc", "base": 0.5, "tuned": 0.5 + value, "delta": {"value": value, **bounds, "level": 0.95},
    } | update  # fmt: skip


def board_of(*cards: Card, tmp_path: Path) -> Leaderboard:
    for number, card in enumerate(cards):
        put(tmp_path / f"in{number}", card)
    return collect(*find_cards([tmp_path]))


def test_the_site_holds_page_json_csv_and_every_card(tmp_path: Path) -> None:
    cards = [plain("one", elo=30.0), plain("two", elo=0.0), plain("three", elo=1.0)]
    for card in cards:
        put(tmp_path / "runs" / card.title, card)
    paths = write_leaderboard([tmp_path / "runs"], tmp_path / "site")
    assert {name: path.name for name, path in paths.items()} == {
        "html": "index.html", "json": "leaderboard.json", "csv": "leaderboard.csv",
    }  # fmt: skip
    board = Leaderboard.model_validate_json(paths["json"].read_text())
    assert board.by == "elo"
    assert {row.title: row.elo.group for row in board.rows} == {"one": 1, "two": 2, "three": 2}
    for row in board.rows:
        folder = tmp_path / "site" / row.folder
        assert Card.model_validate_json((folder / "card.json").read_text()).title == row.title
        assert row.title in (folder / "card.html").read_text()
    lines = list(csv.DictReader(io.StringIO(paths["csv"].read_text())))
    assert [
        (line["title"], line["elo"], line["elo_low"], line["elo_group"]) for line in lines if line["title"] == "one"
    ] == [("one", "30.0", "26.0", "1")]
    assert lines[0]["elo_style"] == ""


def test_figures_are_those_of_the_card(tmp_path: Path) -> None:
    card = plain()
    (row,) = board_of(card, tmp_path=tmp_path).rows
    for own in card.classes:
        cell = row.shares[own.code]
        assert (cell.value.low, cell.verdict) == (own.diff.low, own.verdict)
        if own.activation is None:
            assert row.activation[own.code].missing
        else:
            assert row.activation[own.code].value == own.activation.change
    assert row.gate == "fail"


def test_mean_over_benchmarks_by_hand_and_its_words_when_there_is_none(tmp_path: Path) -> None:
    rows = [
        benchmark("a", 0.1, 0.03), benchmark("a", 0.9, 0.01, metric="second metric of a"), benchmark("b", 0.3, 0.04),
        benchmark("c", -5.0, 1.0, metric="word_perplexity", base=20.0, tuned=15.0), benchmark("d", -0.2, 0.1, metric="bits_per_byte"),
    ]  # fmt: skip
    board = board_of(
        plain("mean", benchmarks=rows), plain("open", benchmarks=[*rows, benchmark("e", 0.1, None)]),
        plain("none", benchmarks=[]), tmp_path=tmp_path,
    )  # fmt: skip
    by = {row.title: row.benchmarks for row in board.rows}
    assert by["mean"].n == 2
    assert by["mean"].value.model_dump() == pytest.approx({"value": 0.2, "low": 0.175, "high": 0.225})
    assert by["open"].value.value is None
    assert "e has no 95 % interval" in (by["open"].missing or "")
    assert by["none"].missing == "No benchmark was run."


def test_means_over_other_tasks_are_not_grouped_together(tmp_path: Path) -> None:
    same, other = [benchmark("a", 0.1, 0.01)], [benchmark("b", 0.5, 0.01)]
    board = board_of(*(plain(t, benchmarks=b) for t, b in (("x", same), ("y", same), ("z", other))), tmp_path=tmp_path)
    assert {row.title: row.benchmarks.group for row in board.rows} == {"x": 1, "y": 1, "z": None}


def test_newest_of_equal_comparisons_stays_and_the_others_are_named(tmp_path: Path) -> None:
    put(tmp_path / "old", plain(created="2026-01-01T00:00:00Z"))
    put(tmp_path / "new", plain(created="2026-02-01T00:00:00Z"))
    put(tmp_path / "copy", plain(created="2026-02-01T00:00:00Z"))
    found, skipped = find_cards([tmp_path, tmp_path / "new" / "card.json"])
    assert [item.card.created[:7] for item in found] == ["2026-02"]
    assert len(skipped) == 2
    assert all("copy" in s.file or "old" in s.file or "new" in s.file for s in skipped)
    assert any("An equal copy of" in s.reason for s in skipped)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-01-16T02:00:00Z", "2026-01-15T23:00:00-05:00"),
        ("2026-01-15T10:30:00+01:00", "2026-01-15T10:30:00"),
        ("2026-01-15", "2026-01-15T00:00:01Z"),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"),
        ("not a date", "2020-01-01T00:00:00Z"),
        ("", "2020-01-01T00:00:00Z"),
    ],
)
@pytest.mark.parametrize("first", ["older", "newer"])
def test_the_newest_is_found_by_time_and_not_by_text(tmp_path: Path, older: str, newer: str, first: str) -> None:
    put(tmp_path / ("a" if first == "older" else "b"), plain(created=older))
    put(tmp_path / ("a" if first == "newer" else "b"), plain(created=newer))
    found, (skipped,) = find_cards([tmp_path])
    assert [item.card.created for item in found] == [newer]
    expected = "again later" if older[:1].isdigit() else "does not say when it was made"
    assert expected in skipped.reason
    assert found[0].name in skipped.reason


def edited(title: str = "one", **update: Any) -> Card:
    """A card whose headline was changed after it was made."""
    return seal(plain(title, **update)).model_copy(update={"headline": "Nothing changed."})


@pytest.mark.parametrize("first", ["edited", "genuine"])
def test_an_edited_copy_never_hides_the_genuine_one(tmp_path: Path, first: str) -> None:
    """Newer or found first: its reason is said, and of two copies without an edit the one with a checksum is listed."""
    folders = {
        "edited": tmp_path / ("a" if first == "edited" else "b"),
        "genuine": tmp_path / ("a" if first == "genuine" else "b"),
    }
    put(folders["edited"], edited(created="2026-03-01T00:00:00Z"))
    put(folders["genuine"], seal(plain(created="2026-01-01T00:00:00Z")))
    put(tmp_path / "c", plain(created="2026-02-01T00:00:00Z"))
    found, skipped = find_cards([tmp_path])
    assert [(item.name, item.seal) for item in found] == [(f"{folders['genuine'].name}/card.json", "whole")]
    reasons = {s.file.split("/")[0]: s.reason for s in skipped}
    assert "changed since it was made" in reasons[folders["edited"].name]
    assert "no checksum" in reasons["c"]
    assert all(found[0].name in reason for reason in reasons.values())


def test_edited_and_undated_cards_are_listed_with_a_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "in" / "changed", edited("changed"))
    put(tmp_path / "in" / "whole", seal(plain("whole")))
    put(tmp_path / "in" / "undated", plain("undated", created="soon"))
    leaderboard([tmp_path / "in"], tmp_path / "site")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:-1]] == ["edited changed/card.json", "undated undated/card.json"]
    assert "checksum" in said[0]
    assert "soon" in said[1]
    rows = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["rows"]
    assert {row["title"]: (row["seal"], row["file"]) for row in rows} == {
        "changed": ("edited", "changed/card.json"), "whole": ("whole", "whole/card.json"), "undated": ("none", "undated/card.json"),
    }  # fmt: skip
    lines = csv.DictReader(io.StringIO((tmp_path / "site" / "leaderboard.csv").read_text()))
    assert {(line["title"], line["seal"], line["file"]) for line in lines} == {
        (row["title"], row["seal"], row["file"]) for row in rows
    }
    page = (tmp_path / "site" / "index.html").read_text()
    heads = {
        title: page.partition(f">{title}</a>")[2].partition("</th>")[0] for title in ("changed", "whole", "undated")
    }
    assert [title for title, head in heads.items() if ">edited</a>" in head] == ["changed"]
    assert [title for title, head in heads.items() if ">no date</abbr>" in head] == ["undated"]
    assert page.count('data-d="2026-01-15"') == 2
    assert "its checksum is not that of its content" in page


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in" / "open", plain())
    put(tmp_path / "in" / "shut" / "deep", plain("hidden"))
    scan = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    leaderboard([tmp_path / "in"], tmp_path / "site")
    assert "passed over in/shut/: The folder cannot be searched (Permission denied)." in capsys.readouterr().out
    assert "in/shut/" in (tmp_path / "site" / "index.html").read_text()


def test_links_to_folders_are_followed_and_end(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "far", plain("far"))
    put(tmp_path / "in" / "near", plain("near"))
    for name in ("link", "second"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "near" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "site").symlink_to(tmp_path / "site" / "cards")
    for _ in range(2):
        paths = write_leaderboard([tmp_path / "in"], tmp_path / "site")
        board = Leaderboard.model_validate_json(paths["json"].read_text())
        assert [row.file for row in board.rows] == ["far/card.json", "near/card.json"]
        assert board.skipped == []
    found, _ = find_cards([tmp_path / "site" / "cards"], without=tmp_path / "site")
    assert len(found) == 2


def test_a_byte_order_mark_is_no_part_of_a_card(tmp_path: Path) -> None:
    path = put(tmp_path / "in" / "marked", seal(plain()))
    path.write_bytes(BOM_UTF8 + path.read_bytes())
    paths = write_leaderboard([tmp_path / "in"], tmp_path / "site")
    board = Leaderboard.model_validate_json(paths["json"].read_text())
    assert [row.seal for row in board.rows] == ["whole"]
    assert (tmp_path / "site" / board.rows[0].folder / "card.json").read_bytes() == path.read_bytes()[3:]


def test_foreign_broken_and_future_files_are_named_and_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "good", plain())
    for name, text in {
        "foreign": '{"dependencies": {}}', "broken": '{"schema_version": 1, "title": ', "list": "[1]", "empty": "",
        "future": json.dumps({**json.loads(plain().to_json()), "schema_version": 2}), "deep": "[" * 200_000,
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(text)
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "card.json").write_bytes(b"\xff\xfe\x00")
    found, skipped = find_cards([tmp_path])
    assert [item.name for item in found] == ["good/card.json"]
    assert {s.file.split("/")[0] for s in skipped} == {"foreign", "broken", "list", "empty", "future", "deep", "binary"}
    assert not any(str(tmp_path) in s.reason for s in skipped)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing at"):
        write_leaderboard([tmp_path / "none"], tmp_path / "site")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No card in"):
        write_leaderboard([tmp_path / "empty"], tmp_path / "site")


def test_an_unknown_column_is_named_with_the_closest(tmp_path: Path) -> None:
    put(tmp_path / "a", plain())
    with pytest.raises(SettingsError, match="Did you mean 'elo_style'"):
        write_leaderboard([tmp_path], tmp_path / "site", by="elo_stile")


def test_the_site_itself_is_not_searched_and_forgets_cards_that_are_gone(tmp_path: Path) -> None:
    put(tmp_path / "a", plain("a"))
    put(tmp_path / "b", plain("b"))
    write_leaderboard([tmp_path], tmp_path / "site")
    (tmp_path / "site" / "cards" / "notes").mkdir()
    page = next((tmp_path / "site" / "cards").glob("a-*/card.html"))
    before = page.stat().st_mtime_ns
    gone = next((tmp_path / "site" / "cards").glob("b-*"))
    (gone / "card.html.77.partial").write_text("of a site that was killed while it was made")
    (tmp_path / "b" / "card.json").unlink()
    paths = write_leaderboard([tmp_path], tmp_path / "site")
    board = Leaderboard.model_validate_json(paths["json"].read_text())
    assert [row.title for row in board.rows] == ["a"]
    assert board.skipped == []
    assert page.stat().st_mtime_ns == before
    assert sorted(p.name.split("-")[0] for p in (tmp_path / "site" / "cards").iterdir()) == ["a", "notes"]


def test_awkward_cards_of_strangers_do_not_end_a_leaderboard(tmp_path: Path) -> None:
    """Half a surrogate pair in a title, a class without a code, and a card.json that is no file."""
    put(tmp_path / "sound", plain("sound"))
    half = tmp_path / "half" / "card.json"
    half.parent.mkdir()
    half.write_text(plain("half").to_json().replace('"title": "half"', '"title": "half \\ud800"'), encoding="utf-8")
    codeless = plain("codeless")
    put(
        tmp_path / "codeless",
        codeless.model_copy(update={"classes": [codeless.classes[0].model_copy(update={"code": ""})]}),
    )
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "card.json")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "card.json").symlink_to("nowhere")
    paths = write_leaderboard([tmp_path], tmp_path / "site")
    board = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert sorted(row["title"] for row in board["rows"]) == ["codeless", "half \ud800", "sound"]
    assert len(list((tmp_path / "site" / "cards").glob("*/card.html"))) == 3
    assert {item["file"]: item["reason"] for item in board["skipped"]} == {
        f"{name}/card.json": reason
        for name, reason in (("gone", "It cannot be read (No such file or directory)."), ("pipe", "It is no file."))
    }


_BY_TWO = """
import sys, threading
from pathlib import Path
from modeldiff_eval.leaderboard import write_leaderboard
if sys.argv[3] == "sent":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if __name__ == "__main__":
    write_leaderboard([Path(sys.argv[1])], Path(sys.argv[2]), workers=2)
"""


@pytest.mark.parametrize("how", ["inherited", "sent"])
def test_pages_by_several_processes_are_the_same(tmp_path: Path, how: str) -> None:
    """Forks have the cards already; beside another thread nothing is forked and cards are sent."""
    for number in range(16):
        put(tmp_path / "in" / str(number), plain(f"card {number}", top_latents=[]))
    write_leaderboard([tmp_path / "in"], tmp_path / "by1")
    command = [sys.executable, "-W", "error", "-c", _BY_TWO, str(tmp_path / "in"), str(tmp_path / "by2"), how]
    subprocess.run(command, check=True, timeout=300)
    pages = [{p.parent.name: p.read_bytes() for p in (tmp_path / f"by{w}").glob("cards/*/card.html")} for w in (1, 2)]
    assert len(pages[0]) == 16
    assert pages[0] == pages[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_cannot_be_written_ends_it(tmp_path: Path, workers: int) -> None:
    for number in range(16):
        put(tmp_path / "in" / str(number), plain(f"card {number}", top_latents=[]))
    board = collect(*find_cards([tmp_path / "in"]))
    blocked = tmp_path / "site" / board.rows[-1].folder
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder must be")
    with pytest.raises(OutputError, match=re.escape(str(blocked))):
        write_leaderboard([tmp_path / "in"], tmp_path / "site", workers=workers)
    assert not (tmp_path / "site" / "index.html").exists()


class Page(HTMLParser):
    """Tags, attributes and the text of script and style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag if tag in self.inside else None
        if self.open:
            self.inside[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside[self.open][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.open = None


def test_hostile_cards_stay_text_and_the_policy_names_our_script_alone(tmp_path: Path) -> None:
    put(tmp_path / "bad", full_card(hostile=True))
    put(tmp_path / "good", plain("good"))
    board = collect(*find_cards([tmp_path]))
    page = Page(leaderboard_html(board))
    assert [tag for tag, _ in page.tags].count("img") == 0
    script, style = page.inside["script"][-1], page.inside["style"][0]
    assert len(page.inside["script"]) == 2
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    for name, text in (("script", script), ("style", style)):
        assert f"{name}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("href", "src", "xlink:href"):
            assert re.match(r"^(#|data:,|cards/[a-z0-9-]+/card\.|leaderboard\.)", attributes.get(name) or "#"), (
                attributes
            )
    bad = next(row for row in board.rows if row.title != "good")
    assert HOSTILE in bad.title
    assert re.fullmatch(r"cards/[a-z0-9-]+", bad.folder)


def test_a_card_of_another_taxonomy_has_no_class_figures(tmp_path: Path) -> None:
    other = plain("other")
    renamed = [row.model_dump() | {"name": "Mine"} for row in other.classes]
    board = board_of(plain("x"), plain("y"), plain("z", classes=renamed), tmp_path=tmp_path)
    by = {row.title: row for row in board.rows}
    assert by["z"].shares["A"].missing == "This card uses another taxonomy."
    assert by["x"].shares["A"].value.value is not None


def test_a_value_without_an_interval_is_not_shown(tmp_path: Path) -> None:
    card = plain(elo=3.0)
    assert card.arena is not None
    row = card.arena.rows[0].model_dump() | {"delta": {"value": 3.0, "low": None, "high": None}}
    (shown,) = board_of(plain(arena=card.arena.model_dump() | {"rows": [row]}), tmp_path=tmp_path).rows
    assert shown.elo.value.value is None
    assert shown.elo.missing == "The card gives no interval."


def test_two_hundred_cards_make_an_index_below_three_megabytes(tmp_path: Path) -> None:
    from modeldiff_eval.leaderboard_files import Found

    one = plain(elo=1.0, top_latents=[])
    found = [
        Found(one.model_copy(update={"title": f"card number {n}"}), str(n).encode(), f"{n}/card.json", "none")
        for n in range(200)
    ]
    page = leaderboard_html(collect(found))
    assert len(page.encode()) < 3_000_000
    assert page.count("<tr ") == 201
