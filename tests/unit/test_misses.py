"""Why the prompt cache is not read, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_service.core.misses import explain_report
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.usage import ReportedUsage
from tests.property.simulator import CLAUDE, GPT_EXPLICIT, Simulator, Spec


def asked(thread: Simulator, spec: Spec = Spec(), size: int = 400) -> str | None:
    thread.append("user", f"Well {thread.last_seq}? ".ljust(size, "?"))
    miss = thread.build(spec).prompt.miss
    thread.append("assistant", "Yes. ".ljust(size, "y"))
    return miss


def begun() -> Simulator:
    thread = Simulator(own=("Be kind. " * 100,))
    assert asked(thread) == "Nothing of this thread was sent to this model before."
    assert asked(thread) is None
    return thread


def test_what_is_read_needs_no_words() -> None:
    thread = begun()
    assert [asked(thread) for _ in range(3)] == [None] * 3


def test_an_edit_names_its_message() -> None:
    thread = begun()
    thread.edit(0, "Edited.")
    assert asked(thread) == "From message 1 on it is not what was sent before: a message was edited."


def test_a_trim_and_the_turn_it_closed() -> None:
    thread = begun()
    spec = Spec(max_prompt_tokens=5_000, strategy=TruncationStrategy("sliding"), recall=False)
    misses = [asked(thread, spec) for _ in range(8)]
    assert misses[-1]
    assert misses[-1].endswith("the window was trimmed.")


def test_a_pause_that_outlived_the_entries() -> None:
    thread = begun()
    thread.now += 720
    assert asked(thread) == "The prompt before was 12 minutes ago; its entries ended after 5."


def test_a_prefix_that_is_too_short() -> None:
    thread = Simulator()
    spec = Spec(model=replace(CLAUDE, min_cacheable_tokens=4_096))
    asked(thread, spec)
    miss = asked(thread, spec)
    assert miss
    assert "caches none below 4096" in miss


def test_another_model_and_no_breakpoints() -> None:
    thread = begun()
    other = asked(thread, Spec(model=GPT_EXPLICIT))
    assert other
    assert "another model" in other
    assert asked(thread, Spec(ttl=None)) == "No cache breakpoints were wanted."


PREDICTED = {"cache_read_tokens": 10_000}


@pytest.mark.parametrize(
    ("read", "written", "says"),
    [
        (10_000, 500, None),
        (9_001, 500, None),
        (20_000, 0, None),
        (0, 12_000, "held none of it any more"),
        (4_000, 8_000, "held no more than 4000"),
        (0, 0, "nothing was cached"),
    ],
)
def test_a_report_that_falls_short(read: int, written: int, says: str | None) -> None:
    found = explain_report(PREDICTED, ReportedUsage(read, written, 100, 10), {})
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


def test_what_the_provider_says_itself_comes_first() -> None:
    usage = {"diagnostics": {"cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 9}}}
    found = explain_report(PREDICTED, ReportedUsage(0, 0, 10_000, 10), usage)
    assert found == "About 10000 tokens fewer were read than predicted: the provider says tools_changed."
    for odd in ({"diagnostics": None}, {"diagnostics": {"cache_miss_reason": 4}}, {"diagnostics": {}}):
        assert "provider says" not in str(explain_report(PREDICTED, ReportedUsage(0, 0, 10_000, 10), odd))
