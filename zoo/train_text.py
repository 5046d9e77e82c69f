"""Train ``zoo/models/text`` or ``zoo/models/code``: masked diffusion language models.

``python -m zoo.train_text --corpus english|python [--minutes 55] [--init DIR] ...``

One thread, bf16; the learning rate follows the time that is left, so that a slower
machine ends as well as it can. ``--init`` goes on from trained weights. The objective is that of
LLaDA (Nie et al. 2025, equation 3) in the form of its equation 6: the number of masked tokens is
uniform, and the cross-entropy over masked tokens is divided by the masked part. Saves the
exponential moving average of the weights as a transformers directory, with ``training_log.csv``,
``held_out.json`` and ``samples.png`` beside it.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional
from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

from zoo.corpora import CORPORA, load_corpus
from zoo.masking import MASK_RATIOS, MaskedBatch, hidden_logits, mask_items
from zoo.unmasking import save_panel, unmask

MODEL_DIRS = {
    "english": Path(__file__).parent / "models" / "text",
    "python": Path(__file__).parent / "models" / "code",
}
MODALITIES = {"english": "text", "python": "code"}
VOCABULARY = 2048
#: Tokens of an item with its two boundaries, at most; longer ones are left out.
LONGEST = 128
BATCH_TOKENS = 2048
#: Of Muon for the matrices of the layers, its updates scaled as AdamW's; of AdamW for the rest.
MATRIX_LEARNING_RATE = 4e-3
LEARNING_RATE = 3e-3
WARM_UP_STEPS = 40
EMA_DECAY = 0.997
SAVE_EVERY = 240.0  # seconds
#: Items that the loss of the log is of; the last row is of all held-out items.
LOGGED_ITEMS = 40
SHOWN = 12


def make_tokenizer(items: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that newlines and indentation survive; two tokens bound an item."""
    special = ["[PAD]", "[MASK]", "[BOS]", "[EOS]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(items, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        mask_token="[MASK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, modality: str) -> ModernBertForMaskedLM:
    """2.8 M parameters; every linear layer has 256 or 384 inputs, so that groups make sense."""
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        global_attn_every_n_layers=1,
        local_attention=LONGEST,
        norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        cls_token_id=tokenizer.bos_token_id,
        sep_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        sparse_prediction=True,
        modality=modality,
    )
    model = ModernBertForMaskedLM(config)
    model.set_attn_implementation("eager")  # on sequences this short far faster than sdpa on a CPU
    return model


def tokenized(tokenizer: PreTrainedTokenizerFast, items: tuple[str, ...]) -> list[list[int]]:
    """Tokens of each item with its boundaries, without items longer than LONGEST."""
    return [
        ids for ids in tokenizer(list(items), verbose=False)["input_ids"] if len(ids) <= LONGEST
    ]


def batches(items: list[list[int]], rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """One epoch in random order; items of a batch have similar lengths."""
    noisy = np.array([len(i) for i in items]) + rng.uniform(0, 8, len(items))
    batch: list[list[int]] = []
    groups = [batch]
    for index in np.argsort(noisy):
        if (len(batch) + 1) * max(len(items[index]), len(batch and batch[0])) > BATCH_TOKENS:
            batch = []
            groups.append(batch)
        batch.append(items[index])
    for i in rng.permutation(len(groups)):
        yield groups[i]


def weighted_loss(model: ModernBertForMaskedLM, batch: MaskedBatch) -> Tensor:
    """Cross-entropy over masked tokens / masked part, per token of the batch (equation 6)."""
    hidden = model.model(input_ids=batch.tokens, attention_mask=batch.present).last_hidden_state
    logits = model.decoder(model.head(hidden[batch.hidden]))  # the head is spared the others
    errors = functional.cross_entropy(logits.float(), batch.hidden_targets(), reduction="none")
    lengths = batch.present.sum(dim=1) - 2
    weights = (lengths / batch.hidden.sum(dim=1))[:, None].expand_as(batch.hidden)[batch.hidden]
    return (errors * weights).sum() / lengths.sum()


def held_out_loss(
    model: ModernBertForMaskedLM, items: list[list[int]], tokenizer: PreTrainedTokenizerFast
) -> list[float]:
    """Nats per masked token at each of MASK_RATIOS, on fixed masks."""
    losses = []
    for ratio in MASK_RATIOS:
        rng = np.random.default_rng(1)
        total, count = 0.0, 0
        for start in range(0, len(items), 50):
            part = items[start : start + 50]
            batch = mask_items(part, np.full(len(part), ratio), tokenizer, rng)
            with torch.inference_mode():
                logits = hidden_logits(model, batch)
            targets = batch.hidden_targets()
            total += float(functional.cross_entropy(logits, targets, reduction="sum"))
            count += len(targets)
        losses.append(total / count)
    return losses


def unigram_entropy(items: list[list[int]]) -> float:
    """Nats per token of the items' own token frequencies, boundaries left out."""
    counts = np.array(list(Counter(t for item in items for t in item[1:-1]).values()), float)
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())


class Trainer:
    """The loop with what it carries along."""

    def __init__(
        self,
        model: ModernBertForMaskedLM,
        tokenizer: PreTrainedTokenizerFast,
        minutes: float,
        seed: int,
    ) -> None:
        self.model = model.train()
        self.ema = copy.deepcopy(model).eval()
        self.tokenizer = tokenizer
        self.rng = np.random.default_rng(seed)
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
        taken = set(map(id, matrices))
        others = [p for p in model.parameters() if id(p) not in taken]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=MATRIX_LEARNING_RATE,
                weight_decay=0.02,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self.peaks = (MATRIX_LEARNING_RATE, LEARNING_RATE)
        self.step = 0
        self.tokens = 0
        self.seconds = minutes * 60
        self.start = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def set_learning_rates(self) -> None:
        """Warm-up over steps, then linear decay to zero over the time budget."""
        factor = min((self.step + 1) / WARM_UP_STEPS, max(1 - self.elapsed() / self.seconds, 0.0))
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor

    def train_step(self, items: list[list[int]]) -> float:
        self.set_learning_rates()
        # One draw for the whole batch, spread evenly: less variance than independent ratios.
        ratios = (self.rng.uniform() + self.rng.permutation(len(items)) / len(items)) % 1
        batch = mask_items(items, ratios, self.tokenizer, self.rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss = weighted_loss(self.model, batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.tokens += sum(map(len, items))
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, current in zip(
                self.ema.parameters(), self.model.parameters(), strict=True
            ):
                average.lerp_(current, 1 - decay)
        return float(loss.detach())


def save(trainer: Trainer, out: Path) -> None:
    """Write the average weights in bf16, and the tokenizer."""
    model = copy.deepcopy(trainer.ema).to(torch.bfloat16)
    model.config.dtype = "bfloat16"
    model.save_pretrained(out)
    trainer.tokenizer.save_pretrained(out)


def train(
    trainer: Trainer, items: list[list[int]], held_out: list[list[int]], out: Path
) -> list[float]:
    """Train until the time is over; the held-out loss at the end."""
    rows: list[list[float]] = []
    losses: list[float] = []
    saved = 0.0
    epoch = 0
    while trainer.elapsed() < trainer.seconds:
        for batch in batches(items, trainer.rng):
            losses.append(trainer.train_step(batch))
            over = trainer.elapsed() >= trainer.seconds
            if trainer.elapsed() - saved > SAVE_EVERY or over:
                saved = trainer.elapsed()
                part = held_out if over else held_out[:LOGGED_ITEMS]
                found = held_out_loss(trainer.ema, part, trainer.tokenizer)
                progress = [round(saved), trainer.step, trainer.tokens, epoch]
                rows.append([*progress, np.mean(losses), *found])
                losses = []
                print(*(f"{x:.6g}" for x in rows[-1]), flush=True)
                save(trainer, out)
                _write_log(rows, out / "training_log.csv")
            if over:
                break
        epoch += 1
    return found


def _write_log(rows: list[list[float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = ["seconds", "step", "tokens", "epoch", "train_loss"]
        writer.writerow(names + [f"held_out_{ratio}" for ratio in MASK_RATIOS])
        writer.writerows([[f"{x:.6g}" for x in row] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", choices=CORPORA, required=True)
    parser.add_argument("--minutes", type=float, default=55)
    parser.add_argument("--init", type=Path, help="go on from this model directory")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out or MODEL_DIRS[args.corpus]

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    corpus = load_corpus(args.corpus)
    if args.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init)
    else:
        tokenizer = make_tokenizer(corpus.train)
    model = make_model(tokenizer, MODALITIES[args.corpus])
    items, held_out = tokenized(tokenizer, corpus.train), tokenized(tokenizer, corpus.held_out)
    untrained = held_out_loss(model, held_out[:LOGGED_ITEMS], tokenizer)
    if args.init:
        model.load_state_dict(ModernBertForMaskedLM.from_pretrained(args.init).state_dict())
    trainer = Trainer(model, tokenizer, args.minutes, args.seed)
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, {len(items)} items", flush=True
    )
    found = train(trainer, items, held_out, out)
    report = {
        "mask_ratios": MASK_RATIOS,
        "held_out": found,
        "untrained": untrained,
        "unigram_entropy": unigram_entropy(held_out),
    }
    (out / "held_out.json").write_text(json.dumps(report, indent=2) + "\n")
    lengths = [len(item) - 2 for item in held_out[:SHOWN]]
    samples = unmask(trainer.ema, tokenizer, lengths, steps=50, seed=0)
    save_panel(tokenizer.batch_decode(samples), out / "samples.png")


if __name__ == "__main__":
    main()
