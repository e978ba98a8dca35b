"""sentence-transformers: any model of its kind, on torch. The extra `sentence-transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memory_service.providers.embeddings.local import Encode
from memory_service.providers.embeddings.registry import EmbedderSpec


def load(spec: EmbedderSpec) -> Encode:
    """A model by its name on the hub, which is downloaded once, or from a directory."""
    from sentence_transformers import SentenceTransformer

    directory = Path(spec.model).expanduser()
    model = SentenceTransformer(str(directory) if directory.is_dir() else spec.model)

    def encode(texts: list[str], is_query: bool) -> Any:
        if is_query:
            return model.encode_query(texts, prompt=spec.query_prefix, show_progress_bar=False)
        return model.encode_document(texts, prompt=spec.passage_prefix, show_progress_bar=False)

    return encode
