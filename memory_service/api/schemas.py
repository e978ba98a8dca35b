"""The wire: what requests may hold. What answers look like stands in `answers`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
MetadataPatch = Annotated[dict[MetadataKey, MetadataValue | None], Field(max_length=32)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _of_one_line(id: str) -> str:
    if _CONTROL.search(id):
        raise ValueError("must hold no control characters and no line breaks, since it stands in paths")
    return id


#: An id that the application gives. One with control characters may be held from before, so only what is written is
#: held to this.
NewId = Annotated[
    Id,
    AfterValidator(_of_one_line),
    Field(json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"}),
]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank; providers refuse empty text")
    return text


NotBlank = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(_not_blank),
    Field(json_schema_extra={"pattern": r"\S"}),
]
Instructions = Annotated[NotBlank, StringConstraints(max_length=1_000_000)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Provider = Literal["anthropic", "openai", "echo"]
# The first bad block is told; a list of a million of them would otherwise be a million errors.
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[dict[str, Any]], Field(fail_fast=True), Tag("<blocks>")],
    Discriminator(
        lambda value: "<text>" if isinstance(value, str) else "<blocks>" if isinstance(value, list) else None,
        custom_error_type="content_type",
        custom_error_message="must be a string or a list of content blocks",
    ),
    Field(description="Text, or content blocks in Anthropic's format; kept byte for byte."),
]
ProviderObjects = Annotated[list[dict[str, Any]], Field(fail_fast=True, description="As OpenAI gives them.")]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
MaxPromptTokens = Annotated[Tokens, Field(description="What the prompt may have at most, in the model's own tokens.")]
MaxOutputTokens = Annotated[Tokens, Field(description="What the answer may have at most; 4096 when nobody says.")]


class Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _kept_role(role: Any) -> Any:
    if role == "tool":
        raise ValueError(
            "must be 'user' or 'assistant'; a tool's result is a user message whose content is "
            '[{"type": "tool_result", "tool_use_id": "<id of the call>", "content": "<the result>"}]'
        )
    if role in ("system", "developer"):
        raise ValueError("must be 'user' or 'assistant'; such text goes into the `instructions` of the thread")
    return role


Role = Annotated[Literal["user", "assistant"], BeforeValidator(_kept_role)]


class Document(Input):
    """A text that stands in the system part of every prompt."""

    text: NotBlank
    title: Annotated[str, StringConstraints(max_length=512)] | None = None


class Strategy(Input):
    """How the window is cut: `auto` trims rarely and deeply, `sliding` each turn, `disabled` never.

    `shorten_tool_results`: when the last turn alone is larger than the budget, its longest tool results are shown as head
    and tail (the prompt's `shortened` lists them) instead of refusing the prompt.
    """

    type: Literal["auto", "last_messages", "disabled", "sliding"]
    last_messages: Annotated[int, Field(ge=1, le=100_000)] | None = None
    shorten_tool_results: bool = False

    @model_validator(mode="after")
    def _last_messages_with_its_type(self) -> Strategy:
        if (self.type == "last_messages") != (self.last_messages is not None):
            raise ValueError("last_messages (a number) goes with type last_messages, and only with it")
        return self


Tools = Annotated[
    list[dict[str, Any]], Field(max_length=128, fail_fast=True, description="Tools in Anthropic's format.")
]
Documents = Annotated[list[Document], Field(max_length=100)]


class MessageInput(Input):
    role: Role
    content: Content
    metadata: Metadata = {}


class UserMessageInput(MessageInput):
    role: Annotated[Literal["user"], BeforeValidator(_kept_role)]


class ReplyInput(Input):
    """The reply as the provider gave it: Anthropic's message, OpenAI's, or OpenAI's whole chat completion.

    Its text, blocks, refusal and tool calls are kept; what is not named here is ignored.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["assistant"] = "assistant"
    content: Content | None = None
    tool_calls: ProviderObjects | None = None
    refusal: str | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    choices: ProviderObjects | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ReplyInput:
        if not self.model_fields_set & {"content", "tool_calls", "refusal", "choices"}:
            raise ValueError("send the reply's `content` (or OpenAI's `tool_calls`, or the whole answer)")
        return self


class ThreadFields(Input):
    user_id: NewId | None = None
    assistant_id: NewId | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    documents: Documents | None = None
    truncation_strategy: Strategy | None = None


class ThreadCreate(ThreadFields):
    metadata: Metadata = {}
    messages: Annotated[list[MessageInput], Field(max_length=1_000)] = []


class ThreadUpdate(ThreadFields):
    """What is given is set, null clears; `metadata` is merged, null removes a key."""

    metadata: MetadataPatch | None = None


class ForkInput(ThreadFields):
    """All else is copied from the thread, unless it is given: then it is the copy's own; null leaves it out."""

    seq: Annotated[int, Field(ge=0, le=2**31 - 1, description="Last message of the copy.")]
    metadata: Annotated[Metadata | None, Field(description="Instead of the thread's.")] = None


class MessagesCreate(Input):
    """One message (`role`, `content`), or several at once (`messages`): all or none."""

    role: Role | None = None
    content: Content | None = None
    metadata: Metadata | None = None
    messages: Annotated[list[MessageInput], Field(min_length=1, max_length=1_000)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> MessagesCreate:
        single = self.role is not None or self.content is not None or self.metadata is not None
        if self.messages is not None and single:
            raise ValueError("send `role` and `content`, or `messages`, not both")
        if self.messages is None and (self.role is None or self.content is None):
            raise ValueError("send `role` and `content`, or `messages`")
        return self


class MessageUpdate(Input):
    content: Content | None = None
    metadata: MetadataPatch | None = None

    @model_validator(mode="after")
    def _something(self) -> MessageUpdate:
        if "content" in self.model_fields_set and self.content is None:
            raise ValueError("content cannot be null; delete the message instead")
        return self


def _off_or_on(value: Any) -> str:
    return "<off>" if value is False else "<on>"


def _true_as_default(value: Any) -> Any:
    return {} if value is True else value


class RecallInput(Input):
    max_tokens: (
        Annotated[int, Field(ge=0, le=1_000_000, description="Markup included, in the model's tokens.")] | None
    ) = None
    query: Annotated[str, StringConstraints(max_length=100_000)] | None = None


class CacheInput(Input):
    """`auto` takes the lifetime that the gaps between the thread's own requests make the cheaper one."""

    ttl: Literal["auto", "5m", "1h"] = "auto"


Recall = Annotated[
    Annotated[RecallInput, Tag("<on>")] | Annotated[Literal[False], Tag("<off>")],
    Discriminator(_off_or_on),
    BeforeValidator(_true_as_default, json_schema_input_type=RecallInput | bool),
    Field(description="`false` recalls nothing; `true` is `{}`: recall with its defaults."),
]
Cache = Annotated[
    Annotated[CacheInput, Tag("<on>")] | Annotated[Literal[False], Tag("<off>")],
    Discriminator(_off_or_on),
    BeforeValidator(_true_as_default, json_schema_input_type=CacheInput | bool),
    Field(description="`false` sets no cache breakpoints; `true` is `{}`: breakpoints with the default TTL."),
]
UserMessage = Annotated[
    UserMessageInput,
    BeforeValidator(
        lambda value: {"role": "user", "content": value} if isinstance(value, str) else value,
        json_schema_input_type=UserMessageInput | str,
    ),
    Field(description="Appended first, together with the prompt or not at all. A string is the user's text."),
]


Reply = Annotated[
    ReplyInput,
    BeforeValidator(
        lambda value: {"content": value} if isinstance(value, str) else value,
        json_schema_input_type=ReplyInput | str,
    ),
    Field(description="The reply to append, as the provider gave it. A string is its text."),
]


class TextBlock(Input):
    type: Literal["text"]
    text: NotBlank


class PromptCreate(Input):
    provider: Provider | None = None
    model: ModelName | None = None
    max_prompt_tokens: MaxPromptTokens | None = None
    max_output_tokens: MaxOutputTokens | None = None
    truncation_strategy: Strategy | None = None
    recall: Recall | None = None
    context: Annotated[
        list[TextBlock],
        Field(max_length=100, description="For this prompt only: stands before the question, and is not kept."),
    ] = []
    message: UserMessage | None = None
    tools: Tools | None = None
    cache: Cache | None = None
    dry_run: Annotated[bool, Field(description="Plan only; nothing is appended or kept.")] = False
    refresh: Annotated[
        bool, Field(description="Recall and context anew in a turn that has a prompt already; breaks its prefix.")
    ] = False


class UsageReport(Input):
    usage: dict[str, Any]
    message: Reply | None = None
    diagnostics: (
        Annotated[
            dict[str, Any],
            Field(description="What the provider says of its prompt cache, beside its usage; kept in the usage."),
        ]
        | None
    ) = None


class AssistantDefaults(Input):
    max_prompt_tokens: MaxPromptTokens | None = None
    max_output_tokens: MaxOutputTokens | None = None
    truncation_strategy: Strategy | None = None
    recall: Recall | None = None


class AssistantCreate(Input):
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    model: ModelName | None = None
    provider: Provider | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    documents: Documents | None = None
    defaults: AssistantDefaults | None = None
    metadata: Metadata = {}


class AssistantUpdate(AssistantCreate):
    metadata: MetadataPatch | None = None  # type: ignore[assignment]


class SearchInput(Input):
    q: Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
    user_id: Id
    limit: Annotated[int, Field(ge=1, le=100)] = 10
