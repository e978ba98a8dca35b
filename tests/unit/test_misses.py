"""Why the prompt cache is not read, in words."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest

from memory_service.core.misses import explain_report, has_collapsed
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.usage import ReportedUsage
from tests.property.simulator import CLAUDE, GPT_EXPLICIT, Simulator, Spec


def asked(thread: Simulator, spec: Spec = Spec(), size: int = 400) -> str | None:
    thread.append("user", f"Well {thread.last_seq}? ".ljust(size, "?"))
    miss = thread.build(spec).prompt.miss
    thread.append("assistant", "Yes. ".ljust(size, "y"))
    if miss:
        assert re.fullmatch("[a-z_]+", miss.reason)
    return miss.text if miss else None


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


def test_a_prompt_that_races_the_one_before() -> None:
    """What that one newly wrote cannot be read yet: by a prompt of the same budget, nor by one of another."""
    thread = begun()
    thread.append("user", "And?")
    first = thread.build(Spec()).prompt
    assert first.miss is None
    thread.now += 0.4
    for spec in (Spec(), Spec(max_prompt_tokens=9_000)):
        again = thread.plan(spec).prompt
        assert again.prediction == first.prediction
        assert again.miss
        assert (again.miss.reason, again.miss.text) == (
            "in_flight",
            "The prompt before was built 0.4 s ago, and its response may not have begun; wait for its first token before "
            "you send the next.",
        )
    thread.now += 0.6
    again = thread.plan(Spec()).prompt
    assert (again.miss, again.prediction.cache_write_tokens) == (None, 0)


def test_a_reply_is_a_response_that_has_begun_however_soon() -> None:
    thread = begun()
    thread.append("user", "And?")
    first = thread.build(Spec()).prompt
    thread.append("assistant", "So.")
    thread.append("user", "And then?")
    again = thread.plan(Spec()).prompt
    assert again.miss is None
    assert (
        again.prediction.cache_read_tokens == sum(asdict(first.prediction).values()) - first.prediction.uncached_tokens
    )


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
    ("read", "written", "reason", "says"),
    [
        (10_000, 500, None, ""),
        (9_001, 500, None, ""),
        (20_000, 0, None, ""),
        (0, 12_000, "held_none", "held none of it any more"),
        (4_000, 8_000, "held_less", "held no more than 4000"),
        (0, 0, "not_cached", "nothing was cached"),
    ],
)
def test_a_report_that_falls_short(read: int, written: int, reason: str | None, says: str) -> None:
    found = explain_report(PREDICTED, ReportedUsage(read, written, 100, 10), {})
    assert (found and found.reason) == reason
    assert found is None or says in found.text


@pytest.mark.parametrize(
    "diagnostics",
    [
        {"cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 9}},
        {"type": "cache_miss", "reason": "tools_changed", "cache_missed_tokens": 9},
    ],
)
def test_what_the_provider_says_itself_comes_first(diagnostics: dict[str, object]) -> None:
    found = explain_report(PREDICTED, ReportedUsage(0, 0, 10_000, 10), {"diagnostics": diagnostics})
    assert found
    assert found.text == "About 10000 tokens fewer were read than predicted: the provider says tools_changed."
    assert found.reason == "tools_changed"


def test_what_a_provider_says_that_nobody_knows() -> None:
    """Quoted in the sentence, but no reason of its own: reasons label metrics."""
    usage = {"diagnostics": {"cache_miss_reason": {"type": "moon_phase"}}}
    found = explain_report(PREDICTED, ReportedUsage(0, 0, 10_000, 10), usage)
    assert found
    assert (found.reason, "says moon_phase" in found.text) == ("other", True)
    for odd in ({"diagnostics": None}, {"diagnostics": {"cache_miss_reason": 4}}, {"diagnostics": {}}):
        assert "provider says" not in str(explain_report(PREDICTED, ReportedUsage(0, 0, 10_000, 10), odd))


@pytest.mark.parametrize(
    ("expected", "read", "uncached", "collapsed"),
    [
        (10_000, 8_000, 2_000, True),
        (10_000, 8_001, 1_999, False),  # fewer than 2,000 tokens
        (60_000, 57_001, 2_999, False),  # no more than 5 % of the input
        (60_000, 56_999, 3_001, True),
        (60_000, 60_000, 90_000, False),
    ],
)
def test_when_the_share_that_is_read_has_collapsed(expected: int, read: int, uncached: int, collapsed: bool) -> None:
    predicted, reported = {"cache_read_tokens": expected}, ReportedUsage(read, 0, uncached, 1)
    assert has_collapsed(predicted, reported) is collapsed
    assert not collapsed or explain_report(predicted, reported, {}), "and it is explained, however small the share"
