"""Writes a model for llama.cpp with random weights: 400 kB that load in a moment and talk nonsense, always the same.

    python -m tests.llama.make_model FILE

It is a llama of two layers with a tokenizer of single bytes, so it needs no download. Nonsense is enough: what is
tested is the way to a real server and back. Two traps shaped it: random bytes are hardly ever text, so letters and
words are made likelier; and a model that never ends its turn would end every test by its length, so the end is made
likelier still. The architecture has no bias for that: a feature that is the same in every token plays its part.
Needs `gguf` and `numpy`.
"""

from __future__ import annotations

import string
import sys

import gguf
import numpy

LAYERS, WIDTH, HEADS, INNER, CONTEXT = 2, 64, 4, 128, 2048
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START, END = "<|im_start|>", "<|im_end|>"
WORDS = [
    f"\u2581{word}"
    for word in [
        "the",
        "a",
        "of",
        "and",
        "rain",
        "wind",
        "sun",
        "city",
        "model",
        "answer",
        "tool",
        "hello",
        "there",
        "yes",
        "no",
    ]
]
"""The sign before each is how this kind of tokenizer writes a blank."""


LIKELIHOOD = {
    gguf.TokenType.NORMAL: 1.0,
    gguf.TokenType.BYTE: -1.0,
    gguf.TokenType.CONTROL: -4.0,
    gguf.TokenType.UNKNOWN: -4.0,
}


def vocabulary() -> list[tuple[str, gguf.TokenType]]:
    """Every byte, then what a model likes to say."""
    control = [(text, gguf.TokenType.CONTROL) for text in ("<s>", "</s>", START, END)]
    every_byte = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    spoken = [(text, gguf.TokenType.NORMAL) for text in ["\u2581", *string.ascii_letters, *string.digits, *WORDS]]
    return [("<unk>", gguf.TokenType.UNKNOWN), *control, *every_byte, *spoken]


def weights(tokens: list[tuple[str, gguf.TokenType]]) -> dict[str, numpy.ndarray]:
    """The tensors by their names in the file, each as rows of outputs by columns of inputs."""
    chance = numpy.random.default_rng(7)

    def random(*shape: int, spread: float = 0.03) -> numpy.ndarray:
        return chance.normal(0.0, spread, shape).astype(numpy.float32)

    embedding, output = (random(len(tokens), WIDTH, spread=0.3) for _ in range(2))
    embedding[:, 0] = 4.0  # the same in every token, and too large for the layers to move
    output[:, 0] = [LIKELIHOOD[kind] if text != END else 1.2 for text, kind in tokens]
    tensors = {"token_embd": embedding, "output": output, "output_norm": numpy.ones(WIDTH, numpy.float32)}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"{block}.{norm}"] = numpy.ones(WIDTH, numpy.float32)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{block}.{part}"] = random(WIDTH, WIDTH)
        tensors[f"{block}.ffn_gate"], tensors[f"{block}.ffn_up"] = random(INNER, WIDTH), random(INNER, WIDTH)
        tensors[f"{block}.ffn_down"] = random(WIDTH, INNER)
    return tensors


def write(path: str) -> None:
    tokens = vocabulary()
    texts = [text for text, _ in tokens]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_pooling_type(gguf.PoolingType.MEAN)  # one vector for a text, not one for each token
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([0.0 if kind == gguf.TokenType.NORMAL else -1000.0 for _, kind in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(texts.index("<s>"))
    writer.add_eos_token_id(texts.index(END))
    writer.add_unk_token_id(texts.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in weights(tokens).items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
