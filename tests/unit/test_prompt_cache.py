"""How the three kinds of prompt cache behave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from memory_service.core.pricing import Model
from memory_service.core.prompt_cache import Entry, Position, Prediction, predict
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
