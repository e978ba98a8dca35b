"""Whose words a question asks for."""

from __future__ import annotations

import pytest

from memory_service.core.recall import Hit, index_entry, rank
from memory_service.core.terms import terms_of
from memory_service.core.whose import ASSISTANT, UNKNOWN, USER, asked_for, bearer, names_in


@pytest.mark.parametrize(
    ("question", "role"),
    [
        ("What did I say about the ferry?", USER),
        ("Can you tell me when my flight leaves?", USER),
        ("Which knife did you recommend?", ASSISTANT),
        ("When does the ferry leave?", UNKNOWN),
        ("Is it in the mine shaft of Iowa, or in youth hostels?", USER),  # a mine may be mine
        ("Iowa youth", UNKNOWN),
        ("내가 언제 간다고 했지?", USER),
        ("네가 추천한 식당이 어디야?", ASSISTANT),
        ("고양이 이름이 뭐야?", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_pronouns(question: str, role: int) -> None:
    assert asked_for(question) == role


def test_names_are_capitalised_and_no_stop_words() -> None:
    assert names_in("When did Caroline see Dr Émile?") == terms_of("Caroline Dr")
    assert names_in("When did she?") == []


@pytest.mark.parametrize(
    ("user", "assistant", "role"),
    [(9, 0, UNKNOWN), (10, 0, ASSISTANT), (0, 10, USER), (40, 10, UNKNOWN), (41, 10, ASSISTANT), (0, 0, UNKNOWN)],
)
def test_a_name_is_that_of_the_one_who_is_called_by_it(user: int, assistant: int, role: int) -> None:
    assert bearer(user, assistant) == role


def found(question: str, *messages: tuple[str, str]) -> list[Hit]:
    index = b"".join(index_entry(seq, role, text) for seq, (role, text) in enumerate(messages, start=1))
    return rank(index, question, 99)


TRIPS = [("assistant", "I took the ferry."), *[("user", "Well, well.")] * 9, ("user", "I took the ferry.")]


def test_a_question_finds_first_what_was_said_by_whom_it_asks_for() -> None:
    assert [hit.seq for hit in found("When was the ferry?", *TRIPS)][:2] == [1, 11]
    assert found("What did I say of the ferry?", *TRIPS)[0].seq == 11
    assert found("What did you say of the ferry?", *TRIPS)[0].seq == 1


def test_it_finds_what_is_said_by_the_one_of_that_name() -> None:
    apart, calls = [("user", "Well, well.")] * 9, [("user", "Caroline, hi there.")] * 12
    both = [("user", "I took the ferry."), *apart, ("assistant", "I took the ferry."), *apart]
    assert found("When did Caroline take the ferry?", *both, *calls)[0].seq == 11
    assert found("When did caroline take the ferry?", *both, *calls)[0].seq == 1


def test_of_messages_indexed_before_roles_were_nothing_is_known() -> None:
    old = [("system", text) for _, text in TRIPS]
    assert found("What did I say of the ferry?", *old)[0].seq == 1


def test_a_message_of_many_passages_had_many_chances() -> None:
    """One of twenty passages about a lantern is less of a sign than a message that is about nothing else."""
    room = "The lantern stands there. " + "And so on it goes, as it goes on. " * 24
    long = "\n".join([room] * 20)
    hits = found("Where is the lantern?", ("user", long), *[("user", "Nothing new.")] * 9, ("user", room))
    assert hits[0].seq == 11
    assert hits[0].fused <= max(hit.fused for hit in hits if hit.seq == 1)
