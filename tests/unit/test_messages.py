"""Turns, tool pairs, and what is mended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from memory_service.core.counting import counted_text
from memory_service.core.messages import (
    MISSING_RESULT,
    OPENED_BY_ASSISTANT,
    Block,
    Repair,
    Tail,
    block_text,
    extend_tail,
    group_turns,
    mend,
    repair,
)
from memory_service.errors import InvalidMessage
from memory_service.providers.tokenizers import O200kCounter
from tests.unit.make import assistant, call, result, text, thought, user


def test_a_turn_lasts_until_the_next_user_message() -> None:
    messages = [
        assistant(1, "welcome"),
        user(2, "hi"),
        assistant(3, call("a")),
        user(4, result("a")),
        assistant(5, "done"),
        user(6, "one"),
        user(7, "two"),
    ]
    assert [(t.first_seq, t.last_seq) for t in group_turns(messages)] == [(1, 1), (2, 5), (6, 6), (7, 7)]
    assert group_turns([]) == []


def test_the_question_of_a_turn_leaves_tool_results_out() -> None:
    (turn,) = group_turns([user(1, result("a"), "never mind", text("really"))])
    assert turn.question == "never mind\nreally"


@pytest.mark.parametrize(
    ("block", "read"),
    [
        (text("a"), "a"),
        (result("a", "b"), "b"),
        ({"type": "tool_result", "content": [text("a"), {"type": "image"}, text("b"), "stray"]}, "a\n\nb"),
        ({"type": "document", "source": {"type": "text", "data": "d"}}, "d"),
        ({"type": "document", "source": {"type": "base64", "data": "d"}}, ""),
        (thought(), ""),
        ({"type": "novelty"}, ""),
    ],
)
def test_what_a_person_would_read_of_a_block(block: Block, read: str) -> None:
    assert block_text(block) == read


def test_a_missing_result_stands_behind_those_that_are_there_and_before_the_text() -> None:
    messages = [user(1, "hi"), assistant(2, call("a"), call("b")), user(3, result("b"), "never mind")]
    repaired, repairs = repair(messages)
    assert [block["type"] for block in repaired[2].content] == ["tool_result", "tool_result", "text"]
    assert repaired[2].content[1] == {
        "type": "tool_result",
        "tool_use_id": "a",
        "content": MISSING_RESULT,
        "is_error": True,
    }
    assert repairs == [Repair(3, "missing_tool_result", "a")]
    assert repaired[:2] == messages[:2]


def test_results_may_be_spread_over_messages() -> None:
    messages = [
        user(1, "hi"),
        assistant(2, call("a")),
        assistant(3, call("b")),
        user(4, result("b")),
        user(5, result("a")),
    ]
    assert repair(messages) == (messages, [])


def test_a_call_at_the_end_waits() -> None:
    messages = [user(1, "hi"), assistant(2, call("a"))]
    assert repair(messages) == (messages, [])


def test_a_greeting_gets_an_opener() -> None:
    repaired, repairs = repair([assistant(1, "welcome"), user(2, "hi")])
    assert [m.role for m in repaired] == ["user", "assistant", "user"]
    assert repaired[0].text == OPENED_BY_ASSISTANT
    assert repairs == [Repair(1, "opened_by_assistant")]


def test_mended_turns_stay_the_turns_they_were() -> None:
    turns = group_turns([assistant(1, call("a")), user(2, "never mind"), assistant(3, "ok")])
    mended, repairs = mend(turns)
    assert [(len(t.messages), t.first_seq, t.last_seq) for t in mended] == [(2, 1, 1), (2, 2, 3)]
    assert len(repairs) == 2
    untouched = group_turns([user(1, "hi")])
    assert mend(untouched) == (tuple(untouched), ())


@pytest.mark.parametrize("id_", ["a", "toolu_01A09q90qw90lq917835lq9", "호출"])
def test_what_is_added_is_counted_and_never_for_less_than_the_tokenizer_finds(id_: str) -> None:
    count = O200kCounter().count
    messages = [assistant(1, call(id_)), user(2, "never mind")]
    before = messages[0].counts + messages[1].counts
    opener, greeting, answer = repair(messages)[0]
    added = count(counted_text(answer.content[:1])) + count(OPENED_BY_ASSISTANT)
    counts = opener.counts + greeting.counts + answer.counts
    assert counts.text_bytes == before.text_bytes + added.text_bytes
    assert 0 <= counts.latin + counts.other - (before.latin + before.other + added.latin + added.other) <= 20


@pytest.mark.parametrize(
    ("tail", "role", "content", "expected"),
    [
        (Tail(), "user", [text("a")], Tail("user")),
        (Tail("user"), "assistant", [call("a"), call("b")], Tail("assistant", ("a", "b"))),
        (Tail("assistant", ("a",)), "assistant", [call("b")], Tail("assistant", ("a", "b"))),
        (Tail("assistant", ("a", "b")), "user", [result("b")], Tail("user", ("a",))),
        (Tail("user", ("a",)), "user", [result("a")], Tail("user")),
        (Tail("assistant", ("a", "b")), "user", [result("b"), text("no")], Tail("user")),
        (Tail("assistant", ("a",)), "user", [text("no")], Tail("user")),
    ],
)
def test_how_a_thread_ends(tail: Tail, role: str, content: Sequence[Block], expected: Tail) -> None:
    assert extend_tail(tail, role, content, "content") == expected


@pytest.mark.parametrize(
    ("tail", "role", "content", "code"),
    [
        (Tail("user"), "assistant", [call("a"), call("a")], "duplicate_tool_use"),
        (Tail("assistant", ("a",)), "assistant", [call("a")], "duplicate_tool_use"),
        (Tail("assistant", ("a",)), "user", [result("a"), result("a")], "duplicate_tool_result"),
        (Tail("assistant", ("a",)), "user", [result("b")], "orphaned_tool_result"),
        (Tail("user"), "user", [result("a")], "orphaned_tool_result"),
        (Tail("assistant", ("a",)), "user", [text("x"), result("a")], "invalid_message"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tail: Tail, role: str, content: Sequence[Block], code: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        extend_tail(tail, role, content, "messages[3].content")
    assert refused.value.code == code
    assert "messages[3].content" in refused.value.message
