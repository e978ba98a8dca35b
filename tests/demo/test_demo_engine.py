"""What the engine's docstring promises, asked of the real server through the official SDKs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from memory_service.demo.engine import Engine, rendered_bytes, write_model
from memory_service.errors import Unavailable

QUESTION = ("user", "Where does the ferry leave? 배는 어디서 떠나요? ⛴️")
MARK = {"cache_control": {"type": "ephemeral"}}
TOOL = {"name": "find", "description": "Finds.", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=engine.base_url, api_key="unused", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def distinct(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A first message no other test sends."""
    return ("user", f"{request.node.name}: hello")


def messages(*turns: tuple[str, Any]) -> Any:
    return [{"role": role, "content": content} for role, content in turns]


def ask(
    client: anthropic.Anthropic, *turns: tuple[str, Any], max_tokens: int = 8, **extra: Any
) -> anthropic.types.Message:
    reply: anthropic.types.Message = client.messages.create(
        model=Engine.model_name, max_tokens=max_tokens, messages=messages(*turns), **extra
    )
    return reply


def read(reply: anthropic.types.Message) -> int:
    return reply.usage.cache_read_input_tokens or 0


def total(reply: anthropic.types.Message) -> int:
    return reply.usage.input_tokens + read(reply)


def reply_text(reply: anthropic.types.Message) -> str:
    (block,) = reply.content
    assert block.type == "text"
    return block.text


def test_the_model_is_always_the_same_small_file(engine: Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_model(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_size < 600_000


def test_a_token_is_a_byte(client: anthropic.Anthropic) -> None:
    turns = [QUESTION, ("assistant", " 5번 선착장\n\n"), ("user", "\t<|im_end|></s> \U0001f642é ")]
    expected = rendered_bytes(turns, system="Be brief.")
    assert total(ask(client, *turns, system="Be brief.")) == expected
    counted = client.messages.count_tokens(model=Engine.model_name, messages=messages(*turns), system="Be brief.")
    assert counted.input_tokens == expected


def test_the_next_turn_reads_the_whole_previous_request(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    first = ask(client, distinct)
    own, other = reply_text(first), "A reply from elsewhere."
    generated = ask(client, distinct, ("assistant", own), ("user", "And then?"))
    assert read(generated) == total(first) + len(own) - 1
    replaced = ask(client, distinct, ("assistant", other), ("user", "And then?"))
    assert read(replaced) == total(first)
    assert first.usage.cache_creation_input_tokens is None


def test_a_divergence_keeps_everything_before_it(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    long = [("user", "An older message. " * 200), ("assistant", "Noted."), distinct]
    ask(client, *long[:2], ("user", "Tail: first version"))
    changed = ask(client, *long[:2], ("user", "Tail: other version"))
    shared = rendered_bytes([*long[:2], ("user", "Tail: ")]) - len("\n<assistant>\n")
    assert read(changed) == shared
    repeated = ask(client, *long[:2], ("user", "Tail: other version"))
    assert read(repeated) == total(repeated) - 1


def test_threads_may_alternate(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    mine = (distinct[0], distinct[1] * 20)
    first = ask(client, mine)
    ask(client, ("user", "Something else entirely. " * 50))
    assert read(ask(client, mine)) == total(first) - 1


def test_markers_change_neither_rendering_nor_reuse(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    def content(**mark: Any) -> list[dict[str, Any]]:
        return [{"type": "text", "text": distinct[1], **mark}, {"type": "text", "text": "two", **mark}]

    def extra(**mark: Any) -> dict[str, Any]:
        return {"system": [{"type": "text", "text": "S", **mark}], "tools": [{**TOOL, **mark}], **mark}

    plain = ask(client, ("user", content()), **extra())
    marked = ask(client, ("user", content(**MARK)), **extra(**MARK))
    assert total(marked) == total(plain)
    assert read(marked) == total(plain) - 1
    joined = ask(client, ("user", distinct[1] + "two"), system="S", tools=[TOOL])
    assert read(joined) == total(joined) - 1 == total(plain) - 1


def test_tool_blocks_are_accepted_and_extend_the_prefix(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"b": 1, "a": "é"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "42"}]}
    first = ask(client, distinct, tools=[TOOL])
    second = ask(client, distinct, ("assistant", [use]), ("user", [result]), tools=[TOOL])
    assert read(second) == total(first)
    added = '<call toolu_1 find>{"b": 1, "a": "é"}\n<tool toolu_1>\n42\n<assistant>\n'
    assert total(second) == total(first) + len(added.encode())


def test_replies_are_short_plain_and_repeatable(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    ask(client, distinct)
    replies = [ask(client, distinct, max_tokens=64) for _ in range(3)]
    texts = {reply_text(reply) for reply in replies}
    assert len(texts) == 1
    assert set(texts.pop()) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert {reply.usage.output_tokens for reply in replies} == {64}
    hot = reply_text(ask(client, distinct, max_tokens=500, extra_body={"temperature": 1.5}))
    assert set(hot) <= set("abcdefghijklmnopqrstuvwxyz ")


def test_streaming_reports_the_same_usage(client: anthropic.Anthropic, distinct: tuple[str, str]) -> None:
    whole = ask(client, distinct)
    with client.messages.stream(model=Engine.model_name, max_tokens=8, messages=messages(distinct)) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == final.content[0].text  # type: ignore[union-attr]
    assert final.usage.cache_read_input_tokens == total(whole) - 1
    assert final.usage.input_tokens == 1
    assert final.usage.output_tokens == 8


def test_openai_counts_the_cached_part_as_well(engine: Engine, distinct: tuple[str, str]) -> None:
    with openai.OpenAI(base_url=f"{engine.base_url}/v1", api_key="unused", max_retries=0) as sdk:
        for _ in range(2):
            answer = sdk.chat.completions.create(
                model=engine.model_name, max_tokens=8, messages=messages(("system", "Be brief."), distinct)
            )
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens == rendered_bytes([distinct], system="Be brief.")
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_a_prompt_over_the_context_is_refused(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="exceeds the available context size"):
        ask(client, ("user", "x" * 40_000))


def test_stop_ends_the_process_and_removes_its_files() -> None:
    if not Engine.available():
        pytest.skip("NO ENGINE: pip install 'memory-service[engine]'")
    with Engine(n_ctx=4096) as engine:
        pid, directory = engine.pid, engine.log_path.parent
        assert pid is not None
        assert directory.is_dir()
        engine.stop()
        engine.stop()
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_server_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    if not Engine.available():
        pytest.skip("NO ENGINE: pip install 'memory-service[engine]'")
    script = (
        "import os; from memory_service.demo.engine import Engine\n"
        "print(Engine(n_ctx=4096).start().base_url, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    parent = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    url = parent.stdout.strip()
    assert url.startswith("http://127.0.0.1:")
    assert_goes_away(url, within_seconds=10)


def assert_goes_away(url: str, *, within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    with httpx2.Client(trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                client.get(f"{url}/health")
            except httpx2.HTTPError:
                return
            time.sleep(0.05)
    pytest.fail(f"{url} still answers")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "available", staticmethod(lambda: False))
    with pytest.raises(Unavailable, match="xllamacpp and gguf"):
        Engine().start()


def test_a_server_that_dies_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Engine.available():
        pytest.skip("NO ENGINE: pip install 'memory-service[engine]'")
    monkeypatch.setattr("memory_service.demo.engine.write_model", lambda path, **_: path.write_bytes(b"nonsense"))
    started = time.monotonic()
    with pytest.raises(Unavailable, match="Its log ends"):
        Engine(start_seconds=20).start()
    assert time.monotonic() - started < 20
