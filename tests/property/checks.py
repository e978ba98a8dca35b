"""What must hold for every prompt, each rule as a function of its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from memory_service.core.canonical import dumps
from memory_service.core.corpus import count_documents
from memory_service.core.counting import counted_text
from memory_service.core.forms import to_request
from memory_service.core.images import media_tokens
from tests.api import anthropic_rules, openai_rules
from tests.property.anthropic_cache import blocks_of, unmarked
from tests.property.simulator import Built, Simulator


def anthropic_body(built: Built) -> dict[str, Any]:
    """The prompt in Anthropic's form, whoever it is for, so that one set of checks reads its layout."""
    request = replace(built.request, provider="anthropic")
    body: dict[str, Any] = json.loads(dumps(to_request(request, built.prompt.layout, "thread_1")))
    return body


def check_budget(thread: Simulator, built: Built) -> None:
    tokens = built.prompt.tokens
    parts = (tokens.system, tokens.tools, tokens.summary, tokens.window, tokens.recall, tokens.volatile)
    assert sum(parts) == tokens.total
    assert tokens.limit == built.spec.max_prompt_tokens
    assert tokens.total <= tokens.limit
    check_prediction(built)
    body = anthropic_body(built)
    counted = count_request(thread, body)
    assert counted <= tokens.total
    # Merged messages and line ends between blocks are counted, though they cost nothing here.
    blocks = list(blocks_of(body))
    thinking = sum(len(block["thinking"]) for _, block in blocks if "thinking" in block)
    assert tokens.total - counted <= 24 + 17 * (len(blocks) + len(built.messages)) + thinking


def check_prediction(built: Built) -> None:
    """Whatever was rounded: each token is billed once, and no place in the prompt lies behind its end."""
    predicted, total = built.prompt.prediction, built.prompt.tokens.total
    bill = (predicted.cache_read_tokens, predicted.cache_write_tokens, predicted.uncached_tokens)
    assert sum(bill) == total
    assert min(bill) >= 0
    places = [0, *(position.tokens for position in built.prompt.positions), total]
    assert places == sorted(places)


def count_request(thread: Simulator, body: dict[str, Any]) -> float:
    """The tokens of a rendered request, by the tokenizer and nothing of the plan."""
    per_request, per_message, *_, per_image_token = thread.tokenizer.scale.weights

    def tokens(text: str) -> float:
        return thread.tokenizer.scale.tokens(thread.tokenizer.count(text))

    system = [block["text"] for block in body.get("system", [])]
    total = per_request + per_message * (len(body["messages"]) + bool(system))
    total += tokens("\n".join(system)) if system else 0
    total += tokens(dumps([*built_tools(thread)])) if body.get("tools") else 0
    for message in body["messages"]:
        for block in message["content"]:
            total += tokens(counted_text([unmarked(block)])) + per_image_token * media_tokens(block)
            total += tokens(block["thinking"]) if block["type"] == "thinking" else 0
    return total


def built_tools(thread: Simulator) -> tuple[Any, ...]:
    return tuple(thread.tools)


def check_valid(built: Built) -> None:
    anthropic_rules.check(anthropic_body(built))
    body = json.loads(dumps(built.body))
    (openai_rules if built.request.provider == "openai" else anthropic_rules).check(body)
    layout = built.prompt.layout
    for mark in layout.marks:
        piece = layout.pieces[mark] if mark >= 0 else None
        assert piece is None or not piece.volatile
        assert piece is None or piece.block["type"] != "thinking"
    assert list(layout.marks) == sorted(set(layout.marks))
    assert len(built.prompt.breakpoints) == len(layout.marks) + layout.mark_shared <= 4
    if built.request.model.cache_rule == "openai_breakpoints":
        roles = [m["role"] for m in body["messages"] if "prompt_cache_breakpoint" in json.dumps(m)]
        assert set(roles) <= {"developer", "user", "tool"}
        assert json.dumps(body).count("prompt_cache_breakpoint") == (
            len(built.prompt.breakpoints) if built.spec.ttl else 0
        )


def check_window(thread: Simulator, built: Built) -> None:
    """The newest messages, all of them and in order, verbatim; the cut on a turn's first message, never going back."""
    window, layout = built.window, built.prompt.layout
    shown = [m for m in thread.messages if m.seq >= window.first_seq]
    whole = [block for m in shown for block in m.content if "thinking" not in block["type"]]
    cut = {s.tool_use_id for s in window.shortened}
    assert bool(cut) == bool(window.cuts) <= built.spec.strategy.shorten_tool_results
    rendered = [
        p.block
        for p in layout.pieces
        if not p.volatile and "thinking" not in p.block["type"] and not _is_repair(built, p.block)
    ]
    assert [b for b in rendered if b.get("tool_use_id") not in cut] == [
        b for b in whole if b.get("tool_use_id") not in cut
    ]
    assert len(rendered) == len(whole)
    for seen, full in zip(rendered, whole, strict=True):
        if full.get("tool_use_id") in cut:
            assert seen["tool_use_id"] == full["tool_use_id"]
            assert "characters are left out here]" in dumps(seen)
            assert len(dumps(seen)) < len(dumps(full))
    assert [p.seq for p in layout.pieces] == sorted(p.seq for p in layout.pieces)
    newest, last = thread.messages[-1].content[-1], layout.pieces[-1].block
    assert last == newest or last.get("tool_use_id") in cut
    if built.lane_before:
        assert window.first_seq >= built.lane_before.first_seq
    first = shown[0]
    opens = first.role == "user" and all(b["type"] != "tool_result" for b in first.content)
    starts_there = first is thread.messages[0] or bool(built.lane_before and not window.trimmed)
    assert opens or starts_there
    if built.spec.strategy.type == "disabled":
        assert first is thread.messages[0]


def _is_repair(built: Built, block: Any) -> bool:
    texts = ("(The assistant opened this conversation.)", "No result was recorded for this tool call.")
    return (block.get("text") or block.get("content")) in texts


def check_volatile(thread: Simulator, built: Built) -> None:
    prompt, window = built.prompt, built.window
    assert all(recalled["seq"] < window.first_seq for recalled in prompt.volatile.recalled)
    texts = (prompt.volatile.recalled_text, prompt.volatile.context_text)
    pieces = [p for p in prompt.layout.pieces if p.volatile and p.seq >= window.open_turn.first_seq]
    assert [p.block["text"] for p in pieces] == [text for text in texts if text]
    for text, tag in zip(texts, ("recalled_messages", "request_context"), strict=True):
        if text:
            assert text.startswith(f"<{tag}>\n")
            assert text.endswith(f"</{tag}>")
            assert text.lower().count(f"<{tag}") == text.lower().count(f"</{tag}") == 1
    messages = prompt.volatile.recalled_text.count("<message ")
    assert messages == prompt.volatile.recalled_text.count("</message>") == len(prompt.volatile.recalled)
    assert messages <= sum(count_documents(entry) for entry in thread.index.values())
    if built.spec.recall and not window.frozen:
        reserve = built.spec.recall_tokens
        assert reserve is None or prompt.volatile.recalled_tokens <= reserve


def check_kept(before: Built | None, built: Built) -> None:
    """Of closed turns, only what is kept shows volatile text and thinking, both as the lane's previous prompt showed them;
    what is quoted there is not recalled again.
    """
    window, layout = built.window, built.prompt.layout
    closed = [p for p in layout.pieces if p.seq < window.open_turn.first_seq]
    spans = [range(kept.first_seq, kept.last_seq + 1) for kept in window.kept]
    special = [i for i, p in enumerate(closed) if p.volatile or "thinking" in p.block["type"]]
    assert all(any(closed[i].seq in span for span in spans) for i in special)
    texts = [t for k in window.kept for t in (k.volatile.recalled_text, k.volatile.context_text) if t]
    assert [p.block["text"] for p in closed if p.volatile] == texts
    if special:
        assert before
        shown = [(p.role, p.json) for p in before.prompt.layout.pieces]
        assert [(p.role, p.json) for p in closed[: special[-1] + 1]] == shown[: special[-1] + 1]
    for kept in window.kept:
        for quoted in re.findall(r"<message .*?</message>", kept.volatile.recalled_text, re.DOTALL):
            assert window.frozen or quoted not in built.prompt.volatile.recalled_text


def check_thinking(earlier: dict[tuple[str, int], list[str]], built: Built) -> None:
    """A model that binds thinking sees it only behind exactly what it was thought behind: the prompt that was answered.

    `earlier` are that lane's prompts, whole, by the last message they showed.
    """
    if not built.request.model.binds_thinking:
        return
    rendered = [f"{p.role} {p.json}" for p in built.prompt.layout.pieces]
    stable = built.prompt.lane.stable_digest
    for at, piece in enumerate(built.prompt.layout.pieces):
        if piece.block["type"] == "thinking":
            asked = max((seq for digest, seq in earlier if digest == stable and seq < piece.seq), default=None)
            assert asked is not None, "no prompt of this lane led to it"
            question = earlier[stable, asked]
            assert rendered[: len(question)] == question
            assert len(question) <= at
    earlier[stable, built.window.last_seq] = rendered


def prefix_of(built: Built, *, whole: bool = False) -> list[str]:
    """The rendered blocks up to the last place that the next prompt should extend, or all of them; markers aside."""
    blocks = list(blocks_of(anthropic_body(built)))
    last = max((i for i, (_, block) in enumerate(blocks) if "cache_control" in block), default=-1)
    return [f"{section} {json.dumps(unmarked(block))}" for section, block in (blocks if whole else blocks[: last + 1])]


def check_extends(before: Built, built: Built) -> None:
    """A prompt extends its lane's previous one, or says why not; and never says so when it does."""
    previous, present = prefix_of(before), prefix_of(built, whole=True)
    reasons = [b.reason for b in built.prompt.breaks]
    assert "changed" not in reasons, "a break without a reason"
    if present[: len(previous)] == previous:
        assert not reasons
    else:
        assert reasons


def check_rebuilt(thread: Simulator, built: Built) -> None:
    assert dumps(thread.rebuild(built)) == built.text
