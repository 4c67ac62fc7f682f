"""The explorer: what is found, what a correction does, who is let in, and that nothing in a run can act."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestClient, TestServer
from sample_run import latent, write_run

from modeldiff_eval.annotate_human import HumanAnnotator, read_review
from modeldiff_eval.errors import UsageError
from modeldiff_eval.explorer import Explorer
from modeldiff_eval.explorer_data import PAGE, Explored, Query
from modeldiff_eval.explorer_remake import Remake, settings_of, taxonomy_of
from modeldiff_eval.review import reviewable
from modeldiff_eval.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load(None)
Talk = Callable[[TestClient[Any, Any]], Awaitable[Any]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def numbers(run: Path, **query: str) -> list[int]:
    return [found.latent for found in Explored(run).find(Query.of(query)).latents]


def visit(explorer: Explorer, talk: Talk, *, enter: bool = True) -> Any:
    """Speak with the application over HTTP on the loopback address."""

    async def main() -> Any:
        async with TestClient(TestServer(explorer.application())) as client:
            if enter:
                await client.get("/", params={"token": explorer.token})
            return await talk(client)

    return asyncio.run(main())


async def text_of(client: TestClient[Any, Any], path: str, status: int = 200) -> str:
    answer = await client.get(path)
    text: str = await answer.text()
    assert answer.status == status, text
    return text


def key_of(text: str) -> str:
    match = re.search(r'name="key" value="([0-9a-f]+)"', text)
    assert match
    return match[1]


# Finding ---------------------------------------------------------------------------------------------


def test_claims_come_first_and_filters_hold(run: Path) -> None:
    assert numbers(run) == [0, 1, 2, 3, 4, 5]
    assert numbers(run, kind="specific") == [0, 1]
    assert numbers(run, kind="shifted", nu_max="0.15") == [0, 1]
    assert numbers(run, kind="weak") == [3]
    assert numbers(run, frequency_min="0.25", frequency_max="0.45") == [2, 3]
    assert numbers(run, side="base") == []
    assert numbers(run, order="frequency", down="1") == [5, 4, 3, 2, 1, 0]


def test_words_are_looked_for_in_names_and_examples(run: Path) -> None:
    assert numbers(run, q="KIND 4.") == [4]
    assert numbers(run, q="word3 base--tuned") == [3]
    assert numbers(run, q=".*") == []


def test_classes_categories_and_none(tmp_path: Path) -> None:
    rows = [latent(0), latent(1, category="A.2"), latent(2, category="B.7"), latent(3, category=None)]
    rows.append(latent(4, category=None, label=None, description=None, annotation_failure="not annotated"))
    run = write_run(tmp_path / "run", rows)
    assert numbers(run, group="A") == [0, 1]
    assert numbers(run, group="A.2") == [1]
    assert numbers(run, group="none") == [3]
    assert numbers(run, kind="all") == [0, 1, 2, 3, 4]


def test_pages_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [latent(n) for n in range(PAGE + 3)])
    page = Explored(run).find(Query.of({"page": "9"}))
    assert (page.first, page.last, page.total, page.pages) == (PAGE + 1, PAGE + 3, PAGE + 3, 2)


@pytest.mark.parametrize("given", [{"page": "0"}, {"nu_max": "much"}, {"q": "x" * 201}])
def test_an_impossible_query_is_said(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        Query.of(given)


def test_what_is_no_run_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="There is no card"):
        Explored(tmp_path)
    (run / "latents.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="Cannot read the tables"):
        Explored(run)
    pd.DataFrame({"latent": [1]}).to_parquet(run / "latents.parquet")
    with pytest.raises(UsageError, match="no column"):
        Explored(run)


# Correcting ------------------------------------------------------------------------------------------


def test_a_correction_is_what_the_human_annotator_reads(run: Path) -> None:
    async def talk(client: TestClient[Any, Any]) -> str:
        key = key_of(await text_of(client, "/latent/2"))
        sent = {"key": key, "label": "=greetings", "category": "B.7", "note": "seen"}
        answer = await client.post("/latent/2", data=sent)
        assert answer.status == 200
        assert "Kept in review.csv" in await answer.text()
        return await text_of(client, "/latent/2")

    text = visit(Explorer(run), talk)
    assert 'value="=greetings"' in text
    assert re.findall(r'<option value="([^"]*)" selected', text) == ["B.7"]
    assert "(1 corrected)" in text
    evidence, _ = reviewable(run, everything=True)
    annotator = HumanAnnotator(TAXONOMY, run / "review.csv")
    annotator.meet(evidence)
    annotator.require_met()
    said = {a.latent: a for a in annotator.annotate(evidence)}
    assert (said[2].label, said[2].category, said[2].description) == ("=greetings", "B.7", "Texts of kind 2.")
    assert said[1].failure == "not reviewed"


def test_latents_of_two_dictionaries_with_one_number_are_told_apart(tmp_path: Path) -> None:
    rows = [latent(7, crosscoder="anchor--base", model="base"), latent(7, crosscoder="anchor--tuned")]
    run = write_run(tmp_path / "run", [row | {"specific": True} for row in rows])

    async def talk(client: TestClient[Any, Any]) -> None:
        for place, label in ((0, "of base"), (1, "of tuned")):
            key = key_of(await text_of(client, f"/latent/{place}"))
            assert (await client.post(f"/latent/{place}", data={"key": key, "label": label})).status == 200

    visit(Explorer(run), talk)
    evidence, _ = reviewable(run)
    annotator = HumanAnnotator(TAXONOMY, run / "review.csv")
    assert [a.label for a in annotator.annotate(evidence)] == ["of base", "of tuned"]


def test_a_wrong_correction_keeps_what_was_there_and_empty_takes_it_back(run: Path) -> None:
    explorer = Explorer(run)

    async def talk(client: TestClient[Any, Any]) -> None:
        key = key_of(await text_of(client, "/latent/1"))
        await client.post("/latent/1", data={"key": key, "category": "A.2"})
        before = (run / "review.csv").read_bytes()
        answer = await client.post("/latent/1", data={"key": key, "category": "Z.9", "label": "mine"})
        text = await answer.text()
        assert answer.status == 400
        assert "no category" in text
        assert 'value="mine"' in text
        assert (run / "review.csv").read_bytes() == before
        await client.post("/latent/1", data={"key": key})

    visit(explorer, talk)
    assert read_review(run / "review.csv", TAXONOMY) == {}
    assert not list(run.glob("*.check"))


def test_a_review_that_was_there_is_gone_on_with(run: Path) -> None:
    async def first(client: TestClient[Any, Any]) -> None:
        await client.post("/latent/0", data={"key": key_of(await text_of(client, "/latent/0")), "label": "one"})

    async def second(client: TestClient[Any, Any]) -> None:
        await client.post("/latent/1", data={"key": key_of(await text_of(client, "/latent/1")), "label": "two"})

    visit(Explorer(run), first)
    visit(Explorer(run), second)
    assert {review.label for review in read_review(run / "review.csv", TAXONOMY).values()} == {"one", "two"}


def test_two_explorers_keep_what_both_were_told(run: Path) -> None:
    one, two = Explorer(run), Explorer(run)  # Both have read the file before either writes.

    async def first(client: TestClient[Any, Any]) -> None:
        await client.post("/latent/0", data={"key": key_of(await text_of(client, "/latent/0")), "label": "one"})

    async def second(client: TestClient[Any, Any]) -> None:
        await client.post("/latent/1", data={"key": key_of(await text_of(client, "/latent/1")), "label": "two"})

    visit(one, first)
    visit(two, second)
    assert {review.label for review in read_review(run / "review.csv", TAXONOMY).values()} == {"one", "two"}


def test_the_same_settings_but_for_the_names(run: Path, tmp_path: Path) -> None:
    assert settings_of(run, run / "review.csv")["annotator"] == f"human:{(run / 'review.csv').resolve()}"
    paid = write_run(tmp_path / "paid", annotator="claude")
    with pytest.raises(UsageError, match="named by claude"):
        settings_of(paid, paid / "review.csv")
    (paid / "run.json").write_text("[]")
    with pytest.raises(UsageError, match="does not say how"):
        settings_of(paid, paid / "review.csv")


def test_a_card_that_cannot_be_made_again_leaves_the_old_one(run: Path) -> None:
    """The run's settings name no models here, so the command itself refuses."""
    before = (run / "card.json").read_bytes()

    async def talk(client: TestClient[Any, Any]) -> str:
        assert (
            "Nothing has been corrected"
            in await (await client.post("/card", data={"key": key_of(await text_of(client, "/latent/0"))})).text()
        )
        key = key_of(await text_of(client, "/latent/0"))
        await client.post("/latent/0", data={"key": key, "label": "one"})
        text = await (await client.post("/card", data={"key": key})).text()
        for _ in range(200):
            if "exit code" in text:
                break
            assert 'http-equiv="refresh"' in text
            await asyncio.sleep(0.1)
            text = await text_of(client, "/card")
        return text

    text = visit(Explorer(run), talk)
    assert "exit code 2; the card is as it was" in text
    assert (run / "card.json").read_bytes() == before


def own_taxonomy(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "version: 1\nclasses:\n  - {code: Q, name: Mine, categories: [{code: Q.1, name: One, description: x, cues: [a, b]}]}\n"
    )
    return path


@pytest.mark.parametrize("where", ["made/mine/t.yaml", "made/run/t.yaml", "here/mine/t.yaml", "mine/t.yaml"])
def test_a_relative_taxonomy_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Where the run was made, copied into the run, here, or above the run (runs of before did not say where they were made)."""
    (tmp_path / "here").mkdir()
    made_in = str(tmp_path / "made") if where == "made/mine/t.yaml" else None
    run = write_run(tmp_path / "made" / "run", taxonomy="mine/t.yaml", cwd=made_in)
    file = own_taxonomy(tmp_path / where)
    monkeypatch.chdir(tmp_path / "here")
    assert taxonomy_of(run) == file
    assert [c.code for c in Explorer(run).taxonomy.classes] == ["Q"]
    assert settings_of(run, run / "review.csv")["taxonomy"] == str(file)


def test_the_taxonomy_of_where_the_run_was_made_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", taxonomy="t.yaml", cwd=str(tmp_path / "made"))
    for folder in ("here", "run", "made"):
        own_taxonomy(tmp_path / folder / "t.yaml")
    monkeypatch.chdir(tmp_path / "here")
    assert taxonomy_of(run) == tmp_path / "made" / "t.yaml"


@pytest.mark.parametrize("named", ["gone.yaml", "/nowhere/gone.yaml"])
def test_a_taxonomy_that_is_gone_is_said_with_what_to_do(tmp_path: Path, named: str) -> None:
    run = write_run(tmp_path / "run", taxonomy=named)
    with pytest.raises(UsageError, match=re.escape(f"copy it to {run / 'gone.yaml'}")):
        Explorer(run)


def test_the_card_is_made_again_where_the_run_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base, corpus and the rest may be relative as well; no module is taken from that folder."""
    (tmp_path / "made").mkdir()
    (tmp_path / "here").mkdir()
    run = write_run(tmp_path / "here" / "run", cwd=str(tmp_path / "made"))
    started: list[tuple[list[str], Path]] = []
    monkeypatch.setattr(
        "modeldiff_eval.explorer_remake.subprocess.Popen", lambda command, *, cwd, **_: started.append((command, cwd))
    )
    monkeypatch.chdir(tmp_path / "here")
    Remake(Path("run"), Path("run/review.csv"))
    ((command, cwd),) = started
    assert cwd == tmp_path / "made"
    assert command[1] == "-P"
    assert str(run) in command
    assert json.loads((run / "explore.settings.json").read_text())["annotator"] == f"human:{run / 'review.csv'}"


# Who is let in, and what cannot act ------------------------------------------------------------------


def test_without_the_token_nothing_is_shown(run: Path) -> None:
    explorer = Explorer(run)

    async def talk(client: TestClient[Any, Any]) -> None:
        for path in ("/", "/latent/0", "/card.html", "/?token=wrong", "/none"):
            answer = await client.get(path)
            assert answer.status == 403
            assert "name 0" not in await answer.text()
        assert (await client.post("/latent/0", data={"label": "x"})).status == 403

    visit(explorer, talk, enter=False)
    assert not (run / "review.csv").exists()


def test_another_name_of_this_machine_and_another_sites_form_are_refused(run: Path) -> None:
    async def talk(client: TestClient[Any, Any]) -> None:
        assert (await client.get("/", headers={"Host": "evil.example"})).status == 403
        assert (await client.post("/latent/0", data={"label": "x"})).status == 403
        assert (await client.post("/latent/0", data={"key": "0" * 64, "label": "x"})).status == 403
        assert (await client.put("/latent/0")).status == 405

    visit(Explorer(run), talk)
    assert not (run / "review.csv").exists()


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    nasty = '"><script>alert(1)</script>\u202e\x00'
    run = write_run(tmp_path / "run", [latent(0, label=nasty, description=nasty, category="A.1")])

    async def talk(client: TestClient[Any, Any]) -> list[tuple[str, Any]]:
        answers = [
            await client.get(path) for path in ("/", "/latent/0", f"/?q={'%3Cscript%3E'}", "/latent/99", "/none")
        ]
        return [(await answer.text(), answer.headers) for answer in answers]

    for text, headers in visit(Explorer(run), talk):
        assert "<script" not in text
        assert not any(char in text for char in "\u202e\x00\x1b")
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"
        assert not re.search(r'(?:src|href|action)="(?:[a-z]+:|//)', text)


def test_errors_are_pages(run: Path) -> None:
    async def talk(client: TestClient[Any, Any]) -> None:
        assert "selected" not in await text_of(client, "/latent/0")
        assert '<option value="none" selected' in await text_of(client, "/?group=none")
        assert "There is no row 99" in await text_of(client, "/latent/99", 400)
        assert "Not Found" in await text_of(client, "/none", 404)
        assert "page:" in await text_of(client, "/?page=x", 400)
        (run / "card.html").unlink()
        assert "modeldiff-eval render" in await text_of(client, "/card.html", 400)

    visit(Explorer(run), talk)


@contextmanager
def served(run: Path, end: signal.Signals = signal.SIGINT) -> Iterator[tuple[str, list[str]]]:
    """The command over a run: the address that it printed, and a list that gets exit code and standard error at its end."""
    command = [sys.executable, "-m", "modeldiff_eval.cli", "explore", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ended: list[str] = []
        try:
            yield process.stdout.readline().strip(), ended
            process.send_signal(end)
            _, said = process.communicate(timeout=20)
            ended += [str(process.returncode), said]
        finally:
            process.kill()


def test_the_command_prints_an_address_that_works_and_ctrl_c_ends_it_without_a_word(run: Path) -> None:
    with served(run) as (address, ended):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S+", address)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"name 0" in opener.open(address, timeout=20).read()
    assert ended == ["0", ""]


def test_sigterm_ends_it_without_a_word_and_with_its_own_code(run: Path) -> None:
    with served(run, signal.SIGTERM) as (_, ended):
        pass
    assert ended == ["143", ""]


def test_two_explorers_in_one_browser_both_answer(run: Path, tmp_path: Path) -> None:
    """Browsers keep one set of cookies for all ports of a host, as this one does."""
    other = write_run(tmp_path / "other")

    async def main() -> None:
        explorers = [Explorer(run), Explorer(other)]
        servers = [TestServer(explorer.application()) for explorer in explorers]
        async with servers[0], servers[1], ClientSession(cookie_jar=CookieJar(unsafe=True)) as browser:
            for _ in range(2):
                for explorer, server in zip(explorers, servers, strict=True):
                    await browser.get(server.make_url("/"), params={"token": explorer.token})
                for server in servers:
                    assert (await browser.get(server.make_url("/"))).status == 200

    asyncio.run(main())


MALFORMED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n",
    "a port that is none": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:x\r\n\r\n",
    "a port beyond all": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:99999999\r\n\r\n",
    "a host of bytes": b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "an address of bytes": b"GET /?token=\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a cookie of bytes": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: modeldiff_explore_80=\xff\xfe\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\r\n\r\n",
}
FORMS = [("multipart/form-data", b"abc"), ("multipart/form-data; boundary=x", b"abc")]
FORMS += [("application/x-www-form-urlencoded" + rest, b"key=\xff") for rest in ("", "; charset=nope")]


def test_what_is_no_request_is_refused_and_not_reported(run: Path) -> None:
    with served(run) as (address, ended):
        port, token = int(address.split(":")[2].split("/")[0]), address.partition("token=")[2]
        head = f"POST /card HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: modeldiff_explore_{port}={token}\r\n".encode()
        forms = {
            f"{kind} {body!r}": head + f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            for kind, body in FORMS
        }
        for what, sent in (MALFORMED | forms).items():
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(sent)
                answer = connection.recv(4096)
            assert re.match(rb"HTTP/1\.[01] 40[03] ", answer), (what, answer)
    assert ended == ["0", ""]


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "modeldiff_eval.cli", "explore", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "There is no card" in done.stderr
    assert json.dumps(str(tmp_path))[1:-1] in done.stderr.replace("\n", "")
