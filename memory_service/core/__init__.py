"""The context engine: pure functions and frozen dataclasses. Time, ids and token counts come in as arguments."""
