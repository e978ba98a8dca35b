"""What a prompt shows, what gives way, and what it says of the prompt before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_service.core.layout import StablePart
from memory_service.core.markup import document_text
from memory_service.core.request import Request
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.window import check_open_calls, plan_window
from memory_service.errors import NoUserMessage, PromptTooLarge
from tests.property.simulator import BYTES, CLAUDE, GPT_EXPLICIT, UNPRICED, Built, Simulator, Spec
from tests.unit.make import assistant, call, result, thought, user


def reasons(built: Built) -> list[str]:
    return [b.reason for b in built.prompt.breaks]


def talk(thread: Simulator, turns: int, size: int = 100) -> None:
    for number in range(turns):
        thread.append("user", f"Question {number}? ".ljust(size, "q"))
        thread.append("assistant", f"Answer {number}. ".ljust(size, "a"))


def step(thread: Simulator, id_: str, size: int = 20) -> None:
    thread.append("assistant", [thought(), call(id_)])
    thread.append("user", [result(id_, "r" * size)])


def test_a_thread_must_end_with_a_user_message() -> None:
    thread = Simulator()
    with pytest.raises(NoUserMessage, match="no messages"):
        thread.build(Spec())
    thread.append("user", "hi")
    thread.append("assistant", "hello")
    with pytest.raises(NoUserMessage, match="nothing to answer"):
        thread.build(Spec())
    thread.append("assistant", [call("a")])
    with pytest.raises(NoUserMessage) as refused:
        thread.build(Spec())
    assert refused.value.details["tool_use_ids"] == ["a"]


def test_some_calls_answered_and_others_not() -> None:
    with pytest.raises(NoUserMessage) as refused:
        check_open_calls(["b"], [user(3, result("a"))])
    assert refused.value.code == "unanswered_tool_use"
    check_open_calls([], [user(3, result("a"))])


def test_recall_gives_way_to_a_growing_tool_loop() -> None:
    thread = Simulator()
    spec = Spec(max_prompt_tokens=2_000, recall_tokens=800)
    talk(thread, 12)
    thread.append("user", "What was question 3?")
    assert thread.build(spec).prompt.volatile.recalled
    step(thread, "a", 300)
    kept = thread.build(spec)
    assert kept.prompt.volatile.recalled
    step(thread, "b", 900)
    dropped = thread.build(spec)
    assert not dropped.prompt.volatile.recalled
    assert "recall_dropped" in reasons(dropped)
    step(thread, "c", 1_500)
    with pytest.raises(PromptTooLarge) as refused:
        thread.build(spec)
    assert refused.value.details["volatile_tokens"] == 0


def test_context_does_not_give_way() -> None:
    thread = Simulator()
    thread.append("user", "hi")
    with pytest.raises(PromptTooLarge) as refused:
        thread.build(Spec(max_prompt_tokens=300, context=("c" * 400,)))
    assert refused.value.details["volatile_tokens"] > 400


def test_a_turn_that_began_before_the_page_is_left_out() -> None:
    """The newest turn is small; the one before is huge and only partly loaded."""
    thread = Simulator(page=4)
    talk(thread, 3)
    thread.append("user", "Look everything up.")
    for number in range(8):
        step(thread, f"c{number}", 800)
    thread.append("assistant", "Done.")
    thread.append("user", "Thanks.")
    built = thread.build(Spec(max_prompt_tokens=1_500))
    assert built.window.first_seq == built.window.last_seq == thread.last_seq
    assert built.window.trim_reason == "fresh"
    assert not built.window.trimmed


def test_a_cold_lane_is_trimmed_and_its_reserves_planned_anew() -> None:
    thread = Simulator()
    spec = Spec(max_prompt_tokens=6_000, context=("c" * 1_500,))
    talk(thread, 15)
    thread.append("user", "hi")
    reserve = thread.build(spec).window.budget.context_reserve
    assert reserve > 1_500
    thread.append("assistant", "yes")
    thread.append("user", "warm")
    assert thread.build(Spec(max_prompt_tokens=6_000)).window.budget.context_reserve == reserve
    thread.now += 301
    thread.append("user", "cold")
    cold = thread.build(Spec(max_prompt_tokens=6_000))
    assert cold.window.budget.context_reserve == 0
    assert cold.window.trim_reason in (None, "cold")


def test_a_turn_that_closes_is_declared_only_when_bytes_move() -> None:
    for context, moved in (((), False), (("now",), True)):
        thread = Simulator()
        thread.append("user", "hi")
        thread.build(Spec(context=context))
        thread.append("assistant", [call("a")])
        thread.append("user", [result("a")])
        thread.build(Spec())
        thread.append("assistant", "done")
        thread.append("user", "thanks")
        assert (reasons(thread.build(Spec())) == ["turn_closed"]) is moved


def test_edits_are_declared_only_behind_no_earlier_than_what_was_cached() -> None:
    thread = Simulator()
    talk(thread, 4)
    thread.append("user", "hi")
    thread.build(Spec())
    thread.append("assistant", "yes")
    thread.edit(len(thread.messages) - 1, "no")
    thread.append("user", "well")
    assert reasons(thread.build(Spec())) == []
    thread.edit(2, "Another question")
    edited = thread.build(Spec())
    assert [(b.reason, b.at_seq) for b in edited.prompt.breaks] == [("edited", 3)]
    thread.delete(0)
    thread.delete(0)
    deleted = thread.build(Spec())
    assert [(b.reason, b.at_seq) for b in deleted.prompt.breaks] == [("deleted", 1)]
    assert not deleted.window.trimmed


def test_new_instructions_and_refreshed_volatile_text_are_declared() -> None:
    thread = Simulator(own=("Be kind.",))
    thread.append("user", "hi")
    thread.build(Spec(context=("monday",)))
    step(thread, "a")
    first = thread.build(Spec(context=("tuesday",)))
    assert "monday" in first.text
    assert "tuesday" not in first.text
    second = thread.build(Spec(context=("tuesday",), refresh=True))
    assert "tuesday" in second.text
    assert reasons(second) == ["refreshed"]
    thread.own = ("Be curt.",)
    assert reasons(thread.build(Spec())) == ["instructions_changed"]
    thread.own = ("Be curt.", document_text("A fact."))
    assert reasons(thread.build(Spec())) == ["documents_changed"]
    thread.tools = ({"name": "look_up", "input_schema": {"type": "object"}},)
    assert reasons(thread.build(Spec())) == ["tools_changed"]
    thread.shared, thread.own = thread.own, ()
    assert reasons(thread.build(Spec())) == []
    thread.tools, thread.shared = (), ("Be brief.",)
    assert reasons(thread.build(Spec())) == ["tools_changed", "instructions_changed", "documents_changed"]


def test_a_new_lane_says_in_what_it_differs() -> None:
    thread = Simulator()
    talk(thread, 12, 300)
    thread.append("user", "hi")
    assert reasons(thread.build(Spec(max_prompt_tokens=4_000))) == []
    longer = thread.build(Spec(max_prompt_tokens=6_000)).prompt.breaks
    assert [(b.reason, b.differs) for b in longer] == [("new_lane", ("max_prompt_tokens",))]
    other = thread.build(Spec(model=GPT_EXPLICIT, max_prompt_tokens=6_000)).prompt.breaks
    assert [(b.reason, b.differs) for b in other] == [("new_lane", ("provider", "model"))]
    assert reasons(thread.build(Spec(model=GPT_EXPLICIT, max_prompt_tokens=6_000))) == []


def test_a_new_lane_reads_what_another_wrote_for_the_same_model() -> None:
    """While both show the whole thread, a larger budget changes nothing that was sent."""
    thread = Simulator()
    talk(thread, 3)
    thread.append("user", "hi")
    written = thread.build(Spec(max_prompt_tokens=7_000)).prompt.prediction.cache_write_tokens
    thread.now += 1
    other = thread.build(Spec(max_prompt_tokens=8_000)).prompt
    assert (other.breaks, other.prediction.cache_read_tokens) == ((), written)
    assert thread.plan(Spec(model=GPT_EXPLICIT)).prompt.prediction.cache_read_tokens == 0
    thread.now += 301
    assert thread.plan(Spec(max_prompt_tokens=9_000)).prompt.prediction.cache_read_tokens == 0


def test_the_shared_part_is_read_when_any_thread_sent_it() -> None:
    thread = Simulator(shared=("For all. " * 20,), own=("For one.",))
    thread.append("user", "hi")
    assert thread.plan(Spec()).prompt.read_from is None
    thread.shared_sent_at = thread.now - 300
    first = thread.plan(Spec()).prompt
    assert first.read_from == "assistant"
    assert first.prediction.cache_read_tokens == first.positions[first.breakpoints[0]].tokens
    large = replace(CLAUDE, min_cacheable_tokens=first.positions[first.breakpoints[0]].tokens + 1)
    assert thread.plan(Spec(model=large)).prompt.read_from is None
    thread.shared_sent_at -= 1
    assert thread.plan(Spec()).prompt.read_from is None
    thread.sent(thread.build(Spec()))
    assert thread.plan(Spec()).prompt.read_from == "thread"


def test_by_what_a_shared_part_is_known() -> None:
    def digest(spec: Spec, *shared: str, own: str = "For one.") -> str | None:
        thread = Simulator(shared=shared, own=(own,))
        thread.append("user", "hi")
        return thread.plan(spec).request.shared_digest(thread.stable_part())

    known = digest(Spec(), "For all.")
    assert known == digest(Spec(max_prompt_tokens=5_000), "For all.", own="For another.")
    others = [digest(Spec(), "For some."), digest(Spec(ttl="1h"), "For all.")]
    others.append(digest(Spec(model=replace(CLAUDE, name="other")), "For all."))
    assert len({known, *others}) == 4
    for spec in (Spec(ttl=None), Spec(model=GPT_EXPLICIT), Spec(model=UNPRICED)):
        assert digest(spec, "For all.") is None
    assert digest(Spec()) is None


def test_prompts_that_are_never_reported_are_noticed() -> None:
    thread = Simulator()
    hints = []
    for number in range(5):
        thread.append("user", f"Question {number}")
        hints.append([hint[:20] for hint in thread.build(Spec()).prompt.hints])
        thread.append("assistant", "Yes.")
    assert hints == [[], [], [], ["3 earlier prompts of"], ["4 earlier prompts of"]]
    thread.append("user", "Well?")
    thread.sent(thread.build(Spec()))
    for _ in range(5):
        assert thread.build(Spec()).prompt.hints == ()


def test_the_threads_own_instructions_end_in_a_breakpoint_while_there_is_one_left() -> None:
    thread = Simulator(shared=("For all.",), own=("For one.",))
    thread.append("user", "hi")
    for id_, marks in (("a", 2), ("b", 2), ("c", 2)):
        built = thread.build(Spec())
        assert -1 in built.prompt.layout.marks or len(built.prompt.breakpoints) == 4
        assert len(built.prompt.breakpoints) >= marks
        step(thread, id_)
    thread = Simulator(own=("For one.",))
    thread.append("user", "hi")
    assert thread.build(Spec()).prompt.layout.marks == (-1,)


def test_disabled_refuses_with_figures_for_the_whole_thread() -> None:
    thread = Simulator()
    talk(thread, 30)
    thread.append("user", "hi")
    with pytest.raises(PromptTooLarge, match="the whole thread"):
        thread.build(Spec(max_prompt_tokens=2_000, strategy=TruncationStrategy("disabled")))


def test_disabled_is_not_satisfied_with_the_part_of_a_thread_that_was_loaded() -> None:
    thread = Simulator(page=3)
    thread.append("user", "Look it up.")
    step(thread, "a", 2_000)
    thread.append("user", "Thanks.")
    with pytest.raises(PromptTooLarge):
        thread.build(Spec(max_prompt_tokens=1_000, strategy=TruncationStrategy("disabled")))


def test_a_breakpoint_has_the_lifetime_its_provider_writes() -> None:
    thread = Simulator()
    thread.append("user", "hi")
    assert thread.plan(Spec(model=CLAUDE, ttl="1h")).request.breakpoint_ttl == "1h"
    assert thread.plan(Spec(model=CLAUDE, ttl=None)).request.breakpoint_ttl is None
    assert thread.plan(Spec(model=GPT_EXPLICIT)).request.breakpoint_ttl == "30m"


def test_a_window_never_begins_inside_a_turn() -> None:
    """Whatever part of a thread is handed in, and however much room there is."""
    request = Request("anthropic", CLAUDE, "claude", 8_000, 1_000, TruncationStrategy(), "5m")
    loaded = [user(7, result("a")), assistant(8, "done"), user(9, "thanks")]
    window = plan_window(
        request,
        StablePart(),
        loaded,
        None,
        BYTES.scale,
        BYTES.count,
        recall_reserve=0,
        context_tokens=0,
        more_before=True,
        refresh=False,
        now=0.0,
    )
    assert window.first_seq == 9
