"""A row becomes a document."""

from __future__ import annotations

import json

from modeldiff_eval import corpus_document as c


def test_the_same_prompt_with_two_answers_is_one_group() -> None:
    def chat(answer: str) -> c.Document:
        turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        document, _ = c.to_document({"messages": turns}, "x", "y")
        assert document is not None
        return document

    assert chat("a").group == chat("b").group


def test_messages_in_columns_are_messages() -> None:
    columns = {"messages": {"role": ["user", "assistant"], "content": ["Why?", "So."]}}
    document, problem = c.to_document(columns, "x", "y")
    assert (document and document.messages, problem) == ((("user", "Why?"), ("assistant", "So.")), "")
    torn = {"messages": {"role": ["user", "assistant"], "content": ["Why?"]}}
    assert c.to_document(torn, "x", "y") == (None, "a message has no role and content")


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_is_a_character() -> None:
    plain, _ = c.to_document(json.loads(r'{"text": "\ud83d and \ud83d\ude00, \ude00", "id": "\udc00"}'), "x", "y")
    assert plain is not None
    assert (plain.text, plain.id) == ("\ufffd and 😀, \ufffd", "\ufffd")
    halves = {"text": "\ud83d" + "\ude00"}  # as two pieces of one stream are put together
    joined, _ = c.to_document(halves, "x", "y")
    assert joined is not None
    assert joined.text == "😀"
    chat, _ = c.to_document({"messages": [{"role": "user", "content": "Why\ud83d?"}]}, "x", "y")
    assert chat is not None
    assert chat.messages == (("user", "Why\ufffd?"),)
    for document in (plain, chat):
        document.model_dump_json().encode()


def test_a_byte_order_mark_stays() -> None:
    document, _ = c.to_document({"text": "\ufeffWhy?"}, "x", "y")
    assert document is not None
    assert document.text == "\ufeffWhy?"
