"""How the three kinds of prompt cache behave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from memory_service.core.pricing import Model
from memory_service.core.prompt_cache import (
    RESPONSE_BEGINS_SECONDS,
    Entry,
    Position,
    Prediction,
    after_response,
    in_flight_since,
    merge,
    predict,
)
from tests.property.simulator import CLAUDE, GPT_AUTOMATIC, GPT_EXPLICIT

POSITIONS = [Position(f"d{i}", 100 * (i + 1)) for i in range(40)]


def ask(
    marks: Sequence[int],
    entries: Sequence[Entry] = (),
    *,
    model: Model = CLAUDE,
    ttl: int | None = 300,
    now: float = 0.0,
    positions: Sequence[Position] = POSITIONS,
) -> tuple[Prediction, tuple[Entry, ...]]:
    return predict(positions, marks, positions[-1].tokens, entries, model, ttl, now)


def test_the_first_request_writes_up_to_its_last_breakpoint() -> None:
    prediction, entries = ask([3, 9])
    assert prediction == Prediction(0, 1_000, 3_000)
    assert [(e.digest, e.tokens, e.expires_at) for e in entries] == [("d3", 400, 300), ("d9", 1_000, 300)]


@pytest.mark.parametrize(("distance", "read"), [(0, 1_000), (19, 1_000), (20, 0)])
def test_the_look_back_is_twenty_positions_the_breakpoint_included(distance: int, read: int) -> None:
    prediction, _ = ask([9 + distance], [Entry("d9", 1_000, 300)])
    assert prediction.cache_read_tokens == read
    assert prediction.cache_write_tokens == 100 * (10 + distance) - read


def test_an_earlier_breakpoint_finds_what_the_last_one_cannot() -> None:
    prediction, _ = ask([9, 39], [Entry("d9", 1_000, 300)])
    assert prediction == Prediction(1_000, 3_000, 0)


def test_an_entry_dies_and_a_read_renews_it() -> None:
    _, entries = ask([9], now=0)
    prediction, entries = ask([9], entries, now=300)
    assert prediction.cache_read_tokens == 1_000
    prediction, entries = ask([9], entries, now=600)
    assert prediction.cache_read_tokens == 1_000
    prediction, _ = ask([9], entries, now=901)
    assert prediction.cache_read_tokens == 0


def test_below_the_minimum_nothing_is_cached() -> None:
    prediction, entries = ask([3], model=replace(CLAUDE, min_cacheable_tokens=512))
    assert prediction == Prediction(0, 0, 4_000)
    assert entries == ()


def test_openai_finds_an_explicit_breakpoint_only_where_it_is_marked_again() -> None:
    entry = [Entry("d9", 1_000, None)]
    assert ask([12], entry, model=GPT_EXPLICIT)[0].cache_read_tokens == 0
    assert ask([9, 12], entry, model=GPT_EXPLICIT)[0].cache_read_tokens == 1_000


def test_the_longest_prefix_is_found_anywhere_and_writing_is_free() -> None:
    _, entries = ask([5], model=GPT_AUTOMATIC, ttl=None, positions=POSITIONS[:10])
    prediction, _ = ask([8], entries, model=GPT_AUTOMATIC, ttl=None)
    assert prediction == Prediction(1_000, 0, 3_000)


def test_nothing_to_cache() -> None:
    assert predict([], [], 12, (), CLAUDE, 300, 0.0) == (Prediction(0, 0, 12), ())


def test_what_was_written_is_read_once_its_response_has_begun() -> None:
    _, entries = ask([9], now=10)
    assert ask([9, 12], entries, now=10.9)[0] == Prediction(0, 1_300, 2_700)
    assert ask([9, 12], entries, now=10 + RESPONSE_BEGINS_SECONDS)[0] == Prediction(1_000, 300, 2_700)
    begun = after_response(entries, 10)
    assert ask([9, 12], begun, now=10)[0] == Prediction(1_000, 300, 2_700)
    assert after_response(entries, 9.9) == entries


def test_a_request_that_cannot_read_an_entry_yet_does_not_delay_it() -> None:
    """What it writes itself waits for its own response."""
    _, entries = ask([9], now=10)
    _, entries = ask([9, 12], entries, now=10.9)
    assert [(e.digest, e.expires_at, e.written_at) for e in entries] == [("d9", 310.9, 10), ("d12", 310.9, 10.9)]
    assert ask([9, 12], entries, now=11)[0].cache_read_tokens == 1_000
    _, entries = ask([9], entries, now=310.8)
    assert ask([9], entries, now=310.8)[0].cache_read_tokens == 1_000, "a read makes nobody wait"
    assert ask([9], ask([9], entries, now=700)[1], now=700)[0].cache_read_tokens == 0, "what ended is written anew"


def test_behind_what_is_in_flight_an_older_entry_is_found() -> None:
    entries = [Entry("d5", 600, 300), Entry("d9", 1_000, 300, 300, 10.0)]
    assert ask([9], entries, now=10.5)[0] == Prediction(600, 400, 3_000)
    assert in_flight_since(POSITIONS, entries, 600, 10.5) == 10.0
    assert in_flight_since(POSITIONS, entries, 1_000, 10.5) is None, "all of it is read"
    assert in_flight_since(POSITIONS, entries, 600, 11) is None
    assert in_flight_since(POSITIONS[:9], entries, 600, 10.5) is None, "it is of another prompt"


@pytest.mark.parametrize("model", [GPT_EXPLICIT, GPT_AUTOMATIC], ids=lambda m: m.name)
def test_other_caches_say_nothing_of_responses(model: Model) -> None:
    _, entries = ask([9], model=model, positions=POSITIONS[:10])
    assert ask([9], entries, model=model, positions=POSITIONS[:10])[0].cache_read_tokens == 1_000


def test_of_an_entry_that_two_know_the_later_end_and_the_earlier_beginning_count() -> None:
    one, other = Entry("d9", 1_000, 400, 300, 100.0), Entry("d9", 1_000, 310, 300, 10.0)
    ended = replace(other, expires_at=99, written_at=None)
    for held in ([one], [other]), ([other], [one]), ([one], [other], [ended]):
        assert merge(held, 100.5) == (replace(one, written_at=10.0),)
    assert merge([[one], [replace(other, written_at=None)]], 100.5) == (replace(one, written_at=None),)
    assert merge([[ended], [one]], 100.5) == (one,), "what has ended makes nothing readable"
