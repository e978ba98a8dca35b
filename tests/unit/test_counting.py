"""What of a content is counted: all that goes into a request, however deep it stands."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from memory_service.core.canonical import dumps
from memory_service.core.counting import counted_text, thinking_text, without_bytes
from memory_service.core.images import media_tokens
from memory_service.core.messages import content_text

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8) + (1_500).to_bytes(4) * 2).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x" * 4_000_000}}
LONG = "tomorrow morning " * 50
FOUND = {"type": "search_result", "source": "s", "title": "Ferries", "content": [{"type": "text", "text": LONG}]}


def result(*parts: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": list(parts)}


def document(source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **fields}


PLAIN_TEXT = {"type": "text", "media_type": "text/plain", "data": LONG}


@pytest.mark.parametrize(
    "block",
    [
        document({"type": "content", "content": LONG}),
        document({"type": "content", "content": [{"type": "text", "text": LONG}]}),
        document({"type": "url", "url": "https://example.com"}, title=LONG),
        document({"type": "file", "file_id": "f"}, context=LONG),
        result(document(PLAIN_TEXT)),
        FOUND,
        result(FOUND),
        result({"type": "tool_result", "content": [{"type": "novelty", "of": [{"any": LONG}]}]}),
        {"type": "text", "text": "x", "citations": [{"type": "char_location", "cited_text": LONG}]},
        {"type": "tool_use", "id": "t", "name": LONG, "input": {}},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"type": "image", "source": {"data": LONG}}},
        {"type": "text", "text": "x", "id": LONG},
        {"type": "tool_use", "id": LONG, "name": "f", "input": {}},
        {"type": "tool_result", "tool_use_id": LONG, "content": "x"},
        result({"type": "thinking", "thinking": LONG}),
        {"type": "novelty", "source": {"type": "base64", "data": LONG}},
    ],
)
def test_text_is_counted_wherever_it_stands(block: dict[str, Any]) -> None:
    assert LONG in counted_text([block])


def test_what_is_nothing_but_text_is_counted_as_it_stands() -> None:
    answer = result({"type": "text", "text": "b", "citations": None}) | {"is_error": True}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    assert counted_text([{"type": "text", "text": "a"}, answer, call, IMAGE]) == 'a\nt b\nt f {"a":1}\nimage/png'


@pytest.mark.parametrize(
    "block",
    [
        result({"type": "text", "text": "see"}, IMAGE, IMAGE),
        document({"type": "content", "content": [IMAGE, IMAGE]}),
        {"type": "novelty", "content": [IMAGE, result(IMAGE)]},
    ],
)
def test_images_cost_their_size_however_deep_they_stand(block: dict[str, Any]) -> None:
    assert media_tokens(block) == 2 * media_tokens(IMAGE) == 6_000
    assert PNG not in counted_text([block])
    assert PNG not in dumps(without_bytes(block))


def test_a_pdf_costs_its_length_inside_a_tool_result_too() -> None:
    assert media_tokens(result(PDF)) == media_tokens(PDF) == 75_000


def test_thinking_is_counted_apart_by_its_signature_when_it_is_withheld() -> None:
    open_one = {"type": "thinking", "thinking": "hm", "signature": "s"}
    withheld = [{"type": "thinking", "thinking": "", "signature": "sig"}, {"type": "redacted_thinking", "data": "d"}]
    assert counted_text([open_one, *withheld]) == "\n\n"
    assert thinking_text([{"type": "text", "text": "a"}, open_one, *withheld]) == "hm\nsig\nd"


def test_recall_reads_search_results_and_documents_of_blocks() -> None:
    parts = document({"type": "content", "content": [{"type": "text", "text": "Oskar's ferry"}]})
    assert content_text([result(FOUND), parts]) == f"Ferries\n{LONG}\nOskar's ferry"
    assert content_text([document({"type": "content", "content": "as a string"})]) == "as a string"
