"""The packaged taxonomy is the paper's, and broken files are refused with what is wrong and where."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeldiff_eval.errors import UsageError
from modeldiff_eval.resources import resource
from modeldiff_eval.taxonomy import Taxonomy


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return Taxonomy.load()


@pytest.fixture
def raw() -> dict[str, Any]:
    return {
        "version": 1,
        "classes": [
            {
                "code": "A",
                "name": "Tone",
                "categories": [
                    {"code": "A.1", "name": "Polite", "description": "Kind words.", "cues": ["please", "thank you"]},
                    {"code": "A.2", "name": "Rude", "description": "Unkind words.", "cues": ["shut up"]},
                ],
            },
            {
                "code": "B",
                "name": "Topic",
                "categories": [{"code": "B.3", "name": "Boats", "description": "Things that float.", "cues": ["hull"]}],
            },
        ],
    }


def refused(raw: Any) -> str:
    with pytest.raises(UsageError) as caught:
        Taxonomy.from_mapping(raw, source="t.yaml")
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith("t.yaml")
    return message


def test_the_packaged_one_has_the_papers_classes_and_codes(taxonomy: Taxonomy) -> None:
    assert [(c.code, len(c.categories)) for c in taxonomy.classes] == [
        ("A", 6), ("B", 3), ("C", 4), ("D", 4), ("E", 3), ("F", 3), ("G", 7),
    ]  # fmt: skip
    assert [int(c.code.split(".")[1]) for c in taxonomy.categories] == list(range(1, 31))
    assert taxonomy.class_of("B.7").name == "Linguistic Capabilities"
    assert taxonomy.class_of("G").name == "Specialized Capabilities"
    assert taxonomy.category("G.30").name == "Model Self-Reference"
    assert taxonomy.index["D.14"] == 13


def test_every_packaged_category_has_enough_cues_of_its_own(taxonomy: Taxonomy) -> None:
    seen: set[str] = set()
    for category in taxonomy.categories:
        assert 10 <= len(category.cues) <= 20, category.code
        assert len(category.description.split()) >= 15, category.code
        assert not seen & set(category.cues), category.code
        seen |= set(category.cues)


def test_a_file_is_read_and_its_fingerprint_follows_the_content(tmp_path: Path, raw: dict[str, Any]) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(raw))
    one = Taxonomy.load(path)
    assert [c.code for c in one.categories] == ["A.1", "A.2", "B.3"]
    assert Taxonomy.load(path).fingerprint == one.fingerprint
    raw["classes"][1]["categories"][0]["cues"] = ["keel"]
    assert Taxonomy.from_mapping(raw).fingerprint != one.fingerprint


def test_cues_may_be_left_out(raw: dict[str, Any]) -> None:
    del raw["classes"][0]["categories"][0]["cues"]
    assert Taxonomy.from_mapping(raw).categories[0].cues == ()


def test_duplicate_codes_and_names_are_refused(raw: dict[str, Any]) -> None:
    twice = copy.deepcopy(raw)
    twice["classes"][0]["categories"][1]["code"] = "A.1"
    assert "category code 'A.1' appears twice" in refused(twice)
    twice = copy.deepcopy(raw)
    twice["classes"][1]["code"] = "A"
    assert "class code 'A' appears twice" in refused(twice)
    raw["classes"][0]["categories"][1]["name"] = "Polite"
    assert "category name 'Polite' appears twice" in refused(raw)


def test_a_category_whose_class_is_missing_or_another_is_refused(raw: dict[str, Any]) -> None:
    missing = copy.deepcopy(raw)
    missing["classes"][1]["categories"][0]["code"] = "C.3"
    assert "belongs to class 'C', which is missing" in refused(missing)
    raw["classes"][1]["categories"][0]["code"] = "A.3"
    assert "stands under class B" in refused(raw)


def test_unknown_keys_get_a_suggestion(raw: dict[str, Any]) -> None:
    raw["classes"][0]["categories"][0]["descripton"] = "x"
    message = refused(raw)
    assert "unknown key 'descripton'" in message
    assert "Did you mean 'description'?" in message
    assert "A.1" in message or "categories[0]" in message


@pytest.mark.parametrize("code", ["A1", "A.", "a.1", "A.x", ".1", "A.1.2", "A 1"])
def test_the_format_of_a_category_code_is_checked(raw: dict[str, Any], code: str) -> None:
    raw["classes"][0]["categories"][0]["code"] = code
    assert repr(code) in refused(raw)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("classes",), [], "'classes' is empty"),
        (("classes",), None, "'classes' is empty"),
        (("classes", 0, "categories"), [], "'categories' is empty"),
        (("classes", 0, "name"), " ", "'name' is ' '"),
        (("classes", 0, "categories", 0, "description"), 3, "'description' is 3"),
        (("classes", 0, "categories", 0, "cues"), ["ok", 7], "cues[1] is 7"),
        (("classes", 0, "categories", 0, "cues"), ["ok", "ok"], "cue 'ok' appears twice"),
        (("classes", 0, "categories", 0, "signal"), "non_englsh", "Did you mean 'non_english'?"),
        (("version",), 2, "version 2 is not known"),
        (("version",), True, "version True is not known"),
    ],
)
def test_empty_and_odd_values_are_refused(raw: dict[str, Any], path: tuple[Any, ...], value: Any, said: str) -> None:
    at: Any = raw
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    assert said in refused(raw)


@pytest.mark.parametrize("raw_value", [None, [], "text", 3])
def test_a_file_that_is_no_mapping_is_refused(raw_value: Any) -> None:
    assert "expected a mapping" in refused(raw_value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read the taxonomy file"):
        Taxonomy.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("classes:\n  - code: A\n   name: x\n")
    with pytest.raises(UsageError, match=r"broken\.yaml, line \d+: not valid YAML"):
        Taxonomy.load(broken)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"classes: \xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        Taxonomy.load(binary)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("classes: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        Taxonomy.load(path)


def test_unknown_codes_get_a_suggestion(taxonomy: Taxonomy) -> None:
    with pytest.raises(UsageError, match=r"no category 'G\.300'.*Did you mean 'G\.30'"):
        taxonomy.category("G.300")
    with pytest.raises(UsageError, match="no class or category 'H'"):
        taxonomy.class_of("H")


def test_the_packaged_file_is_found_as_a_resource() -> None:
    assert resource("data/taxonomy.yaml").is_file()
