"""Where the window begins, and how deep a trim goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_service.core.budget import Budget, default_limit, default_recall_tokens, low_water
from memory_service.core.truncation import Cut, TruncationStrategy, TurnSize, choose_cut
from tests.property.simulator import CLAUDE, UNPRICED

TURNS = [TurnSize(messages=2, tokens=100.0)] * 10


def cut(
    strategy: str, ceiling: float, *, low: float = 500, n: int | None = None, more: bool = False, cold: bool = False
) -> Cut:
    chosen = TruncationStrategy(strategy, n)  # type: ignore[arg-type]
    return choose_cut(TURNS, chosen, ceiling=ceiling, low_water=low, more_before=more, cold=cold)


@pytest.mark.parametrize(
    ("chosen", "index"),
    [
        (cut("auto", 1_000), 0),
        (cut("auto", 999), 5),
        (cut("auto", 999, low=0), 9),
        (cut("auto", 50), 5),
        (cut("auto", 1_000, cold=True), 5),
        (cut("auto", 1_000, low=1_000, cold=True), 0),
        (cut("auto", 1_000, more=True), 5),
        (cut("sliding", 1_000), 0),
        (cut("sliding", 850), 2),
        (cut("sliding", 850, cold=True), 2),
        (cut("disabled", 1), 0),
        (cut("last_messages", 1_000, n=5), 8),
        (cut("last_messages", 1_000, n=1), 9),
        (cut("last_messages", 150, n=8), 9),
        (cut("last_messages", 1_000, n=100), 0),
    ],
)
def test_cuts(chosen: Cut, index: int) -> None:
    assert chosen.index == index


def test_reasons() -> None:
    assert cut("auto", 999).reason == cut("sliding", 999).reason == "over_ceiling"
    assert cut("auto", 1_000, cold=True).reason == "cold"
    assert cut("last_messages", 1_000, n=3).reason == "last_messages"


def test_lanes_of_different_strategies_are_apart() -> None:
    keys = {
        s.key
        for s in (TruncationStrategy(), TruncationStrategy("last_messages", 3), TruncationStrategy("last_messages", 4))
    }
    assert len(keys) == 3


def test_low_water_is_as_the_formula_says() -> None:
    # n* = sqrt(2 (1.25 - .1) 32000 / ((.6 - .1) 600)) = 15.66 turns
    assert low_water(32_000, 600, CLAUDE, "5m") == pytest.approx(32_000 - 14.66 * 600, rel=1e-3)
    # Writing for an hour is dearer, so trims are rarer and deeper.
    assert low_water(32_000, 600, CLAUDE, "1h") < low_water(32_000, 600, CLAUDE, "5m")


@pytest.mark.parametrize("ceiling", [-500, 0, 1, 300, 5_000, 200_000])
@pytest.mark.parametrize("turn", [0, 10, 600, 50_000])
def test_low_water_stays_between_the_floor_and_the_ceiling(ceiling: float, turn: float) -> None:
    low = low_water(ceiling, turn, CLAUDE, "5m")
    assert min(0.3 * ceiling, ceiling) - 1e-9 <= low
    assert ceiling <= 0 or low < ceiling


def test_low_water_without_prices() -> None:
    assert low_water(1_000, 100, UNPRICED, "5m") == 700
    assert low_water(1_000, 100, replace(CLAUDE, cache_write_ratio=0.05), "5m") == 700
    assert low_water(1_000, 100, replace(CLAUDE, cache_read_usd=4.0), "5m") == 300


def test_more_budget_never_trims_deeper() -> None:
    for turn in (30, 600, 4_000):
        levels = [low_water(ceiling, turn, CLAUDE, "5m") for ceiling in range(0, 60_000, 50)]
        assert levels == sorted(levels)


def test_a_budget_is_divided_without_a_rest() -> None:
    budget = Budget(limit=8_000, stable_tokens=1_000, recall_reserve=500, context_reserve=250)
    assert budget.window_ceiling == 6_250


def test_defaults_stay_below_price_cliffs_and_leave_room_for_the_answer() -> None:
    assert default_limit(CLAUDE, 4_096) == 32_000
    assert default_limit(replace(CLAUDE, price_cliff_tokens=20_000), 4_096) == 20_000
    assert default_limit(replace(CLAUDE, context_tokens=16_384), 4_096) == 12_288
    assert default_limit(replace(CLAUDE, context_tokens=1_000), 4_096) == 1
    assert default_recall_tokens(32_000) == 1_500
    assert default_recall_tokens(1_024) == 128
