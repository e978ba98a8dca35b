"""What becomes of a turn's volatile text and thinking when it closes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_service.core.truncation import TruncationStrategy
from tests.property.checks import check_extends, check_kept, check_rebuilt
from tests.property.simulator import CLAUDE, CLAUDE_BINDING, GPT_EXPLICIT, UNPRICED, Built, Simulator, Spec
from tests.unit.make import call, result, thought

SPEC = Spec(max_prompt_tokens=16_000, recall_tokens=600)
FACT = "The zephyrine teapot belongs to Ingeborg."


def talk(thread: Simulator, turns: int, size: int = 400) -> None:
    for number in range(turns):
        thread.append("user", f"Question {number}? ".ljust(size, "q"))
        thread.append("assistant", f"Answer {number}. ".ljust(size, "a"))


def loop(thread: Simulator, spec: Spec, trips: int, size: int = 400) -> Built:
    """A turn that looks something up again and again, with a prompt for each call; not closed yet."""
    thread.append("user", "Whose is the zephyrine teapot?")
    built = thread.build(spec)
    for trip in range(trips):
        id_ = f"{thread.last_seq}_{trip}"
        thread.append("assistant", [thought("t" * 50), call(id_)])
        thread.append("user", [result(id_, "r" * size)])
        built = thread.build(spec)
    return built


def close(thread: Simulator, spec: Spec) -> Built:
    thread.append("assistant", [thought("last"), {"type": "text", "text": "Ingeborg's."}])
    thread.append("user", "Thanks. And the cup?")
    return thread.build(spec)


def long_thread() -> Simulator:
    """A thread whose beginning has left the window, with much room left in it."""
    thread = Simulator(own=("Be kind.",))
    thread.append("user", FACT)
    thread.append("assistant", "Noted.")
    while not thread.lanes or next(iter(thread.lanes.values())).first_seq == 1:
        talk(thread, 1, 900)
        thread.append("user", "Well?")
        thread.build(SPEC)
        thread.append("assistant", "Yes.")
    return thread


def test_behind_a_long_loop_the_turn_is_kept_as_it_was_sent() -> None:
    thread = long_thread()
    last = loop(thread, SPEC, 8)
    assert FACT in last.prompt.volatile.recalled_text
    closed = close(thread, SPEC)
    (kept,) = closed.window.kept
    assert (kept.first_seq, kept.last_seq) == (last.window.open_turn.first_seq, last.window.last_seq)
    assert kept.volatile == last.prompt.volatile
    assert closed.prompt.breaks == ()
    check_extends(last, closed)
    check_kept(last, closed)
    check_rebuilt(thread, closed)
    assert closed.prompt.prediction.cache_read_tokens > 0.8 * last.prompt.tokens.total
    assert closed.text.count('"thinking"') == 2 * 8, "what was sent stays, the last answer's was never sent"
    tokens = closed.prompt.tokens
    assert tokens.window > sum(m.counts.text_bytes for m in thread.messages if m.seq >= closed.window.first_seq)


def test_what_is_kept_is_not_recalled_again() -> None:
    thread = long_thread()
    loop(thread, SPEC, 8)
    thread.append("assistant", "Ingeborg's.")
    thread.append("user", "Whose is the zephyrine teapot, again?")
    again = thread.build(SPEC)
    assert again.window.kept
    assert again.text.count(FACT) == 1


def test_behind_a_short_loop_it_is_dropped() -> None:
    thread = long_thread()
    last = loop(thread, SPEC, 1, size=20)
    assert last.prompt.volatile.recalled
    closed = close(thread, SPEC)
    assert closed.window.kept == ()
    assert [b.reason for b in closed.prompt.breaks] == ["turn_closed"]
    assert '"thinking"' not in closed.text


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, strategy=TruncationStrategy("sliding")),
        replace(SPEC, strategy=TruncationStrategy("last_messages", 40)),
        # Read for nearly as much as it is written: nothing is gained.
        replace(SPEC, model=replace(CLAUDE, cache_read_usd=5.5)),
    ],
    ids=["sliding", "last_messages", "dear to read"],
)
def test_where_it_does_not_pay_nothing_is_kept(spec: Spec) -> None:
    thread = long_thread()
    loop(thread, spec, 8)
    assert close(thread, spec).window.kept == ()


@pytest.mark.parametrize("model", [GPT_EXPLICIT, UNPRICED])
def test_other_providers_keep_too(model: object) -> None:
    spec = replace(SPEC, model=model)  # type: ignore[arg-type]
    thread = Simulator(own=("Be kind.",))
    last = loop(thread, replace(spec, context=("It is Monday. " * 20,)), 8)
    closed = close(thread, spec)
    assert closed.window.kept
    assert closed.prompt.breaks == ()
    assert closed.prompt.prediction.cache_read_tokens > 0.8 * last.prompt.tokens.total


def test_a_trim_drops_what_was_kept() -> None:
    thread = long_thread()
    loop(thread, SPEC, 8)
    assert close(thread, SPEC).window.kept
    while not (built := thread.build(SPEC)).window.trimmed:
        assert built.window.kept
        thread.append("assistant", "Yes.")
        talk(thread, 1, 900)
        thread.append("user", "Well?")
    assert built.window.kept == ()
    assert '"thinking"' not in built.text
    assert built.prompt.breaks[0].reason == "trimmed"


def test_a_pause_that_outlives_the_prompt_cache_drops_it_too() -> None:
    thread = long_thread()
    loop(thread, SPEC, 8)
    thread.now += 301
    assert close(thread, SPEC).window.kept == ()


def test_thinking_is_not_shown_behind_what_changed() -> None:
    thread = long_thread()
    loop(thread, SPEC, 8)
    assert close(thread, SPEC).window.kept
    thread.own = ("Be curt.",)
    changed = thread.build(SPEC)
    assert changed.window.kept == ()
    assert {b.reason for b in changed.prompt.breaks} == {"instructions_changed", "turn_closed"}


@pytest.mark.parametrize("at", ["quoted", "before", "inside", "behind"])
def test_an_edit_drops_what_stands_behind_it(at: str) -> None:
    thread = long_thread()
    loop(thread, SPEC, 8)
    first = close(thread, SPEC)
    (kept,) = first.window.kept
    seqs = [m.seq for m in thread.messages]
    seq = {
        "quoted": 1,
        "before": next(m.seq for m in thread.messages if m.seq >= first.window.first_seq and m.role == "user"),
        "inside": kept.first_seq,
        "behind": kept.last_seq + 1,
    }[at]
    thread.edit(seqs.index(seq), "Edited.")
    built = thread.build(SPEC)
    assert bool(built.window.kept) is (at == "behind")
    assert {b.reason for b in built.prompt.breaks} >= {"edited"}
    assert FACT not in built.text or at != "quoted", "what was edited away is not quoted any more"
    check_extends(first, built)


def test_a_loop_that_was_edited_before_it_closed_is_not_kept() -> None:
    thread = long_thread()
    last = loop(thread, SPEC, 8)
    at = next(i for i, m in enumerate(thread.messages) if m.seq == last.window.last_seq)
    thread.edit(at, [result(thread.messages[at].content[0]["tool_use_id"], "Edited.")])
    assert close(thread, SPEC).window.kept == ()


def test_an_edit_of_what_the_window_no_longer_shows_drops_nothing() -> None:
    thread = long_thread()
    loop(thread, SPEC, 8)
    first = close(thread, SPEC)
    unseen = next(m.seq for m in thread.messages if not first.window.kept[0].quotes(m.seq))
    assert unseen < first.window.first_seq
    thread.edit(unseen - 1, "Edited.")
    again = thread.build(SPEC)
    assert again.window.kept == first.window.kept
    assert again.prompt.breaks == ()


BINDING = replace(SPEC, model=CLAUDE_BINDING)


def test_bound_thinking_stays_while_nothing_before_it_moves() -> None:
    thread = long_thread()
    thread.append("user", "hi")
    thread.build(BINDING)
    thread.append("assistant", "yes")
    last = loop(thread, BINDING, 8)
    assert last.text.count('"type":"thinking"') == 8
    assert close(thread, BINDING).text.count('"type":"thinking"') == 8


def test_bound_thinking_goes_when_the_open_turn_moves() -> None:
    thread = long_thread()
    loop(thread, BINDING, 3)
    thread.own = ("Be curt.",)
    moved = thread.build(BINDING)
    assert '"type":"thinking"' not in moved.text
    check_rebuilt(thread, moved)
    assert '"type":"thinking"' in thread.build(SPEC).text, "a model that does not bind it keeps it"
    thread.append("assistant", [thought("new"), call("z")])
    thread.append("user", [result("z")])
    after = thread.build(BINDING)
    assert after.text.count('"type":"thinking"') == 1
    assert after.prompt.breaks == ()
    check_extends(moved, after)
    thread.append("assistant", "Done.")
    thread.append("user", "Thanks.")
    closed = thread.build(BINDING)
    assert closed.text.count('"type":"thinking"') == len(closed.window.kept)
    check_rebuilt(thread, closed)


def test_bound_thinking_of_another_lane_is_left_out() -> None:
    thread = long_thread()
    loop(thread, SPEC, 3)
    assert '"type":"thinking"' not in thread.build(BINDING).text
