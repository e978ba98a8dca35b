"""Conversation memory for LLM applications: threads in, warm-prefix prompts out."""

__version__ = "0.1.0"
