"""The card in a real browser: its policy lets its own script run, sorting and search work, and axe finds nothing serious."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import AXE, CHROMIUM, dumped, reported, with_script
from sample_extremes import with_maps
from sample_pages import CARDS

from modeldiff_eval.records import Card
from modeldiff_eval.render import render_html

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

_REPORT = """
const say = (found) => {
  const pre = document.createElement("pre");
  pre.id = "report"; pre.textContent = JSON.stringify(found);
  document.body.append(pre);
};
"""
_USE = (
    _REPORT
    + """
const rows = (table) => [...table.tBodies].flatMap((b) => [...b.rows]).filter((r) => !r.hidden);
const names = (table) => rows(table).map((r) => r.cells[0].textContent.trim());
const weak = document.querySelector("table.weak"), cats = document.querySelector("table.cats");
const press = (table, i) => table.querySelectorAll("thead .sort")[i].click();
const p = () => [...weak.tBodies[0].rows].map((r) => r.cells[3].textContent.trim());
const out = { before: names(weak), cats: names(cats), groups: cats.querySelectorAll("tr.group").length };
press(weak, 3); out.down = p(); out.sorted = weak.querySelectorAll("th")[3].getAttribute("aria-sort");
press(weak, 3); out.up = p();
press(weak, 3); out.after = names(weak);
press(cats, 1); out.hidden = cats.querySelectorAll("tr.group[hidden]").length; out.catsSorted = names(cats).length;
press(cats, 1); press(cats, 1); out.catsAfter = names(cats);
const search = document.querySelector(".tools input");
const shown = () => [...document.querySelectorAll("#latent-list article")].filter((a) => !a.hidden).length;
out.all = shown();
search.value = "apology at the start"; search.dispatchEvent(new Event("input")); out.found = shown();
out.status = document.querySelector("[role=status]").textContent;
search.value = "no such thing"; search.dispatchEvent(new Event("input")); out.none = shown();
say(out);
"""
)
_AXE = """
for (const folded of document.querySelectorAll("details")) folded.open = true;
axe.run(document).then((r) => say(r.violations), (e) => say([{impact: "serious", id: String(e)}]));
"""


def _write(folder: Path, html: str) -> Path:
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    return page


def test_the_policy_lets_the_script_run_and_links_open_what_is_folded(tmp_path: Path) -> None:
    card = CARDS["plain"]
    latents = [card.top_latents[i % 6].model_copy(update={"latent": i}) for i in range(70)]
    html = render_html(card.model_copy(update={"top_latents": latents}))
    page = _write(tmp_path, html)
    document = dumped(page, tmp_path / "a", fragment="#latent-tuned-65")
    assert 'role="search"' in document
    assert document.count('class="sort"') > 10
    assert '<details id="latent-table" open="">' in document
    assert 'id="latent-table" open' not in html


def test_sorting_and_search(tmp_path: Path) -> None:
    html = with_script(render_html(CARDS["plain"]), _USE)
    seen = json.loads(reported(dumped(_write(tmp_path, html), tmp_path / "b")))
    assert seen["after"] == seen["before"] != []
    assert sorted(seen["down"]) == sorted(seen["up"])

    def numbers(cells: list[str]) -> list[float]:
        return [float(cell.split()[0].replace("\u2212", "-")) for cell in cells]

    assert numbers(seen["down"]) == sorted(numbers(seen["down"]), reverse=True)
    assert numbers(seen["up"]) == sorted(numbers(seen["up"]))
    assert seen["sorted"] == "descending"
    assert seen["hidden"] == seen["groups"] == 7
    assert seen["catsAfter"] == seen["cats"]
    assert seen["catsSorted"] == 30
    assert (seen["all"], seen["found"], seen["none"]) == (6, 1, 0)
    assert seen["status"] == "1 of 6 latents"


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: set MODELDIFF_AXE to its axe.min.js")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 500])
@pytest.mark.parametrize("name", ["full", "minimal", "maps"])
def test_axe_finds_nothing_serious(tmp_path: Path, name: str, width: int, dark: bool) -> None:
    """500 is the narrowest window of a headless Chromium, where tables scroll sideways."""
    card: Card = with_maps() if name == "maps" else CARDS[name]
    html = render_html(card, links=[("JSON", "card.json")])
    if dark:
        html = html.replace("(prefers-color-scheme: dark)", "all")
    run = _REPORT + _AXE
    page = _write(tmp_path, with_script(html, AXE.read_text("utf-8") + "\n" + run))
    violations = json.loads(reported(dumped(page, tmp_path / "c", flags=(f"--window-size={width},900",))))
    said = [(v["impact"], v["id"], [n.get("html", "")[:200] for n in v.get("nodes", [])][:4]) for v in violations]
    assert [v for v in said if v[0] in ("serious", "critical")] == []
