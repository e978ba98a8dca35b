"""Whatever happens to a thread, its prompts fit, are valid, explain themselves and extend one another."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.core.canonical import dumps
from memory_service.core.counting import counted_text
from memory_service.core.lane import Lane
from memory_service.core.prompt_cache import RESPONSE_BEGINS_SECONDS
from memory_service.core.tokens import Scale
from memory_service.core.truncation import TruncationStrategy
from memory_service.errors import PromptTooLarge
from tests.property import checks
from tests.property.anthropic_cache import AnthropicCache
from tests.property.conftest import examples
from tests.property.operations import (
    Operation,
    Play,
    Setting,
    operations,
    random_play,
    settings_of_threads,
    text_of,
)
from tests.property.simulator import BYTES, CLAUDE, LEARNT, Built, Simulator, Spec


def hold_every_rule(play: Play, steps: list[Operation]) -> None:
    """Run the steps, and look at every prompt on the way."""
    previous: dict[str, Built] = {}
    answered: dict[str, dict[tuple[str, int], list[str]]] = {}
    forked_from = play.thread
    for built in play.run(steps):
        thread = play.thread
        if thread is not forked_from:
            previous, answered, forked_from = {}, {}, thread
        checks.check_budget(thread, built)
        checks.check_valid(built)
        checks.check_window(thread, built)
        checks.check_volatile(thread, built)
        checks.check_rebuilt(thread, built)
        key = built.request.lane_key
        checks.check_kept(previous.get(key), built)
        checks.check_thinking(answered.setdefault(key, {}), built)
        if key in previous and built.spec.ttl:
            checks.check_extends(previous[key], built)
        previous[key] = built
        lane = thread.lanes[key]
        assert lane.open_turn
        assert lane.open_turn.source
        assert lane == built.prompt.lane.stored_with(lane.open_turn.source)
        assert Lane.from_json(json.loads(dumps(lane))) == lane


@settings(max_examples=examples(900))
@given(settings_of_threads, operations)
def test_every_prompt_holds_every_rule(setting: Setting, steps: list[Operation]) -> None:
    hold_every_rule(Play(setting), steps)


@pytest.mark.parametrize(
    "seeds", [range(25), pytest.param(range(25, 1_000), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_long_lives_hold_every_rule(seeds: range) -> None:
    """Longer than hypothesis makes them: what goes wrong only after many steps."""
    for seed in seeds:
        try:
            hold_every_rule(*random_play(Random(seed)))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@settings(max_examples=examples(200))
@given(settings_of_threads, operations)
def test_the_same_thread_gives_the_same_bytes(setting: Setting, steps: list[Operation]) -> None:
    play = Play(setting)
    for _ in play.run(steps):
        pass
    if play.last:
        try:
            first, second = play.thread.plan(setting.spec), play.thread.plan(setting.spec)
        except Exception:
            return
        assert first.text == second.text
        assert first.prompt == second.prompt


@settings(max_examples=examples(250))
@given(settings_of_threads, operations, st.sampled_from([300, 400, 600, 900]))
def test_a_prompt_is_refused_only_when_it_cannot_fit(setting: Setting, steps: list[Operation], budget: int) -> None:
    play = Play(replace(setting, spec=replace(setting.spec, max_prompt_tokens=budget)))
    seen = 0
    for _ in play.run([*steps, ("user", 3), ("prompt", 3)]):
        assert len(play.too_large) == seen or play.too_large[seen:]
        seen = len(play.too_large)
    for _, error in play.too_large:
        assert error.details["needed_tokens"] > error.details["max_prompt_tokens"]
        needed = sum(error.details[k] for k in ("stable_tokens", "window_tokens", "volatile_tokens"))
        assert needed == error.details["needed_tokens"]
    spec = play.setting.spec
    try:
        play.thread.plan(spec)
    except PromptTooLarge as error:
        if spec.strategy.type != "disabled":
            bare = replace(spec, recall=False, max_prompt_tokens=error.details["needed_tokens"])
            assert len(play.thread.plan(bare).window.turns) == 1


@settings(max_examples=examples(250))
@given(
    settings_of_threads.filter(lambda s: s.spec.strategy.type != "disabled"),
    operations,
    st.integers(300, 30_000),
    st.integers(1, 20_000),
)
def test_more_budget_never_shows_less(setting: Setting, steps: list[Operation], budget: int, more: int) -> None:
    """From a fresh lane. Holds for pages of at least as many turns as a turn's size is measured on."""
    play = Play(setting)
    play.thread.page = 200
    for _ in play.run(steps):
        pass
    play.thread.append("user", "and now?")
    play.thread.lanes.clear()
    small, large = (replace(setting.spec, max_prompt_tokens=b) for b in (budget, budget + more))
    try:
        shown = play.thread.plan(small).window.first_seq
    except PromptTooLarge:
        return
    assert play.thread.plan(large).window.first_seq <= shown


@settings(max_examples=examples(200))
@given(settings_of_threads, operations)
def test_predictions_agree_with_the_rules(setting: Setting, steps: list[Operation]) -> None:
    """Read and written tokens as an independent reader of the requests bills them, whatever lanes they are of."""
    spec = replace(setting.spec, model=CLAUDE, ttl="5m")
    # What another model or a fork writes is in another cache, or of another thread.
    steps = [step for step in steps if step[0] not in ("other_model", "fork")]
    thread = setting.simulator
    thread.tokenizer = BYTES
    cache = AnthropicCache(lambda b: 8 + len(counted_text([b]).encode()))
    for built in Play(replace(setting, spec=spec)).run(steps):
        thread.now += RESPONSE_BEGINS_SECONDS  # each response begins before the next prompt
        alive = dict(cache.entries)
        bill = cache.send(json.loads(built.text), built.at)
        predicted = built.prompt.prediction
        at = [p.tokens for p in built.prompt.positions]
        read = _read_positions(bill.read, (p.tokens for p in cache.places(json.loads(built.text))))
        assert _read_positions(predicted.cache_read_tokens, at) == read, alive
        total = built.prompt.tokens.total
        assert predicted.cache_read_tokens + predicted.cache_write_tokens + predicted.uncached_tokens == total
        if bill.read:
            assert predicted.cache_read_tokens in at


@settings(max_examples=examples(100))
@given(settings_of_threads, operations)
def test_nothing_is_read_before_the_response_begins_that_it_was_written_by(
    setting: Setting, steps: list[Operation]
) -> None:
    """Prompts race one another, unless a second passed, the earlier one was reported, or its reply is in the thread."""
    steps = [step for step in steps if step[0] not in ("other_model", "fork")]
    thread, seen = setting.simulator, 0
    thread.tokenizer = BYTES
    cache = AnthropicCache(lambda b: 8 + len(counted_text([b]).encode()), response_seconds=RESPONSE_BEGINS_SECONDS)
    play = Play(replace(setting, spec=replace(setting.spec, model=CLAUDE, ttl="5m")))
    for built in play.run(steps):
        if any(m.role == "assistant" and m.seq > seen for m in built.messages):
            cache.hear(built.at)
        cache.hear(thread.reported_at)
        seen = built.messages[-1].seq
        waiting, body = dict(cache.waiting), json.loads(built.text)
        bill, places = cache.send(body, built.at), cache.places(body)
        predicted = built.prompt.prediction.cache_read_tokens
        read = _read_positions(predicted, (p.tokens for p in built.prompt.positions))
        assert read <= _read_positions(bill.read, (p.tokens for p in places)), waiting


def _read_positions(tokens: float, positions: Iterable[float]) -> int:
    return sum(up_to <= tokens for up_to in positions)


def test_frozen_text_is_counted_as_the_estimate_has_it_now() -> None:
    """A report in the middle of a tool loop may teach that all of it costs twice as much."""
    thread = Simulator(tokenizer=LEARNT)
    thread.append("user", "hi")
    before = thread.build(Spec(context=(text_of(3, 200),)))
    thread.tokenizer = replace(LEARNT, scale=Scale(tuple(2 * weight for weight in LEARNT.scale.weights)))
    built = thread.build(Spec())
    assert built.window.frozen
    assert built.prompt.breaks == ()
    assert abs(built.prompt.tokens.volatile - 2 * before.prompt.tokens.volatile) <= 1
    checks.check_budget(thread, built)


def _loop(thread: Simulator, spec: Spec, cache: AnthropicCache, round_trips: int) -> list[tuple[float, float]]:
    """Shares read in each request of a tool loop, as (read, total)."""
    bills = []
    for step in range(round_trips + 1):
        if step:
            uses = [
                {"type": "tool_use", "id": f"c{thread.last_seq}_{i}", "name": "look_up", "input": {"q": f"{step}{i}"}}
                for i in range(3)
            ]
            thread.append("assistant", [{"type": "text", "text": f"Step {step}"}, *uses])
            thread.append(
                "user", [{"type": "tool_result", "tool_use_id": u["id"], "content": text_of(step, 40)} for u in uses]
            )
        thread.now += 5
        built = thread.build(spec)
        assert built.prompt.breaks == () or step == 0
        bill = cache.send(json.loads(built.text), thread.now)
        bills.append((bill.read, bill.total))
    return bills


def test_a_tool_loop_of_fifteen_round_trips_reads_what_the_request_before_wrote() -> None:
    thread = Simulator(tokenizer=BYTES, shared=("You are helpful. " * 40,), own=("For Kim. " * 20,))
    spec = Spec(max_prompt_tokens=80_000, recall_tokens=1_500)
    cache = AnthropicCache(lambda b: 8 + len(counted_text([b]).encode()))
    for number in range(300):
        thread.append("user", text_of(number, 60))
        built = thread.build(spec)
        if built.window.trimmed:
            break  # as much history as may be without a trim inside the loop
        cache.send(json.loads(built.text), thread.now)
        thread.append("assistant", text_of(number + 1, 60))
    assert built.prompt.volatile.recalled
    bills = _loop(thread, spec, cache, 15)
    for before, after in pairwise(bills):
        assert after[0] > before[0], "a request did not find the entry of the one before"
    # The first request wrote what the trim left.
    read, total = map(sum, zip(*bills[1:], strict=True))
    assert read / total >= 0.95


def test_a_gap_of_many_messages_still_finds_the_last_prompt() -> None:
    """More than 20 positions between two prompts: the look-back alone would miss."""
    thread = Simulator(tokenizer=BYTES, own=("x " * 200,))
    spec = Spec(max_prompt_tokens=60_000)
    cache = AnthropicCache(lambda b: 8 + len(counted_text([b]).encode()))
    for number in range(3):
        thread.append("user", text_of(number, 80))
        cache.send(json.loads(thread.build(spec).text), thread.now)
        for reply in range(30):
            thread.append("assistant", f"note {reply}")
            thread.append("user", f"yes {reply}")
        thread.append("assistant", "Done.")
    thread.append("user", "And?")
    built = thread.build(spec)
    bill = cache.send(json.loads(built.text), thread.now)
    assert bill.read > 0.4 * bill.total
    assert built.prompt.prediction.cache_read_tokens > 0


def test_auto_trims_rarely() -> None:
    thread = Simulator(tokenizer=BYTES)
    trims = {}
    for strategy in ("auto", "sliding"):
        thread.messages.clear()
        thread.index.clear()
        spec = Spec(max_prompt_tokens=6_000, strategy=TruncationStrategy(strategy))
        count = 0
        for number in range(120):
            thread.append("user", text_of(number, 12))
            count += thread.build(spec).window.trimmed
            thread.append("assistant", text_of(number + 1, 12))
        trims[strategy] = count
    assert 0 < trims["auto"] * 4 < trims["sliding"]
