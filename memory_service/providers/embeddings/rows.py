"""What embedders have in common: which texts are embedded together, and what their vectors must be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from memory_service.providers.base import Vectors

# More than a model with a context of 8,000 tokens reads of an English text.
MAX_TEXT_CHARACTERS = 32_000


async def embed_in_batches(
    texts: Sequence[str],
    dimensions: int,
    embed: Callable[[list[str]], Awaitable[Vectors]],
    *,
    max_texts: int,
    max_characters: int,
) -> Vectors:
    """A row for each text. A blank one is never sent, some services refuse it; its row is zeros."""
    rows = np.zeros((len(texts), dimensions), np.float32)
    present = [(at, text[:MAX_TEXT_CHARACTERS]) for at, text in enumerate(texts) if text.strip()]
    for batch in _batches(present, max_texts, max_characters):
        rows[[at for at, _ in batch]] = await embed([text for _, text in batch])
    return rows


def _batches(numbered: list[tuple[int, str]], max_texts: int, max_characters: int) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    characters = 0
    for at, text in numbered:
        if batch and (len(batch) == max_texts or characters + len(text) > max_characters):
            yield batch
            batch, characters = [], 0
        batch.append((at, text))
        characters += len(text)
    if batch:
        yield batch


def unit_rows(values: npt.ArrayLike, *, count: int, dimensions: int | None) -> Vectors:
    """Rows of length 1 (zeros stay zeros). Raises NotVectors, or ValueError when they are no numbers."""
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.shape[0] != count or rows.shape[1] == 0:
        raise NotVectors(f"{count} vectors were expected, their shape is {rows.shape}")
    if not np.isfinite(rows).all():
        raise NotVectors("a vector holds numbers that are not finite")
    if dimensions is not None and rows.shape[1] != dimensions:
        raise WrongDimensions(f"{rows.shape[1]} dimensions instead of {dimensions}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


class NotVectors(ValueError):
    """What is wrong with the values, without any of them."""


class WrongDimensions(NotVectors):
    """Another model answers than the one that was asked: asking again does not help."""
