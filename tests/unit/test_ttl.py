"""How long breakpoints live, by the gaps between requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_service.core.ttl import Pace, choose_lifetime
from tests.property.simulator import CLAUDE, GPT_EXPLICIT, UNPRICED, Simulator, Spec


def pace_of(gaps: list[float], *, prefix: int = 20_000, added: int = 600) -> Pace:
    pace = Pace().after_prompt(prefix - added * len(gaps))
    for number, gap in enumerate(gaps):
        pace = pace.after_gap(gap).after_prompt(prefix - added * (len(gaps) - number - 1))
    return pace


def chosen(pace: Pace) -> str | None:
    return choose_lifetime("auto", pace, CLAUDE).ttl


def test_a_lane_begins_with_the_short_lifetime() -> None:
    assert chosen(Pace()) == "5m"
    assert chosen(pace_of([60.0] * 30)) == "5m"


def test_gaps_are_counted_by_what_they_outlive() -> None:
    pace = pace_of([1.0, 300.0, 300.1, 3_600.0, 3_600.1])
    assert (round(pace.short), round(pace.middle), round(pace.long)) == (2, 2, 1)
    assert pace.prefix_tokens == 20_000
    assert pace.added_tokens == pytest.approx(600)


def test_one_gap_in_ten_of_some_minutes_pays_for_an_hour() -> None:
    assert chosen(pace_of([*[60.0] * 9, 900.0])) == "1h"
    # Not where every request adds much.
    assert chosen(replace(pace_of([*[60.0] * 9, 900.0]), added_tokens=2_500)) == "5m"


def test_gaps_that_outlive_an_hour_too_do_not() -> None:
    assert chosen(pace_of([*[60.0] * 9, 86_400.0])) == "5m"


def test_what_was_long_ago_says_less() -> None:
    gaps = [900.0] * 5
    assert chosen(pace_of(gaps)) == "1h"
    assert chosen(pace_of([*gaps, *[30.0] * 400], added=50)) == "5m"


def test_a_trim_says_nothing_of_what_a_turn_adds() -> None:
    pace = pace_of([60.0] * 10)
    trimmed = pace.after_gap(60.0).after_prompt(9_000)
    assert (trimmed.added_tokens, trimmed.prefix_tokens) == (pace.added_tokens, 9_000)


def test_what_was_asked_for_is_what_it_is() -> None:
    slow = pace_of([900.0] * 9)
    for asked in ("5m", "1h", None):
        assert choose_lifetime(asked, slow, CLAUDE).ttl == asked
    for model in (GPT_EXPLICIT, UNPRICED):
        assert choose_lifetime("auto", slow, model).ttl == "5m"


def test_a_lane_learns_its_pace_and_says_why() -> None:
    thread = Simulator(shared=("s" * 3_000,))
    chosen = []
    for number in range(12):
        thread.append("user", f"Question {number}? ".ljust(100, "q"))
        built = thread.build(Spec(ttl="auto"))
        chosen.append(built.request.ttl)
        assert ('"ttl":"1h"' in built.text) is (built.request.ttl == "1h" and bool(built.prompt.breakpoints))
        thread.append("assistant", "Yes. ".ljust(100, "y"))
        thread.now += 1_000 if number % 4 == 3 else 20
    assert chosen[:4] == ["5m"] * 4
    assert chosen[4:] == ["1h"] * 8
    assert "outlive 5 minutes" in built.request.ttl_why


def test_an_entry_lives_as_long_as_it_was_written_for() -> None:
    """A lane that changes to an hour finds what it wrote for five minutes only while it is warm."""
    thread = Simulator(shared=("s" * 3_000,))
    thread.append("user", "hi")
    thread.build(Spec(ttl="5m"))
    thread.now += 200
    thread.append("assistant", "yes")
    thread.append("user", "so")
    assert thread.build(Spec(ttl="1h")).prompt.prediction.cache_read_tokens > 3_000
    ends = {entry.tokens: entry.expires_at for entry in next(iter(thread.lanes.values())).entries}
    shared, history = sorted(ends)
    assert ends[shared] == thread.now + 300
    assert ends[history] == thread.now + 3_600
    assert replace(CLAUDE, cache_write_1h_ratio=None).write_ratio("1h") == 1.25
