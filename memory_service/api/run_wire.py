"""The wire of runs and prewarming: what requests may hold, and what answers look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from memory_service.api.answers import Breakpoint, CacheOut, ErrorDetail, Message, PredictionOut, Reported
from memory_service.api.schemas import (
    Cache,
    Content,
    Input,
    MaxOutputTokens,
    MaxPromptTokens,
    Metadata,
    ModelName,
    Provider,
    Recall,
    Strategy,
    TextBlock,
    Tokens,
    Tools,
    UserMessage,
)


class PrewarmCreate(Input):
    """As in the prompts that are to follow: the provider's prompt cache belongs to a model and its tools."""

    provider: Provider | None = None
    model: ModelName | None = None
    max_prompt_tokens: MaxPromptTokens | None = None
    truncation_strategy: Strategy | None = None
    recall: Recall | None = None
    tools: Tools | None = None
    cache: Cache | None = None


class RunBudgetInput(Input):
    """Bounds on all calls of the run together; at one of them the run ends `incomplete` and says which."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    cost_usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None


class RunCreate(Input):
    provider: Provider | None = None
    model: ModelName | None = None
    message: UserMessage | None = None
    max_prompt_tokens: MaxPromptTokens | None = None
    max_output_tokens: MaxOutputTokens | None = None
    truncation_strategy: Strategy | None = None
    recall: Recall | None = None
    context: list[TextBlock] = Field(
        default_factory=list,
        max_length=100,
        description="For this run only: stands before the question, and is not kept.",
    )
    tools: Tools | None = None
    cache: Cache | None = None
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        max_length=32,
        description="Added to the request as they are: `temperature`, `tool_choice`, `thinking`, …",
    )
    run_budget: RunBudgetInput = RunBudgetInput()
    timeout_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="How long the run may work; waiting for tools is not counted.")
    ] = 600
    tool_timeout_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="How long it waits for tool outputs before it is `expired`.")
    ] = 600
    on_busy: Annotated[
        Literal["refuse", "queue"],
        Field(description="While another run is active: 409 `thread_busy`, or wait for its end, in order."),
    ] = "refuse"
    stream: Annotated[bool, Field(description="Answer with the run's events as they happen (SSE).")] = False
    wait: Annotated[bool, Field(description="Answer when the run has stopped, instead of at once.")] = False
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way_to_follow(self) -> RunCreate:
        if self.stream and self.wait:
            raise ValueError("send `stream` or `wait`, not both")
        return self


class ToolOutput(Input):
    tool_use_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    content: Content = ""
    is_error: bool = False


class ToolOutputs(Input):
    """The outputs of all calls that the run waits for."""

    tool_outputs: Annotated[list[ToolOutput], Field(min_length=1, max_length=128)]
    stream: bool = False
    wait: bool = False


class ToolCall(BaseModel):
    id: str = Field(description="`tool_use_id` of its output.")
    name: str
    input: dict[str, Any]


class RequiredAction(BaseModel):
    type: Literal["tool_outputs"]
    tool_calls: list[ToolCall]


class RunUsage(BaseModel):
    """What all calls of the run used, by the provider's count."""

    calls: int
    cache_read_tokens: int
    cache_write_tokens: int
    uncached_tokens: int
    prompt_tokens: int = Field(description="Read, written and uncached together.")
    output_tokens: int
    cost_usd: float | None = Field(description="Replies included; null when a price is not known.")
    saved_usd: float | None = Field(
        description="What the prompt cache saved of it; below 0 while writing to it costs more than it saved."
    )
    seconds: float = Field(description="Time it worked; waiting for tools is left out.")


class Run(BaseModel):
    id: str
    object: Literal["run"]
    thread_id: str
    status: Literal[
        "queued",
        "in_progress",
        "requires_action",
        "cancelling",
        "cancelled",
        "completed",
        "incomplete",
        "failed",
        "expired",
    ]
    provider: str
    model: str
    required_action: RequiredAction | None = Field(description="The tool calls whose outputs it waits for.")
    last_error: ErrorDetail | None = Field(description="Why it failed.")
    incomplete_reason: str | None = Field(
        description="`max_output_tokens`, a bound of `run_budget` (`prompt_tokens`, `completion_tokens`, `cost_usd`), or "
        "the provider's own word."
    )
    usage: RunUsage
    reply: Message | None = Field(description="The newest message that the run wrote; null in lists.")
    message_ids: list[str]
    prompt_ids: list[str]
    metadata: dict[str, str]
    created_at: str
    started_at: str | None
    expires_at: str | None = Field(description="When it stops waiting for tool outputs.")
    ended_at: str | None


class Prewarm(BaseModel):
    object: Literal["prewarm"]
    thread_id: str
    provider: str
    model: str
    prediction: PredictionOut
    cache: CacheOut | None
    breakpoints: list[Breakpoint] = Field(description="Cache breakpoints, and the tokens before each.")
    usage: dict[str, Any] | None = Field(description="As the provider reported it; null when no model was asked.")
    reported: Reported | None
