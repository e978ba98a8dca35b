"""Python client of memory-service.

client = MemoryClient()
thread = client.threads.create(user_id="ada")
prompt = client.threads.prompts.build(thread.id, model="…", message="Hello")
"""

from ._async import AsyncExport, AsyncMemoryClient, AsyncPage, AsyncPaginator
from ._errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    InternalServerError,
    MemoryClientError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    UnprocessableEntityError,
)
from ._request import NOT_GIVEN, NotGiven
from ._sync import Export, MemoryClient, Page
from ._version import __version__
from .objects import (
    Assistant,
    CacheBreakpoint,
    CachePrediction,
    Health,
    ImportReport,
    Message,
    Omitted,
    PrefixBreak,
    Prompt,
    PromptTokens,
    Recalled,
    Repair,
    ReportedUsage,
    SearchHit,
    Thread,
    UsageReport,
    Window,
)

__all__ = [
    "NOT_GIVEN",
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "Assistant",
    "AsyncExport",
    "AsyncMemoryClient",
    "AsyncPage",
    "AsyncPaginator",
    "AuthenticationError",
    "BadRequestError",
    "CacheBreakpoint",
    "CachePrediction",
    "ConfigurationError",
    "ConflictError",
    "Export",
    "Health",
    "ImportReport",
    "InternalServerError",
    "MemoryClient",
    "MemoryClientError",
    "Message",
    "NotFoundError",
    "NotGiven",
    "Omitted",
    "Page",
    "PermissionDeniedError",
    "PrefixBreak",
    "Prompt",
    "PromptTokens",
    "RateLimitError",
    "Recalled",
    "Repair",
    "ReportedUsage",
    "RequestTooLargeError",
    "SearchHit",
    "Thread",
    "UnprocessableEntityError",
    "UsageReport",
    "Window",
    "__version__",
]
