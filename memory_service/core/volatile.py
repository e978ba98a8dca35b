"""What stands before the user's own text in the open turn: recalled messages and the request's context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from memory_service.core.quoting import Recalled, escape, render_block


@dataclass(frozen=True, slots=True)
class Volatile:
    """Frozen with the turn's first prompt. `recalled` is the explanation of the recalled text, as it is shown."""

    recalled_text: str = ""
    context_text: str = ""
    recalled_tokens: int = 0
    context_tokens: int = 0
    recalled: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, recalled: Sequence[Recalled], context_text: str, tokens_of: Callable[[str], int]) -> Self:
        recalled_text = render_block(r.candidate for r in recalled)
        return cls(
            recalled_text=recalled_text,
            context_text=context_text,
            recalled_tokens=tokens_of(recalled_text),
            context_tokens=tokens_of(context_text),
            recalled=tuple(map(_explain, recalled)),
        )

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(**{**state, "recalled": tuple(state["recalled"])})

    @property
    def tokens(self) -> int:
        return self.recalled_tokens + self.context_tokens

    def recounted(self, tokens_of: Callable[[str], int]) -> Volatile:
        return replace(self, recalled_tokens=tokens_of(self.recalled_text), context_tokens=tokens_of(self.context_text))

    def without_recall(self) -> Volatile:
        return Volatile(context_text=self.context_text, context_tokens=self.context_tokens)


def context_block(texts: Sequence[str]) -> str:
    """The request's context as one text that its content cannot end."""
    return "<request_context>\n" + "\n".join(map(escape, texts)) + "\n</request_context>" if texts else ""


def _explain(recalled: Recalled) -> dict[str, Any]:
    hit, quote = recalled.candidate
    return {
        "message_id": quote.message_id,
        "seq": hit.seq,
        "score": hit.score,
        "why": hit.why,
        "excerpt": quote.is_excerpt,
        "tokens": recalled.tokens,
    }
