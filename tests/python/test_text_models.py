"""Masked-diffusion language models that come with code of their own, which is never run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import arrow_quant
from text_models import reference
from text_models.folders import (
    BUILDERS,
    LETTERS,
    MASK,
    VOCABULARY,
    dream,
    llada,
    llada2,
    llada_moe,
)
from torch import Tensor

from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig
from arrow_quant_v2.plan.model_plan import plan_model
from arrow_quant_v2.torch import load_quantized, sample_text
from arrow_quant_v2.torch.record.text_model import load_text_model
from arrow_quant_v2.torch.text_models.bidirectional import block_mask
from arrow_quant_v2.torch.text_models.tokens import read_tokens

MODELS = tuple(BUILDERS)
REFERENCES = {
    "llada": reference.llada,
    "llada-shared-keys": reference.llada,
    "llada-moe": reference.llada_moe,
    "llada2": reference.llada2,
    "dream": reference.dream,
}
#: Squared error of logits over their square. A scale that is twice what it should be gives 0.5 and
#: more, wherever it is (tested below).
BOUNDS = {4: 0.05, 2: 0.45}


@dataclass(frozen=True)
class Made:
    """A model, and what was quantized of it."""

    name: str
    folder: Path
    int4: Path
    int2: Path
    results: dict[int, Any]


def settings(bits: int, samples: int = 5, **changes: Any) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(
        bit_width=bits,
        group_size=32,
        calibration_samples=samples,
        min_accuracy=0.0,
        **changes,
    )


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp(request.param)
    folder = BUILDERS[request.param](root / "model")
    results = {}
    for bits in (4, 2):
        results[bits] = ArrowQuantV2(mode="diffusion").quantize_diffusion_model(
            model_path=folder, output_path=root / f"int{bits}", config=settings(bits)
        )
    return Made(request.param, folder, root / "int4", root / "int2", results)


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def some_ids(texts: int = 2, tokens: int = 24) -> Tensor:
    """Texts every third token of which is hidden."""
    ids = torch.randint(
        3, 3 + len(LETTERS), (texts, tokens), generator=torch.Generator().manual_seed(1)
    )
    ids[:, ::3] = MASK
    return ids


def nmse(expected: Tensor, found: Tensor) -> float:
    difference = (expected.double() - found.double()).square().sum()
    return float(difference / expected.double().square().sum())


@pytest.mark.parametrize("name", REFERENCES)
def test_modules_of_the_library_compute_the_published_architecture(
    name: str, tmp_path: Path
) -> None:
    folder = BUILDERS[name](tmp_path / "model")
    model, _ = load_text_model(folder, dtype=torch.float64)
    weights = {key: value.double() for key, value in stored(folder).items()}
    config = json.loads((folder / "config.json").read_text())
    ids = some_ids(tokens=12)
    with torch.no_grad():
        found = model(input_ids=ids).logits
    expected = REFERENCES[name](weights, config, ids)
    assert expected.std() > 0.5
    # The library turns queries and keys by angles in single precision.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_model_of_blocks_sees_its_own_block_and_earlier_ones(tmp_path: Path) -> None:
    folder = BUILDERS["llada2"](tmp_path / "model")
    model, _ = load_text_model(folder, dtype=torch.float64)
    weights = {key: value.double() for key, value in stored(folder).items()}
    config = json.loads((folder / "config.json").read_text())
    ids, seen = some_ids(tokens=10), torch.ones(10, 10).tril().bool()
    seen[:4, :4] = seen[4:8, 4:8] = seen[8:, 8:] = True
    assert block_mask(10, 4)[0, 0].equal(seen)
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=block_mask(10, 4)).logits
    torch.testing.assert_close(
        found, reference.llada2(weights, config, ids, seen), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["llada", "llada-moe", "llada2", "dream"])
def test_every_token_is_seen_and_padding_is_not(name: str, tmp_path: Path) -> None:
    model, _ = load_text_model(BUILDERS[name](tmp_path / "model"))
    ids = some_ids(1, 9)
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        changed = ids.clone()
        changed[0, -1] = 5
        assert (model(input_ids=changed).logits - alone)[0, 1].abs().max() > 1e-3
        padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
        present = torch.tensor([[1] * 9 + [0] * 4])
        among = model(input_ids=padded, attention_mask=present).logits
    torch.testing.assert_close(among[:, :9], alone, rtol=1e-4, atol=1e-4)


def test_the_plan_says_what_is_written_and_that_the_model_will_run(made: Made) -> None:
    plan = ArrowQuantV2(mode="diffusion").plan(made.folder, settings(4))
    coder = made.name in ("diffucoder", "dream-coder")
    assert plan.modality == ("code" if coder else "text")
    assert plan.calibration == "neutral"
    kept = {t.name for t in plan.tensors if t.bit_width is None and len(t.shape) == 2}
    ends = (".mlp.gate.weight", "lm_head.weight", "embed_tokens.weight", "word_embeddings.weight")
    ends += ("transformer.wte.weight", "transformer.ff_out.weight")
    assert all(name.endswith(ends) for name in kept), kept
    assert len(kept) == 2 + ("moe" in made.name or made.name == "llada2")


@pytest.mark.parametrize("bits", [4, 2])
def test_every_planned_layer_is_calibrated(made: Made, bits: int) -> None:
    result = made.results[bits]
    assert result["calibration"] == "neutral"
    assert result["bit_width"] == bits
    assert not [w for w in result["warnings"] if "not calibrated" in w or "data-free" in w]


@pytest.mark.parametrize("activation", ["none", "dynamic"])
@pytest.mark.parametrize("bits", [4, 2])
def test_a_loaded_model_predicts_as_the_float_model_does(
    made: Made, bits: int, activation: str
) -> None:
    model = load_quantized(made.int4 if bits == 4 else made.int2, activation=activation)
    architecture = json.loads((made.folder / "config.json").read_text())["architectures"][0]
    assert type(model).__name__ == architecture
    packed = sum(type(part).__name__ == "QuantLinear" for part in model.modules())
    planned = [t for t in plan_model(made.folder).tensors if t.bit_width is not None]
    assert packed == len(planned) > 0
    network, _ = load_text_model(made.folder)
    ids = some_ids()
    with torch.no_grad():
        error = nmse(network(input_ids=ids).logits, model(input_ids=ids).logits)
    assert 0 < error < BOUNDS[bits]


def test_a_wrong_scale_would_break_the_bounds(tmp_path: Path) -> None:
    network, _ = load_text_model(llada(tmp_path / "model"))
    ids = some_ids()
    with torch.no_grad():
        expected = network(input_ids=ids).logits
        for name, weight in network.named_parameters():
            if weight.ndim == 2 and "blocks" in name:
                weight.mul_(2)
        assert nmse(expected, network(input_ids=ids).logits) > max(BOUNDS.values())


@pytest.mark.parametrize("bits", [4, 2])
def test_outputs_are_validated_against_the_original(made: Made, bits: int) -> None:
    path = made.int4 if bits == 4 else made.int2
    result = ArrowQuantV2(mode="diffusion").validate_quality(
        made.folder, path, level="outputs", config=settings(bits)
    )
    assert result["output_nmse"] < BOUNDS[bits]
    assert result["problems"] == []


def test_exports_have_the_published_names_and_the_kept_tensors(made: Made, tmp_path: Path) -> None:
    arrow_quant("export", str(made.int4), str(tmp_path / "out"), "--format", "safetensors")
    exported, original = stored(tmp_path / "out"), stored(made.folder)
    assert exported.keys() == original.keys()
    quantized = {t.name for t in plan_model(made.folder).tensors if t.bit_width is not None}
    for name, tensor in original.items():
        assert exported[name].shape == tensor.shape
        if name in quantized:
            assert 0 < nmse(tensor, exported[name]) < 0.02
        else:
            assert exported[name].dtype == tensor.dtype
            assert exported[name].equal(tensor)


def test_text_is_sampled_and_the_seed_decides(made: Made) -> None:
    model = load_quantized(made.int4)
    draw = {"length": 12, "steps": 6, "temperature": 1.0, "return_ids": True}
    first = sample_text(model, "once upon", seed=3, **draw)
    assert len(first) == 12
    assert MASK not in first
    assert first == sample_text(model, "once upon", seed=3, **draw)
    assert first != sample_text(model, "once upon", seed=4, **draw)
    text = sample_text(made.int4, "once upon", length=8, block_length=4)
    assert isinstance(text, str)


def test_the_surest_token_is_written_first(tmp_path: Path) -> None:
    folder = dream(tmp_path / "model")
    model, tokens = load_text_model(folder)
    given = tokens.tokenizer("abc")["input_ids"]
    ids = torch.tensor([[*given, *[MASK] * 6]])
    with torch.no_grad():
        for block in (range(3, 6), range(6, 9)):
            for _ in block:
                logits = model(input_ids=ids).logits[0]
                logits[:, MASK] = -torch.inf
                hidden = [n for n in block if ids[0, n] == MASK]
                sure = max(hidden, key=lambda n: float(logits[n].softmax(0).max()))
                ids[0, sure] = logits[sure].argmax()
    found = sample_text(model, "abc", length=6, block_length=3, return_ids=True)
    assert found == ids[0, 3:].tolist()


def test_what_a_tokenizer_puts_around_a_text_stays_around_it(tmp_path: Path) -> None:
    from tiny_models import masked_language_model

    model, tokens = load_text_model(masked_language_model(tmp_path / "model"))
    seen: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    text = sample_text(model, "abc", length=4, steps=1)
    special = tokens.tokenizer
    assert seen[0][0, 0] == special.bos_token_id
    assert seen[0][0, 4:].tolist() == [special.mask_token_id] * 4 + [special.eos_token_id]
    assert isinstance(text, str)


def test_wrong_arguments_of_sampling_are_named(tmp_path: Path) -> None:
    model, _ = load_text_model(llada(tmp_path / "model"))
    for wrong in ({"length": 0}, {"steps": 0}, {"block_length": -1}, {"temperature": -1.0}):
        with pytest.raises(ConfigurationError, match=f"Invalid {next(iter(wrong))}"):
            sample_text(model, "a", **wrong)
    model.name_or_path = ""
    with pytest.raises(ConfigurationError, match="nobody knows the tokenizer"):
        sample_text(model, "a", length=2)


def test_what_a_causal_model_does_is_refused(tmp_path: Path) -> None:
    model, _ = load_text_model(llada(tmp_path / "model"))
    with pytest.raises(ConfigurationError, match="left to right"):
        model.generate(some_ids())
    with pytest.raises(ConfigurationError, match="labels"):
        model(input_ids=some_ids(), labels=some_ids())


def test_the_mask_token_is_found_where_settings_do_not_name_it(tmp_path: Path) -> None:
    folder = llada_moe(tmp_path / "model")
    assert "mask_token_id" not in json.loads((folder / "config.json").read_text())
    assert read_tokens(folder).mask_token_id == MASK
    (folder / "generation_config.json").write_text(json.dumps({"mask_token_id": 5}))
    assert read_tokens(folder).mask_token_id == 5


def test_a_tokenizer_that_is_published_with_code_is_loaded_without_it(tmp_path: Path) -> None:
    folder = dream(tmp_path / "model")
    tokenizer = read_tokens(folder).tokenizer
    assert tokenizer("ab")["input_ids"] == [3, 4]
    assert len(tokenizer) <= VOCABULARY


def test_settings_that_are_not_known_are_named(tmp_path: Path) -> None:
    folder = llada(tmp_path / "model", alibi=True)
    result = ArrowQuantV2(mode="diffusion").quantize_diffusion_model(
        model_path=folder, output_path=tmp_path / "out", config=settings(4)
    )
    assert result["calibration"] == "none"
    assert any("LLaDA with alibi = True is not known here" in w for w in result["warnings"])
    with pytest.raises(ConfigurationError, match="alibi"):
        load_quantized(tmp_path / "out")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = llada(tmp_path / "model")
    weights = stored(folder)
    del weights["model.transformer.blocks.1.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    plan = ArrowQuantV2(mode="diffusion").quantize_diffusion_model(
        model_path=folder, output_path=tmp_path / "out", config=settings(4)
    )
    assert any("blocks.1.up_proj.weight" in warning for warning in plan["warnings"])


def test_texts_of_the_user_are_masked_at_every_ratio(tmp_path: Path) -> None:
    from arrow_quant_v2.torch.record.masked_language import masked_language_tape
    from arrow_quant_v2.torch.record.samples import read_samples

    model, tokens = load_text_model(llada(tmp_path / "model"))
    tape = masked_language_tape(
        model,
        tokens.tokenizer,
        read_samples(["abcdefghij", "klm"]),
        samples=10,
        seed=0,
        progress=lambda _: None,
        mask_token_id=tokens.mask_token_id,
    )
    ratios = np.concatenate([batch.times().numpy() for batch in tape])
    assert np.histogram(ratios, bins=5, range=(0, 1.0001))[0].min() >= 5
    for batch in tape:
        assert batch.masked is not None
        assert batch.masked.equal(batch.kwargs["input_ids"] == MASK)
        assert batch.valid is not None
        torch.testing.assert_close(
            (batch.masked.sum(1) / batch.valid.sum(1)).double(), batch.times()
        )


def test_an_expert_is_shown_its_own_tokens_with_their_times(tmp_path: Path) -> None:
    """Statistics of an expert are those of the tokens that the router gives it."""
    from arrow_quant_v2 import CalibrationStatistics
    from arrow_quant_v2.torch import Batch, calibrate

    model, _ = load_text_model(llada_moe(tmp_path / "model"))
    name = "model.layers.1.mlp.experts.2."
    ids = torch.stack([some_ids(1, 20)[0].roll(n) for n in range(10)])
    times = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
    batches = [Batch(kwargs={"input_ids": ids}, timestep=times, masked=ids == MASK)]
    seen: list[Tensor] = []
    hook = model.get_submodule(name + "gate_proj").register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(**batches[0].kwargs)
    hook.remove()
    layers = [name + "gate_proj.weight", name + "up_proj.weight", name + "down_proj.weight"]
    run = calibrate(model, batches, tmp_path / "s", layers=layers, time_aware=False)
    assert set(run.layers) == set(layers)
    statistics = CalibrationStatistics.load(tmp_path / "s")
    number = next(n for n in range(len(statistics)) if layers[0] in statistics.layers(n))
    assert sorted(statistics.layers(number)) == layers[:2]
    fitted = statistics.tokens(number)
    held = statistics.tokens(number, held_out=True)
    assert fitted + held == len(seen[0])
    assert held > 0  # of samples 4 and 9
    total = statistics.gram(number) + statistics.gram(number, held_out=True)
    np.testing.assert_allclose(total, (seen[0].T @ seen[0]).numpy(), rtol=1e-3, atol=1e-2)
    spans = statistics.times(number)
    assert max(span.end for span in spans) - min(span.begin for span in spans) > 0.5


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``LLaDA2Pipeline`` whose model is published with code of its own."""
    from diffusers import BlockRefinementScheduler

    root = tmp_path_factory.mktemp("pipeline") / "llada2"
    llada2(root / "model")
    (root / "tokenizer").mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(root / "model" / file, root / "tokenizer" / file)
    config = json.loads((root / "tokenizer" / "tokenizer_config.json").read_text())
    config["mask_token"] = "<|mask|>"
    (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    BlockRefinementScheduler().save_pretrained(root / "scheduler")
    index = {
        "_class_name": "LLaDA2Pipeline",
        "_diffusers_version": "0.42.0",
        "model": ["transformers_modules.llada2", "LLaDA2MoeModelLM"],
        "scheduler": ["diffusers", "BlockRefinementScheduler"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def test_a_text_pipeline_is_calibrated_loaded_and_writes(pipeline: Path, tmp_path: Path) -> None:
    quantizer = ArrowQuantV2(mode="diffusion")
    plan = quantizer.plan(pipeline, settings(4))
    assert (plan.modality, plan.components, plan.calibration) == ("text", ("model",), "neutral")
    result = quantizer.quantize_diffusion_model(
        model_path=pipeline, output_path=tmp_path / "out", config=settings(4)
    )
    assert result["calibration"] == "neutral"
    assert not [w for w in result["warnings"] if "data-free" in w]
    loaded = load_quantized(tmp_path / "out")
    assert type(loaded).__name__ == "LLaDA2Pipeline"
    packed = sum(type(part).__name__ == "QuantLinear" for part in loaded.model.modules())
    assert packed == sum(t.bit_width is not None for t in plan.tensors)
    draw = {"length": 8, "steps": 4, "block_length": 8, "temperature": 1.0, "return_ids": True}
    first = sample_text(loaded, "ab", seed=1, **draw)
    assert len(first) == 8
    assert first == sample_text(tmp_path / "out", "ab", seed=1, **draw)
    assert len(sample_text(pipeline, "ab", seed=1, **draw)) == 8
    checked = quantizer.validate_quality(pipeline, tmp_path / "out", level="outputs")
    assert checked["output_nmse"] < BOUNDS[4]


def test_experts_that_the_library_joins_are_packed_one_by_one(tmp_path: Path) -> None:
    """Checkpoints of mixtures have experts one by one; transformers 5 joins them in memory."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from arrow_quant_v2.torch.text_models.experts import separate_experts

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        separate_experts(model)
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    ArrowQuantV2(mode="diffusion").quantize_diffusion_model(
        model_path=tmp_path / "model",
        output_path=tmp_path / "out",
        config=settings(8, samples=0, modality="text"),
    )
    loaded = load_quantized(tmp_path / "out")
    expert = loaded.get_submodule("model.layers.0.mlp.experts.3.down_proj")
    assert type(expert).__name__ == "QuantLinear"
    with torch.no_grad():
        assert nmse(expected, loaded(input_ids=ids).logits) < 1e-3


def test_layers_that_an_encoder_and_a_decoder_share_are_packed_once(tmp_path: Path) -> None:
    """DiffusionGemma writes by blocks with one set of layers for the prompt and for the canvas."""
    import families.text_models  # noqa: F401
    from families.table import BUILDERS as TABLE

    builder = TABLE["diffusion_gemma"]
    folder = builder.build(tmp_path / "model")
    network = builder.load(folder)
    ArrowQuantV2(mode="diffusion").quantize_diffusion_model(
        model_path=folder, output_path=tmp_path / "out", config=settings(8, samples=0)
    )
    loaded = load_quantized(tmp_path / "out")
    decoder = loaded.get_submodule("model.decoder.layers.0.self_attn.q_proj")
    assert type(decoder).__name__ == "QuantLinear"
    encoder = loaded.get_submodule("model.encoder.language_model.layers.0.self_attn.q_proj")
    assert encoder is decoder
    call = {
        "input_ids": torch.arange(10, 16)[None],
        "decoder_input_ids": torch.arange(20, 28)[None],
    }
    with torch.no_grad():
        assert nmse(network(**call).logits, loaded(**call).logits) < 1e-2


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class ToyConfig(PretrainedConfig):
    model_type = "toy_diffusion"

    def __init__(self, width=64, vocab_size=96, mask_token_id=88, **kwargs):
        self.width, self.vocab_size, self.mask_token_id = width, vocab_size, mask_token_id
        super().__init__(**kwargs)


class ToyModel(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.tokens = torch.nn.Embedding(config.vocab_size, config.width)
        self.first = torch.nn.Linear(config.width, config.width)
        self.second = torch.nn.Linear(config.width, config.width)
        self.lm_head = torch.nn.Linear(config.width, config.vocab_size)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        x = self.tokens(input_ids)
        x = x + self.second(torch.relu(self.first(x.mean(1, keepdim=True) + x)))
        return MaskedLMOutput(logits=self.lm_head(x))
"""


@pytest.fixture
def unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of nobody's library, with its code."""
    import transformers.dynamic_module_utils as dynamic
    from text_models.folders import published_folder

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = {
        "architectures": ["ToyModel"],
        "auto_map": {"AutoConfig": "toy.ToyConfig", "AutoModel": "toy.ToyModel"},
        "model_type": "toy_diffusion",
        "mask_token_id": MASK,
        "width": 64,
        "vocab_size": VOCABULARY,
    }
    shapes = {"tokens.weight": (VOCABULARY, 64), "lm_head.weight": (VOCABULARY, 64)}
    shapes |= {"lm_head.bias": (VOCABULARY,)}
    for layer in ("first", "second"):
        shapes |= {f"{layer}.weight": (64, 64), f"{layer}.bias": (64,)}
    fields = {"mask_token": "<|mask|>"}
    folder = published_folder(tmp_path / "toy", config, shapes, "<|mask|>", tokenizer=fields)
    (folder / "toy.py").write_text(CODE)
    return folder


def test_code_of_strangers_is_not_run_unless_the_user_says_so(
    unknown: Path, tmp_path: Path
) -> None:
    quantizer = ArrowQuantV2(mode="diffusion")
    config = settings(4, modality="text")
    careful = quantizer.quantize_diffusion_model(
        model_path=unknown, output_path=tmp_path / "careful", config=config
    )
    assert careful["calibration"] == "none"
    sentence = "the class ['ToyModel'] is none of a library, and the code that the folder brings is"
    assert any(sentence in w and "trust_remote_code=True" in w for w in careful["warnings"])
    assert not (tmp_path / "modules").exists()
    with pytest.raises(ConfigurationError, match="no class 'ToyModel'"):
        load_quantized(tmp_path / "careful")
    config.trust_remote_code = True
    assert quantizer.plan(unknown, config).calibration == "neutral"
    trusting = quantizer.quantize_diffusion_model(
        model_path=unknown, output_path=tmp_path / "trusting", config=config
    )
    assert trusting["calibration"] == "neutral"
    model = load_quantized(tmp_path / "trusting", trust_remote_code=True)
    assert type(model).__name__ == "ToyModel"
    assert type(model.second).__name__ == "QuantLinear"
    recorded = (tmp_path / "trusting" / "manifest.json").read_text()
    assert "trust_remote_code" not in recorded
    checked = quantizer.validate_quality(
        unknown, tmp_path / "trusting", level="outputs", config=config
    )
    assert checked["output_cosine_similarity"] > 0.9


def test_the_command_runs_code_only_with_its_option(unknown: Path, tmp_path: Path) -> None:
    call = ["quantize", str(unknown), str(tmp_path / "out"), "--modality", "text", "--samples", "2"]
    careful = arrow_quant(*call)
    assert "trust_remote_code=True (--trust-remote-code) runs it" in careful.err
    shutil.rmtree(tmp_path / "out")
    trusting = arrow_quant(*call, "--trust-remote-code", "--json")
    assert json.loads(trusting.out)["calibration"] == "neutral"


def test_no_file_of_settings_can_switch_on_code_of_strangers(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("bit_width: 4\ntrust_remote_code: true\n")
    with pytest.raises(ConfigurationError, match=r"line 2: trust_remote_code cannot be set"):
        DiffusionQuantConfig.from_yaml(file)
    DiffusionQuantConfig(trust_remote_code=True).to_yaml(file)
    assert DiffusionQuantConfig.from_yaml(file).trust_remote_code is False
