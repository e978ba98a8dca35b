"""fastembed: ONNX models on the CPU, without torch. The extra `fastembed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memory_service.providers.embeddings.local import Encode
from memory_service.providers.embeddings.registry import EmbedderSpec

_ONNX_FILES = ("onnx/model.onnx", "model.onnx", "model_optimized.onnx")


def load(spec: EmbedderSpec) -> Encode:
    """A model by one of the names fastembed knows, which it downloads once, or from a directory of files."""
    from fastembed import TextEmbedding

    directory = Path(spec.model).expanduser()
    if directory.is_dir():
        model = _load_directory(TextEmbedding, directory)
    else:
        model = TextEmbedding(spec.model)

    def encode(texts: list[str], is_query: bool) -> Any:
        prefix = (spec.query_prefix if is_query else spec.passage_prefix) or ""
        embed = model.query_embed if is_query else model.passage_embed
        return list(embed([prefix + text for text in texts]))

    return encode


def _load_directory(embedding: Any, directory: Path) -> Any:
    """fastembed must be told what a model that it does not know is; its name here is its directory."""
    from fastembed.common.model_description import ModelSource

    name = str(directory.resolve())
    files = [file for file in _ONNX_FILES if (directory / file).is_file()]
    if not files:
        raise ValueError(f"none of {', '.join(_ONNX_FILES)} is in {directory}")
    known = {model["model"] for model in embedding.list_supported_models()}
    if name not in known:
        embedding.add_custom_model(
            name,
            pooling=_pooling(directory),
            normalization=True,
            sources=ModelSource(url="file://unused"),
            dim=0,
            model_file=files[0],
        )
    return embedding(name, specific_model_path=name)


def _pooling(directory: Path) -> Any:
    """As the model's own configuration has it, the mean of its tokens where it has none."""
    from fastembed.common.model_description import PoolingType

    config = directory / "1_Pooling" / "config.json"
    fields = json.loads(config.read_text()) if config.is_file() else {"pooling_mode": "mean"}
    # Older files have a flag for each way.
    flags = [
        name.removeprefix("pooling_mode_").removesuffix("_tokens") for name, value in fields.items() if value is True
    ]
    mode = fields.get("pooling_mode") or next((flag for flag in flags if flag != "include_prompt"), None)
    known = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "cls_token": PoolingType.CLS}
    known["lasttoken"] = PoolingType.LAST_TOKEN
    if mode not in known:
        raise ValueError(f"fastembed cannot pool tokens as {config} has it: {mode}")
    return known[mode]
