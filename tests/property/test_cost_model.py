"""The numbers of the model conversation, as a check of health: a bug in the layout shows here first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.property.cost_model import Policy, human_gap, play, play_learning, play_tools
from tests.property.simulator import CLAUDE, GPT_EXPLICIT

OPENAI = replace(GPT_EXPLICIT, min_cacheable_tokens=1_024)


@pytest.mark.parametrize(
    ("policy", "read_share"),
    [(Policy(recall=False), 0.90), (Policy(), 0.84), (Policy(model=OPENAI), 0.82)],
    ids=["no recall", "recall", "openai"],
)
def test_a_long_conversation_is_read_from_the_prompt_cache(policy: Policy, read_share: float) -> None:
    outcome = play(200, policy)
    assert outcome.read_share >= read_share
    assert outcome.agreement == pytest.approx(1, abs=0.01), "the prediction and the rules disagree"
    assert outcome.trims > 5
    assert outcome.undeclared == 0
    assert outcome.over_bound <= 1.5
    assert outcome.cost <= 0.24 * outcome.tokens


def test_people_who_pause_pay_less_for_an_hour() -> None:
    """The first trims come late, so the advisor is held against plain five minutes on the same short conversation."""
    plain = play(120, Policy(ttl="5m", model=replace(CLAUDE, ttl_seconds=None)), gaps=human_gap)
    advised = play(120, Policy(ttl="auto"), gaps=human_gap)
    assert advised.hours > 90
    assert advised.cost <= 0.8 * plain.cost
    assert advised.agreement == pytest.approx(1, abs=0.01)


def test_quick_requests_keep_the_short_lifetime() -> None:
    assert play(40, Policy(ttl="auto")).hours == 0


def test_tool_loops_are_read_from_the_prompt_cache() -> None:
    inside, everything = play_tools(3, 15)
    assert inside.read_share >= 0.95
    assert everything.read_share >= 0.92


def test_no_prompt_is_over_the_limit_once_the_tokenizer_is_learnt() -> None:
    reports = list(play_learning(60))
    assert all(reported <= limit for reported, limit in reports)
    assert max(reported / limit for reported, limit in reports) > 0.8, "the limit was never near"
