"""Which provider answers a prompt: the one of its form, or an echo when nobody can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from memory_service.errors import InvalidInput
from memory_service.providers.base import ChatProvider, TextCounter
from memory_service.providers.chat.anthropic import AnthropicChat
from memory_service.providers.chat.echo import Echo
from memory_service.providers.chat.openai import OpenAIChat

# What says that a provider can be asked, by the form of its requests.
_ANY_OF = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
}


class ChatProviders:
    """Opened when they are first asked for, closed once.

    Without a key the echo stands in for a provider, and says so in each reply; its `name` is `echo` all the same, so
    that nobody takes its usage for a provider's.
    """

    def __init__(
        self,
        counter: TextCounter,
        environ: Mapping[str, str],
        *,
        idle_seconds: float,
        sends_cache_salt: bool = False,
    ) -> None:
        self._counter = counter
        self._environ = environ
        self._idle_seconds = idle_seconds
        self._sends_cache_salt = sends_cache_salt
        self._opened: dict[str, ChatProvider] = {}

    def get(self, provider: str) -> ChatProvider:
        """`provider` is the form of the request. Raises InvalidInput for one that there is not."""
        if provider not in self._opened:
            self._opened[provider] = self._open(provider)
        return self._opened[provider]

    def _open(self, provider: str) -> ChatProvider:
        wanted = _ANY_OF.get(provider, ())
        if wanted and not self._is_set(provider):
            return Echo(self._counter, notice=self._notice(provider, wanted[0]))
        match provider:
            case "anthropic":
                return AnthropicChat(self._idle_seconds)
            case "openai":
                return OpenAIChat(self._idle_seconds, sends_cache_salt=self._sends_cache_salt)
            case "echo":
                return Echo(self._counter)
        raise InvalidInput(f"There is no provider {provider!r}; there are anthropic, openai and echo.")

    def _is_set(self, provider: str) -> bool:
        return any(self._environ.get(name, "").strip() for name in _ANY_OF[provider])

    def _notice(self, provider: str, wanted: str) -> str:
        """Where only the other one can be asked, most likely a model of its was taken for one of this one's."""
        other = next((other for other in _ANY_OF if other != provider and self._is_set(other)), None)
        hint = f' For a model of {other}, send provider "{other}" or set MEMORY_DEFAULT_PROVIDER.' if other else ""
        return f"No {wanted} is set, so no model was asked.{hint}"

    async def load(self) -> None:
        """Load the SDKs that will be needed, so that the first run does not wait for them."""
        for provider in _ANY_OF:
            with suppress(Exception):  # whoever calls it is told
                await self.get(provider).load()

    async def close(self) -> None:
        for provider in self._opened.values():
            await provider.close()
