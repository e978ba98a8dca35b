"""A last turn that alone is too large: refused with figures, or shown with its tool results cut."""

from __future__ import annotations

import pytest

from memory_service.core.truncation import TruncationStrategy
from memory_service.errors import PromptTooLarge
from tests.property.checks import check_extends, check_rebuilt, check_window
from tests.property.simulator import Built, Simulator, Spec
from tests.unit.make import call, result

CUT = Spec(max_prompt_tokens=4_000, strategy=TruncationStrategy(shorten_tool_results=True))


def loop(thread: Simulator, *sizes: int) -> None:
    """One more round trip, with a result of each size."""
    ids = [f"{thread.last_seq}_{number}" for number in range(len(sizes))]
    thread.append("assistant", [call(id_) for id_ in ids])
    thread.append("user", [result(i, f"begin{n}".ljust(n - 3, ".") + "end") for i, n in zip(ids, sizes, strict=True)])


def kept(built: Built) -> list[tuple[int, int]]:
    return [(s.characters, s.kept_characters) for s in built.window.shortened]


def begun() -> Simulator:
    thread = Simulator(own=("Be kind.",))
    thread.append("user", "Look it up.")
    return thread


def test_without_being_asked_nothing_is_cut() -> None:
    thread = begun()
    loop(thread, 9_000)
    with pytest.raises(PromptTooLarge) as refused:
        thread.build(Spec(max_prompt_tokens=4_000))
    assert refused.value.details["window_tokens"] > 9_000
    assert "shorten_tool_results" in refused.value.message


def test_only_the_longest_are_cut_to_head_and_tail() -> None:
    thread = begun()
    loop(thread, 500, 9_000, 8_000)
    built = thread.build(CUT)
    assert [size for size, _ in kept(built)] == [9_000, 8_000]
    assert len({size for _, size in kept(built)}) == 1
    assert built.prompt.tokens.total <= 4_000 - 500, "room for the turn to go on"
    for size, left in kept(built):
        assert f"begin{size}" in built.text
        assert f"[{size - left} of {size} characters are left out here]" in built.text
    assert built.text.count('end"') == 3
    check_window(thread, built)
    check_rebuilt(thread, built)


def test_what_fits_is_left_alone() -> None:
    thread = begun()
    loop(thread, 3_000)
    assert kept(thread.build(CUT)) == []


def test_a_cut_stays_as_it_is_while_the_turn_goes_on() -> None:
    thread = begun()
    loop(thread, 9_000)
    first = thread.build(CUT)
    loop(thread, 300)
    second = thread.build(CUT)
    assert kept(second) == kept(first)
    assert second.prompt.breaks == ()
    check_extends(first, second)
    thread.append("assistant", "Done.")
    thread.append("user", "Thanks.")
    closed = thread.build(CUT)
    assert kept(closed) == kept(first)
    assert closed.prompt.breaks == ()


def test_new_results_are_cut_before_those_that_were_sent() -> None:
    thread = begun()
    loop(thread, 2_000)
    first = thread.build(CUT)
    loop(thread, 9_000)
    second = thread.build(CUT)
    assert [size for size, _ in kept(second)] == [9_000]
    check_extends(first, second)
    assert second.prompt.breaks == ()


def test_an_earlier_cut_is_not_touched_by_a_later_one() -> None:
    thread = begun()
    loop(thread, 9_000)
    first = thread.build(CUT)
    loop(thread, 8_000)
    second = thread.build(CUT)
    assert kept(second)[0] == kept(first)[0]
    assert [size for size, _ in kept(second)] == [9_000, 8_000]
    assert second.prompt.breaks == ()
    check_extends(first, second)


def test_when_only_older_results_can_give_way_that_is_declared() -> None:
    thread = begun()
    loop(thread, 3_200)
    first = thread.build(CUT)
    loop(thread, 380, 380)
    second = thread.build(CUT)
    assert [size for size, _ in kept(second)] == [3_200]
    assert [(b.reason, b.at_seq) for b in second.prompt.breaks] == [("shortened", 3)]
    check_extends(first, second)


def test_what_is_no_tool_result_is_never_cut() -> None:
    thread = begun()
    loop(thread, 9_000)
    thread.append("assistant", [call("x")])
    thread.append("user", [result("x"), {"type": "text", "text": "t" * 4_000}])
    with pytest.raises(PromptTooLarge):
        thread.build(CUT)


def test_a_longer_turn_than_a_page_is_cut_whole() -> None:
    thread = begun()
    thread.page = 3
    for _ in range(6):
        loop(thread, 900)
    built = thread.build(CUT)
    assert built.window.first_seq == 1
    assert len(kept(built)) == 6


def test_an_edited_result_is_measured_anew() -> None:
    thread = begun()
    loop(thread, 9_000)
    thread.build(CUT)
    thread.edit(2, [result("1_0", "short")])
    assert kept(thread.build(CUT)) == []
