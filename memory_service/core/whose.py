"""Whose words a question asks for: the user's, the assistant's, or anybody's.

"I" and "my" ask for what the user said, "you" and "your" for what the assistant answered. A name that one side says again
and again, and the other hardly ever, is the other's: people call each other by name, seldom themselves.
"""

from __future__ import annotations

import re

from memory_service.core.terms import terms_of

#: As a role is kept in the index of a thread. Of messages that were indexed by earlier versions it is not known.
UNKNOWN, USER, ASSISTANT = 0, 1, 2

_FIRST_PERSON = re.compile(
    r"(?<!\w)(i|my|me|mine|we|us|our|ours|내|내가|나는|나의|나한테|제|제가|저는|저의|저한테|우리|우리가)(?!\w)"
)
_SECOND_PERSON = re.compile(r"(?<!\w)(you|your|yours|네가|너는|너의|당신|당신이|당신의)(?!\w)")
_CAPITALISED = re.compile(r"\b[A-Z][^\W_]+")
_OFTEN = 10
_HARDLY_EVER = 1 / 4


def code_of(role: str) -> int:
    return {"user": USER, "assistant": ASSISTANT}.get(role, UNKNOWN)


def asked_for(question: str) -> int:
    """The role whose words a question of the user's asks for, by its pronouns."""
    text = question.lower()
    if _FIRST_PERSON.search(text):
        return USER
    return ASSISTANT if _SECOND_PERSON.search(text) else UNKNOWN


def names_in(question: str) -> list[int]:
    """The index terms of what may be names."""
    return terms_of(" ".join(_CAPITALISED.findall(question)))


def bearer(said_by_user: int, said_by_assistant: int) -> int:
    """The role whose name a term is, if one side alone calls it; counted in passages."""
    less, more = sorted((said_by_user, said_by_assistant))
    if less + more < _OFTEN or less >= _HARDLY_EVER * more:
        return UNKNOWN
    return ASSISTANT if said_by_user == more else USER
