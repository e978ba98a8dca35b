from __future__ import annotations

import asyncio
import builtins
from typing import Any

import pytest

from memory_service.errors import EmbedderUnavailable, InvalidInput
from memory_service.providers.embeddings.registry import EmbedderSpec, open_embedder


@pytest.mark.parametrize(
    ("text", "options", "name", "stored"),
    [
        ("builtin", {}, "builtin:1", '{"model":"1","provider":"builtin"}'),
        ("openai:bge-m3:latest", {}, "openai:bge-m3:latest", '{"model":"bge-m3:latest","provider":"openai"}'),
        (
            "openai:e5",
            {"base_url": "http://localhost:11434", "dimensions": 256, "query_prefix": "query: "},
            "openai:e5?base_url=http://localhost:11434/v1&dimensions=256&query_prefix=query:+",
            '{"base_url":"http://localhost:11434/v1","dimensions":256,"model":"e5","provider":"openai",'
            '"query_prefix":"query: "}',
        ),
        ("fastembed:BAAI/bge-m3", {}, "fastembed:BAAI/bge-m3", '{"model":"BAAI/bge-m3","provider":"fastembed"}'),
    ],
)
def test_written_down_and_read_again(text: str, options: dict[str, Any], name: str, stored: str) -> None:
    spec = EmbedderSpec.parse(text, **options)
    assert spec.name == name
    assert spec.to_json() == stored
    assert EmbedderSpec.from_json(stored) == spec


def test_whatever_changes_vectors_changes_the_name() -> None:
    options: list[dict[str, Any]] = [
        {},
        {"dimensions": 64},
        {"dimensions": 65},
        {"base_url": "http://a.example/v1"},
        {"base_url": "http://b.example/v1"},
        {"query_prefix": "q"},
        {"passage_prefix": "q"},
        {"passage_prefix": "q&dimensions=64"},
    ]
    names = [EmbedderSpec.parse(f"openai:{model}", **given).name for model in ("one", "two") for given in options]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("text", ["", "buildin", "openai", "openai:", "cohere:embed-v4", "builtin:2"])
def test_an_unknown_one_lists_what_there_is(text: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"There is no embedder .* builtin; openai:MODEL .* sentence-transformers:MODEL"
    ):
        EmbedderSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("builtin", {"dimensions": 64}, "takes no dimensions"),
        ("builtin", {"base_url": "http://a.example"}, "takes no base_url"),
        ("fastembed:m", {"base_url": "http://a.example"}, "has no base_url"),
        ("openai:m", {"dimensions": 0}, "between 1 and 4000"),
        ("openai:m", {"dimensions": 4001}, "between 1 and 4000"),
        ("openai:m", {"base_url": "localhost:11434"}, "must begin with http"),
        ("openai:m", {"base_url": "http://[::1"}, "must begin with http"),
        ("openai:m", {"base_url": "http://a.example:port"}, "must begin with http"),
        ("openai:m", {"base_url": "http://me:secret@a.example"}, "MEMORY_EMBEDDER_API_KEY"),
        ("openai:m", {"base_url": "https://a.example/v1?key=secret"}, "MEMORY_EMBEDDER_API_KEY"),
    ],
)
def test_options_that_make_no_sense(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        EmbedderSpec.parse(text, **options)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["http://a.example", "http://a.example/v1/", " http://a.example/v1/embeddings"])
def test_addresses_are_the_same_however_they_end(url: str) -> None:
    assert EmbedderSpec.parse("openai:m", base_url=url).base_url == "http://a.example/v1"


@pytest.mark.parametrize("stored", ["", "[]", "{}", '"builtin"', '{"provider":"openai","model":"m","colour":1}'])
def test_what_was_not_stored_by_us_is_refused(stored: str) -> None:
    with pytest.raises(InvalidInput, match="not a stored embedder"):
        EmbedderSpec.from_json(stored)


@pytest.mark.parametrize(
    ("provider", "package"), [("fastembed", "fastembed"), ("sentence-transformers", "sentence_transformers")]
)
def test_a_missing_extra_is_named(provider: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EmbedderUnavailable) as caught:
        asyncio.run(open_embedder(EmbedderSpec.parse(f"{provider}:any/model")))
    assert f"pip install 'memory-service[{provider}]'" in caught.value.message
    assert not caught.value.is_retryable
