"""A real model server without a download: llama.cpp's own server over a tiny model written on the spot.

The text it answers with is babble, but everything else is real: it speaks the Anthropic and the OpenAI
protocol, and it reports the prefix it could really reuse from its prompt cache. So whether a prompt's
prefix is stable is judged by an engine that knows nothing of this service.

One token is one byte of UTF-8, and the chat template is short, so every number can be checked by hand
(`rendered_bytes`). Measured with xllamacpp 2026.10.11549 on two cores; the tests hold usage, reuse and text
rendering to it.

Usage
    `/v1/messages`: `input_tokens` **excludes** the cached part, `cache_read_input_tokens` is that part,
    their sum is the rendered prompt in bytes, exactly. `cache_creation_input_tokens` is absent (None in
    the SDK; read it as 0): everything in a request is written to the cache, nothing is charged for it. At
    least one token is always uncached, so repeating a request of n bytes reads n - 1. A stream carries
    the input side in `message_start` only and the output side in `message_delta`, the SDK's final message
    has both.
    `/v1/chat/completions`: `prompt_tokens` **includes** the cached part,
    `prompt_tokens_details.cached_tokens` is it.
    `/v1/messages/count_tokens`: the same total, without touching the cache.

Reuse
    To the byte, no rounding to batches: a request that diverges reads everything up to the first
    different byte. When request 2 is request 1 + its own reply + a new message, it reads all of request 1
    and all but the last byte of the reply; when another text is stored as the reply, exactly request 1.
    One slot, and up to `PROMPT_CACHE_MIB` of prompts put aside when another thread's request comes, so
    threads may alternate. `cache_control` markers (top level, system, text, tool_result, tools) change
    neither rendering nor reuse.

Rendering (`<role>`, newline, text, newline; then `<assistant>` and newline to answer)
    Overhead: user 8 bytes, assistant 13, system 10, the final `<assistant>` line 12. Several text blocks
    of one message, or of the system, are joined without a separator. Consecutive messages of one role
    stay apart. tool_use is `<call id name>{arguments}` after the text, arguments re-serialised (", " and
    ": " as separators, 1.10 becomes 1.1). Each tool_result is a `<tool id>` message of its own, **placed
    after all text of its message**, even of text blocks that follow it; `is_error` is not rendered. Tools
    come first, before the system, one line of JSON each. thinking and document blocks are dropped without
    a word, an image is refused (500, which the SDK retries). A last assistant message is rendered like any
    other, not as the start of the answer.

Generation
    Only a-z and space can come out, so replies are valid text. The default temperature is 0 (the
    Anthropic SDK 2 has no parameter for it): the same sequence of requests gets the same answers. Only
    `max_tokens` or a stop sequence ends a reply (the latter with stop_reason `end_turn`). `max_tokens=0`
    generates one token all the same, so pre-warming costs one.

Embeddings
    With `Engine(embeddings=True)` it serves `/v1/embeddings` instead: means of its tokens' vectors, of length 1.
    A text longer than `n_ctx` is refused with 500, an empty one with 400, `dimensions` is ignored.

Speed
    Model written in 10 ms (100 kB; importing gguf takes 0.2 s), server healthy in 0.3 s. Prefill: 12,000
    bytes in 0.15 s, 24,000 in 0.6 s, 32,000 in 0.9 s, 64,000 in 4 to 9 s (attention is quadratic); 8 tokens
    of output on a warm 24,000-byte prefix in 20 ms. The sample's 123 turns, each with the whole history,
    take 4 s in all and read 98 % of their bytes from the cache. 160 MB resident.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from memory_service.errors import Unavailable

MODEL_NAME = "tiny-bytes"
DEFAULT_N_CTX = 65_536
PROMPT_CACHE_MIB = 128
HEAD_WIDTH = 32
SEED = 7


@dataclass(frozen=True, slots=True)
class Size:
    """How big the generated model is. The default answers at once; with more, reading a prompt takes most of the time."""

    heads: int = 1
    layers: int = 1

    @property
    def width(self) -> int:
        return self.heads * HEAD_WIDTH


TINY = Size()

# Texts are marked off by lines of their own; a longer conversation starts with the bytes of a shorter one.
# `content is iterable` tells the server that blocks are welcome; without it, it joins them with newlines.
CHAT_TEMPLATE = r"""
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content is iterable -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{ '<tools>\n' }}{%- for tool in tools -%}{{ (tool | tojson) + '\n' }}{%- endfor -%}
{%- endif -%}
{%- for message in messages -%}
{{ '<' + message.role + (' ' + message.tool_call_id if message.tool_call_id else '') + '>\n' }}
{{- text(message.content) }}
{%- for call in message.tool_calls or [] -%}
{%- set arguments = call.function.arguments -%}
{{ '<call ' + (call.id or '') + ' ' + call.function.name + '>' }}
{{- arguments if arguments is string else arguments | tojson }}
{%- endfor -%}
{{ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<assistant>\n' }}{%- endif -%}
"""


def rendered_bytes(messages: list[tuple[str, str]], *, system: str | None = None) -> int:
    """The prompt tokens the engine will count for plain text messages of (role, text)."""
    turns = messages if system is None else [("system", system), *messages]
    return sum(len(f"<{role}>\n{text}\n".encode()) for role, text in turns) + len("<assistant>\n")


def write_model(path: Path, *, n_ctx: int = DEFAULT_N_CTX, size: Size = TINY) -> None:
    """Write a small llama with random weights (fixed seed, so always the same file) and a byte vocabulary."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(MODEL_NAME)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(size.width)
    writer.add_feed_forward_length(size.width)
    writer.add_block_count(size.layers)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer)
    _add_weights(writer, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any) -> None:
    """256 tokens, one per byte, in GPT-2's spelling; the one merge demanded is of bytes never in UTF-8."""
    import gguf

    tokens = _byte_spellings()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges([f"{tokens[0xFF]} {tokens[0xFF]}"])
    writer.add_bos_token_id(0xFE)
    writer.add_eos_token_id(0xFF)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _byte_spellings() -> list[str]:
    """GPT-2 writes each byte as one printable character: itself where it is printable, else 256 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(0x100)]


def _add_weights(writer: Any, size: Size) -> None:
    """Random, except for two dimensions of the residual stream that no layer writes to.

    Dimension 0 is a constant: a strongly negative weight on it rules out every byte but a-z and space.
    Dimension 1 tells vowels from consonants, so that one tends to follow the other and the babble can be
    read aloud.
    """
    import numpy as np

    random = np.random.default_rng(SEED)
    width = size.width

    def matrix(rows: int, scale: float = 1.0) -> Any:
        return (random.standard_normal((rows, width)) * scale).astype(np.float32)

    vowels, consonants = list(b"aeiou"), [*set(range(ord("a"), ord("z") + 1)) - set(b"aeiou"), ord(" ")]
    embedding = matrix(256)
    embedding[:, 0] = 4.0
    embedding[:, 1] = 0.0
    embedding[vowels, 1], embedding[consonants, 1] = 4.0, -4.0
    writer.add_tensor("token_embd.weight", embedding)
    ones = np.ones(width, np.float32)
    for layer in range(size.layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            weight = matrix(width, width**-0.5)
            if name in ("attn_output", "ffn_down"):
                weight[:2] = 0.0
            writer.add_tensor(f"blk.{layer}.{name}.weight", weight)
    writer.add_tensor("output_norm.weight", ones)
    output = matrix(256)
    output[:, 0] = -1000.0
    output[[*vowels, *consonants], 0] = 0.0
    output[vowels, 1], output[consonants, 1] = -3.0, 3.0
    writer.add_tensor("output.weight", output)


class Engine:
    """The server in a process of its own: `with Engine() as engine: Anthropic(base_url=engine.base_url, …)`.

    It listens on a free loopback port, logs to `log_path`, and ends with `stop()`, with the `with` block, or
    with its parent, however that dies.
    """

    model_name = MODEL_NAME

    def __init__(
        self,
        *,
        n_ctx: int = DEFAULT_N_CTX,
        threads: int = 2,
        start_seconds: float = 60,
        embeddings: bool = False,
        size: Size = TINY,
    ) -> None:
        self.n_ctx = n_ctx
        self._size = size
        self._embeddings = embeddings
        self.base_url = ""
        self._threads = threads
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @staticmethod
    def available() -> bool:
        """Are the packages of the `engine` extra installed here?"""
        return all(importlib.util.find_spec(name) is not None for name in ("xllamacpp", "gguf"))

    @property
    def log_path(self) -> Path:
        assert self._directory is not None, "the engine has not been started"
        return Path(self._directory.name) / "log.txt"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> Engine:
        if not self.available():
            raise Unavailable(
                "The local model server needs xllamacpp and gguf: pip install 'memory-service[engine]'",
                code="engine_unavailable",
            )
        self._directory = tempfile.TemporaryDirectory(prefix="memory-engine-")
        try:
            write_model(self.log_path.with_name("model.gguf"), n_ctx=self.n_ctx, size=self._size)
            self._process = self._spawn()
            self.base_url = self._wait_until_healthy(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and remove its files. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        model = self.log_path.with_name("model.gguf")
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "memory_service.demo.engine", "--model", str(model), "--port", "0"]
        command += ["--n-ctx", str(self.n_ctx), "--threads", str(self._threads)]
        command += ["--embeddings"] if self._embeddings else []
        with self.log_path.open("wb") as log:
            return subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise self._failure(f"ended with exit code {process.returncode}")
            if url := _healthy_url(_address_path(self.log_path.with_name("model.gguf"))):
                return url
            time.sleep(0.02)
        raise self._failure(f"was not ready after {self._start_seconds:g} s")

    def _failure(self, what: str) -> Unavailable:
        tail = self.log_path.read_text(errors="replace").splitlines()[-8:]
        message = "\n".join([f"The local model server {what}. Its log ends:", *tail])
        return Unavailable(message, code="engine_unavailable")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server leaves when its standard input closes; if it does not, it is killed."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _address_path(model: Path) -> Path:
    return model.with_name("address.json")


def _healthy_url(address: Path) -> str | None:
    try:
        url = str(json.loads(address.read_text())["url"])
        with httpx2.Client(trust_env=False, timeout=2) as client:
            return url if client.get(f"{url}/health").status_code == 200 else None
    except (OSError, ValueError, httpx2.HTTPError):
        return None


def _serve(model: Path, *, n_ctx: int, threads: int, port: int, embeddings: bool) -> None:
    """Run the native server until standard input closes."""
    import xllamacpp

    params = _server_params(xllamacpp, model, n_ctx=n_ctx, threads=threads, port=port)
    if embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = n_ctx
    server = xllamacpp.Server(params)
    unfinished = _address_path(model).with_suffix(".part")
    unfinished.write_text(json.dumps({"url": server.listening_address}))
    unfinished.replace(_address_path(model))
    sys.stdin.buffer.read()
    os._exit(0)


def _server_params(xllamacpp: Any, model: Path, *, n_ctx: int, threads: int, port: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = n_ctx
    params.n_parallel = 1
    params.cache_prompt = True
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.sampling.temp = 0.0
    params.force_pure_content_parser = True  # babble is never parsed for tool calls
    params.enable_reasoning = 0
    params.prefill_assistant = False
    params.fit_params = False
    params.warmup = False
    params.ui = False
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo's model until standard input closes.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n-ctx", type=int, default=DEFAULT_N_CTX)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--embeddings", action="store_true")
    options = parser.parse_args()
    _serve(**vars(options))


if __name__ == "__main__":
    main()
