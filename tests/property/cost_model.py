"""What a conversation costs by the providers' rules: `python -m bench engine` shows it.

2k of system text, max_prompt_tokens 32k, lognormal turns of 600 tokens, one request a turn; r = .1, w = 1.25. Every prompt
comes from the core, every bill from the rules as anthropic_cache.py and openai_cache.py state them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memory_service.core.counting import counted_text
from memory_service.core.messages import Block
from memory_service.core.pricing import Model
from memory_service.core.tokens import TokenEstimate
from memory_service.core.truncation import TruncationStrategy
from tests.property import checks
from tests.property.anthropic_cache import AnthropicCache, Bill
from tests.property.openai_cache import OpenAICache
from tests.property.operations import WORDS
from tests.property.simulator import BYTES, CLAUDE, Built, Simulator, Spec, Tokenizer

WRITE = {"5m": 1.25, "1h": 2.0, None: 1.0}
READ = 0.1
TURN_TOKENS = 600
SYSTEM_TOKENS = 2_000
LIMIT = 32_000
GAP_SECONDS = 60.0
_CALIBRATED = 20


@dataclass(frozen=True)
class Policy:
    """How the prompts of a conversation are asked for."""

    recall: bool = True
    strategy: str = "auto"
    ttl: str | None = "5m"
    model: Model = CLAUDE

    @property
    def spec(self) -> Spec:
        return Spec(
            model=self.model,
            max_prompt_tokens=LIMIT,
            recall=self.recall,
            recall_tokens=1_500,
            ttl=self.ttl,
            strategy=TruncationStrategy(self.strategy),  # type: ignore[arg-type]
        )


@dataclass
class Outcome:
    """Sums over all requests, in input tokens. `bound`: every token written once, read as long as it is visible."""

    bills: list[Bill] = field(default_factory=list)
    cost: float = 0.0
    bound: float = 0.0
    predicted: float = 0.0
    trims: int = 0
    extended: int = 0
    undeclared: int = 0
    hours: int = 0

    @property
    def read(self) -> float:
        return sum(bill.read for bill in self.bills)

    @property
    def tokens(self) -> float:
        return sum(bill.total for bill in self.bills)

    @property
    def read_share(self) -> float:
        return self.read / self.tokens

    @property
    def over_bound(self) -> float:
        return self.cost / self.bound

    @property
    def agreement(self) -> float:
        return self.predicted / self.read if self.read else 1.0


@dataclass
class Player:
    """One conversation by one policy, billed as it goes."""

    policy: Policy
    seed: int = 1
    thread: Simulator = field(default_factory=lambda: Simulator(shared=("s" * (SYSTEM_TOKENS - 20),)))
    outcome: Outcome = field(default_factory=Outcome)
    last: Built | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        openai = self.policy.model.cache_rule == "openai_breakpoints"
        self.cache: AnthropicCache | OpenAICache = (
            OpenAICache(_part_tokens) if openai else AnthropicCache(_block_tokens)
        )

    def say(self, role: str, tokens: float) -> None:
        self.thread.append(role, text(self.rng, tokens))

    def request(self) -> Built:
        """Build the next prompt, send it, and count what it costs."""
        built, outcome = self.thread.build(self.policy.spec), self.outcome
        if isinstance(self.cache, AnthropicCache):
            self.cache.ttl_seconds = 3_600 if built.request.ttl == "1h" else 300
        bill = self.cache.send(json.loads(built.text), self.thread.now)
        outcome.bills.append(bill)
        outcome.cost += bill.cost(READ, WRITE[built.request.ttl])
        tokens = built.prompt.tokens
        stable, stays = tokens.system + tokens.tools, max(0, tokens.window - TURN_TOKENS)
        outcome.bound += READ * (stable + stays) + WRITE["5m"] * TURN_TOKENS + tokens.recall
        outcome.predicted += built.prompt.prediction.cache_read_tokens
        outcome.trims += built.window.trimmed
        outcome.hours += built.request.ttl == "1h"
        self._compare(built)
        self.thread.sent(built)
        self.last = built
        return built

    def _compare(self, built: Built) -> None:
        """Count whether it extends the one before, or declares that it does not."""
        if self.last is None:
            return
        before, present = checks.prefix_of(self.last), checks.prefix_of(built, whole=True)
        if present[: len(before)] == before:
            self.outcome.extended += 1
        elif not built.prompt.breaks:
            self.outcome.undeclared += 1


def play(turns: int, policy: Policy, *, seed: int = 1, gaps: Callable[[random.Random], float] | None = None) -> Outcome:
    """Play a conversation of chatter about many things, in which every question recalls something."""
    player = Player(policy, seed)
    waits = random.Random(seed)
    for _ in range(turns):
        player.say("user", TURN_TOKENS // 4)
        player.request()
        player.say("assistant", TURN_TOKENS - TURN_TOKENS // 4)
        player.thread.now += gaps(waits) if gaps else GAP_SECONDS
    return player.outcome


def human_gap(rng: random.Random) -> float:
    """Seconds between two messages of a person: one in seven outlives five minutes, one in 250 an hour."""
    return rng.lognormvariate(4.094, 1.553)


def play_tools(turns: int, round_trips: int, *, seed: int = 1) -> tuple[Outcome, Outcome]:
    """Tool loops behind a full window: what is read inside them, and with the first request after each."""
    player = Player(Policy(), seed)
    for _ in range(60):
        player.say("user", TURN_TOKENS // 4)
        player.request()
        player.say("assistant", TURN_TOKENS - TURN_TOKENS // 4)
        player.thread.now += GAP_SECONDS
    inside, everything = Outcome(), Outcome()
    for turn in range(turns):
        for step in range(round_trips + 1):
            if step:
                _call(player, f"call_{turn}_{step}")
            else:
                player.say("user", TURN_TOKENS // 4)
            player.thread.now += 5
            player.request()
            (everything if step == 0 else inside).bills.append(player.outcome.bills[-1])
        player.say("assistant", TURN_TOKENS // 2)
        player.thread.now += GAP_SECONDS
    everything.bills += inside.bills
    return inside, everything


def _call(player: Player, id_: str) -> None:
    use: Block = {"type": "tool_use", "id": id_, "name": "look_up", "input": {"query": text(player.rng, 20)}}
    player.thread.append("assistant", [{"type": "text", "text": text(player.rng, 30)}, use])
    player.thread.append("user", [{"type": "tool_result", "tool_use_id": id_, "content": text(player.rng, 200)}])


# A tokenizer that nobody knows: 0.31 tokens a byte, some for each message and request, and a part that no count explains.
_HIDDEN = (9.0, 11.0, 0.0, 0.0, 0.31, 1.0)


def play_learning(turns: int, *, seed: int = 1) -> Iterator[tuple[int, int]]:
    """What a provider reports for each prompt, and the limit, where the token estimate has to be learnt."""
    estimate = TokenEstimate.prior(1.0)
    tokenizer = Tokenizer("learnt", _count_words, estimate.scaled())
    player = Player(Policy(), seed, Simulator(tokenizer=tokenizer, shared=("s " * (SYSTEM_TOKENS // 2),)))
    spec = replace(player.policy.spec, max_prompt_tokens=LIMIT // 4)
    for number in range(turns):
        player.say("user", 2 * TURN_TOKENS)
        built = player.thread.build(spec)
        counts = built.prompt.counts
        hidden = sum(w * f for w, f in zip(_HIDDEN, counts.features, strict=True))
        reported = round(hidden * player.rng.uniform(0.985, 1.015))
        if number >= _CALIBRATED:
            yield reported, spec.max_prompt_tokens
        estimate = estimate.observe(counts, reported)
        player.thread.tokenizer = replace(tokenizer, scale=estimate.scaled())
        player.thread.sent(built)
        player.say("assistant", 2 * TURN_TOKENS)


def _count_words(value: str) -> Any:
    counts = BYTES.count(value)
    return replace(counts, latin=counts.text_bytes // 4)


def text(rng: random.Random, mean: float) -> str:
    """Lognormal in length."""
    sigma = 0.6
    target = max(10, int(rng.lognormvariate(0, sigma) * mean / 2.718281828 ** (sigma**2 / 2))) - 8
    words: list[str] = []
    while sum(len(word.encode()) + 1 for word in words) < target:
        words.append(f"{rng.choice(WORDS[:12])}{rng.randrange(400)}")
    return " ".join(words)


def _block_tokens(block: Mapping[str, Any]) -> float:
    return 8 + len(counted_text([block]).encode())


def _part_tokens(part: Mapping[str, Any]) -> float:
    return 8 + len(str(part.get("text") or json.dumps(part)).encode())
