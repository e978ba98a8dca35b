"""What requests of OpenAI's Assistants API may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from memory_service.api.openai.frame import Input, Metadata
from memory_service.api.schemas import Id, ModelName

Instructions = Annotated[str, StringConstraints(max_length=256_000)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
Object = dict[str, Any]
Tools = Annotated[list[Object], Field(max_length=128, fail_fast=True)]


def _either(other: type, error: str) -> Discriminator:
    """Of a text and something else: what is wrong is said of the one that was sent."""
    return Discriminator(
        lambda value: "<text>" if isinstance(value, str) else "<other>" if isinstance(value, other) else None,
        custom_error_type=error,
        custom_error_message=error,
    )


Format = Annotated[
    Annotated[Literal["auto"], Tag("<text>")] | Annotated[Object, Tag("<other>")],
    _either(dict, "text_or_object"),
]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")] | Annotated[Object, Tag("<other>")],
    _either(dict, "text_or_object"),
]
#: Text, or a list of parts or items.
TextOrList = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Object], Field(max_length=1_000, fail_fast=True), Tag("<other>")],
    _either(list, "text_or_list"),
]
#: Over all calls of a run.
TokenLimit = Annotated[int, Field(ge=256, le=100_000_000)]
#: What counts as not sent when it is null: lists, for which this API knows no null of its own.
_listed = BeforeValidator(lambda value: [] if value is None else value)


class AssistantFields(Input):
    model: ModelName | None = None
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    instructions: Instructions | None = None
    tools: Annotated[Tools, _listed] = []
    tool_resources: Object | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: Format | None = None
    reasoning_effort: str | None = None
    metadata: Metadata = {}


class AssistantCreate(AssistantFields):
    model: ModelName


class AssistantUpdate(AssistantFields):
    """What is given is set."""


class MessageCreate(Input):
    role: Literal["user", "assistant"]
    content: TextOrList
    attachments: list[Object] | None = None
    metadata: Metadata = {}


class MetadataUpdate(Input):
    metadata: Metadata = {}


class ThreadUpdate(MetadataUpdate):
    tool_resources: Object | None = None


class ThreadCreate(ThreadUpdate):
    messages: Annotated[list[MessageCreate], Field(max_length=1_000), _listed] = []


class Truncation(Input):
    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _last_messages_with_its_type(self) -> Truncation:
        if self.type == "last_messages" and self.last_messages is None:
            raise ValueError("last_messages (a number) goes with type last_messages")
        return self


class RunFields(Input):
    assistant_id: Id
    model: ModelName | None = None
    instructions: Instructions | None = None
    tools: Annotated[list[Object], Field(max_length=128, fail_fast=True)] | None = None
    metadata: Metadata = {}
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_prompt_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    truncation_strategy: Truncation | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    reasoning_effort: str | None = None
    stream: bool | None = None


class RunCreate(RunFields):
    additional_instructions: Instructions | None = None
    additional_messages: Annotated[list[MessageCreate], Field(max_length=1_000), _listed] = []


class ThreadAndRunCreate(RunFields):
    thread: ThreadCreate | None = None
    tool_resources: Object | None = None


class ToolOutput(Input):
    """Without an id it is that of the only call there is."""

    tool_call_id: Id | None = None
    output: str | None = None


class ToolOutputs(Input):
    tool_outputs: Annotated[list[ToolOutput], Field(min_length=1, max_length=128)]
    stream: bool | None = None
