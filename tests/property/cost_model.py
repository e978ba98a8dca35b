"""What a conversation costs by Anthropic's rules: `python -m tests.property.cost_model`.

2k of system text, max_prompt_tokens 32k, lognormal turns of 600 tokens, one request a turn; r = .1, w = 1.25. A check of
health: every prompt comes from the core, every bill from the rules as tests/property/anthropic_cache.py states them.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass

from memory_service.core.counting import counted_text
from memory_service.core.truncation import TruncationStrategy
from tests.property.anthropic_cache import AnthropicCache, Bill
from tests.property.operations import WORDS
from tests.property.simulator import BYTES, Simulator, Spec

READ, WRITE = 0.1, 1.25
TURN_TOKENS = 600
SYSTEM_TOKENS = 2_000
LIMIT = 32_000


@dataclass(frozen=True)
class Outcome:
    """Means over all requests, in input tokens. `lower_bound`: every token written once, read as long as it is visible."""

    read_share: float
    cost: float
    lower_bound: float
    uncached: float
    agreement: float
    trims: int

    @property
    def over_lower_bound(self) -> float:
        return self.cost / self.lower_bound


def play(turns: int, *, recall: bool, strategy: str = "auto", ttl: str | None = "5m", seed: int = 1) -> Outcome:
    """Play a conversation of chatter about many things, in which every question recalls something."""
    rng = random.Random(seed)
    thread = Simulator(tokenizer=BYTES, shared=("s" * (SYSTEM_TOKENS - 20),))
    spec = Spec(
        max_prompt_tokens=LIMIT,
        recall=recall,
        recall_tokens=1_500,
        ttl=ttl,
        strategy=TruncationStrategy(strategy),  # type: ignore[arg-type]
    )
    cache = AnthropicCache(lambda block: 8 + len(counted_text([block]).encode()))
    bills: list[Bill] = []
    bound = predicted = 0.0
    trims = 0
    for _ in range(turns):
        thread.append("user", _text(rng, TURN_TOKENS // 4))
        built = thread.build(spec)
        bills.append(cache.send(json.loads(built.text), thread.now))
        tokens, prediction = built.prompt.tokens, built.prompt.prediction
        predicted += prediction.cache_read_tokens
        trims += built.window.trimmed
        system = tokens.system + tokens.tools
        bound += READ * system + WRITE * TURN_TOKENS + READ * max(0, tokens.window - TURN_TOKENS) + tokens.recall
        thread.append("assistant", _text(rng, TURN_TOKENS - TURN_TOKENS // 4))
        thread.now += 60
    total, read = sum(bill.total for bill in bills), sum(bill.read for bill in bills)
    return Outcome(
        read_share=read / total,
        cost=sum(bill.cost(READ, WRITE) for bill in bills) / turns,
        lower_bound=bound / turns,
        uncached=total / turns,
        agreement=predicted / read if read else 1.0,
        trims=trims,
    )


def _text(rng: random.Random, mean: float) -> str:
    """Lognormal in length."""
    sigma = 0.6
    target = max(10, int(rng.lognormvariate(0, sigma) * mean / 2.718281828 ** (sigma**2 / 2))) - 8
    words: list[str] = []
    while sum(len(word.encode()) + 1 for word in words) < target:
        words.append(f"{rng.choice(WORDS[:12])}{rng.randrange(400)}")
    return " ".join(words)


def main() -> None:
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    sliding = play(turns, recall=True, strategy="sliding", ttl=None)
    print(
        f"{turns} turns{'':14}read share   cost  lower bound  cost/bound  cost/uncached sliding  predicted/read  trims"
    )
    for name, outcome in {
        "auto": play(turns, recall=False),
        "auto, recall": play(turns, recall=True),
        "sliding, recall": play(turns, recall=True, strategy="sliding"),
    }.items():
        print(
            f"{name:22}{outcome.read_share:12.1%}{outcome.cost:7.0f}{outcome.lower_bound:13.0f}"
            f"{outcome.over_lower_bound:12.2f}{outcome.cost / sliding.cost:23.1%}{outcome.agreement:16.3f}{outcome.trims:7}"
        )


if __name__ == "__main__":
    main()
