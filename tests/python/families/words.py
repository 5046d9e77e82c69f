"""Tokenizers over letters or bytes, made without any file of a real one."""

from __future__ import annotations

from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 16


def numbered(words: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def byte_letters() -> list[str]:
    """How byte-level tokenizers write the 256 bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


CLIP_WORDS = [
    *LETTERS,
    *(f"{letter}</w>" for letter in LETTERS),
    "<|startoftext|>",
    "<|endoftext|>",
]
T5_WORDS = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
CHAT += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]

#: Room for every byte and every special token of the byte-level tokenizers below.
BYTES = 320

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def clip(length: int = LENGTH) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=numbered(CLIP_WORDS), merges=[], model_max_length=length)


def t5(length: int = LENGTH) -> Any:
    from transformers import T5Tokenizer

    words = [(word, -2.0) for word in T5_WORDS]
    return T5Tokenizer(vocab=words, extra_ids=0, model_max_length=length)


def qwen2(length: int = 512) -> Any:
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer(
        vocab=numbered([*byte_letters(), *CHAT]),
        merges=[],
        model_max_length=length,
        extra_special_tokens=CHAT[1:],
        chat_template=CHAT_TEMPLATE,
    )


def llama(length: int = 256) -> Any:
    from transformers import LlamaTokenizer

    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    return LlamaTokenizer(
        vocab=numbered(words), merges=[], model_max_length=length, pad_token="</s>",
        add_bos_token=True, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def gemma(length: int = 256) -> Any:
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    return GemmaTokenizer(
        vocab=numbered(words), merges=[], model_max_length=length, add_bos_token=True,
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def bert(length: int = LENGTH) -> Any:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
    return BertTokenizer(vocab=numbered(words), model_max_length=length)


def roberta(length: int = LENGTH) -> Any:
    from transformers import RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *byte_letters()]
    return RobertaTokenizer(vocab=numbered(words), merges=[], model_max_length=length)


def xlm_roberta(length: int = LENGTH) -> Any:
    from transformers import XLMRobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(word, -2.0) for word in [*special, "▁", *LETTERS, "<mask>"]]
    return XLMRobertaTokenizer(vocab=pieces, model_max_length=length)
