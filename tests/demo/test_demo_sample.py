"""The sample is the first thing a user sees: what it promises is checked here."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import pairwise

import pytest

from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.sample import load_sample

TURNS_BETWEEN = 40


@pytest.fixture(scope="module")
def sample() -> Conversation:
    return load_sample()


def text(line: Line) -> str:
    assert isinstance(line.content, str)
    return line.content


def is_korean(line: Line) -> bool:
    return re.search("[가-힣]", text(line)) is not None


def test_user_and_assistant_take_turns_at_least_120_times(sample: Conversation) -> None:
    roles = [line.role for line in sample.lines]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert len(roles) // 2 >= 120


def test_about_a_quarter_is_korean(sample: Conversation) -> None:
    users = [line for line in sample.lines if line.role == "user"]
    assert 0.20 <= sum(map(is_korean, users)) / len(users) <= 0.35


def test_times_increase_over_ten_days(sample: Conversation) -> None:
    times = [line.created_at for line in sample.lines if line.created_at is not None]
    assert len(times) == len(sample.lines)
    assert all(earlier < later for earlier, later in pairwise(times))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[-1] - times[0] > timedelta(days=9)
    assert sum(gap > timedelta(hours=4) for gap in gaps) >= 9
    assert sorted(gaps)[len(gaps) // 2] < timedelta(minutes=5)


def test_no_message_is_said_twice(sample: Conversation) -> None:
    texts = [text(line) for line in sample.lines]
    assert len(set(texts)) == len(texts)
    assert all(texts)
    assert sum(len(one.split()) >= 150 for one in texts) >= 2


def test_at_least_twelve_old_facts_are_asked_for(sample: Conversation) -> None:
    asking = [line for line in sample.lines if line.expects]
    assert len(asking) >= 12
    assert all(line.role == "user" for line in asking)
    assert sum(map(is_korean, asking)) >= 4


def test_every_expected_text_stands_in_one_message_long_before(sample: Conversation) -> None:
    for position, line in enumerate(sample.lines):
        for expected in line.expects:
            found = [n for n in range(position + 1) if expected in text(sample.lines[n])]
            assert len(found) == 1, expected
            assert (position - found[0]) // 2 >= TURNS_BETWEEN, expected


def test_sample_has_title_and_system(sample: Conversation) -> None:
    assert sample.title
    assert sample.system
