"""What tensors are for decides what is quantized: by class where one is known, else by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, ModelPlan
from arrow_quant_v2.model_roles import model_roles
from arrow_quant_v2.plan.class_roles import known_roles

TABLE = json.loads(
    (Path(__file__).parents[2] / "python/arrow_quant_v2/plan/known_classes.json").read_text()
)
CLASSES = sorted(TABLE["classes"])
DIFFUSERS = [name for name in CLASSES if not name.startswith(("T5", "UMT5")) or "Film" in name]


def component(folder: Path, class_name: str, **shapes: tuple[int, ...]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"_class_name": class_name, "_diffusers_version": "0.42.0"})
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


def planned(folder: Path, **settings: object) -> ModelPlan:
    return ArrowQuantV2().plan(folder, DiffusionQuantConfig(calibration_samples=0, **settings))  # type: ignore[arg-type]


def roles(plan: ModelPlan) -> dict[str, tuple[bool, str, str]]:
    return {t.name: (t.bit_width is not None, t.role, t.known_from) for t in plan.tensors}


def test_parameters_of_a_known_class_that_are_no_weights_are_not_quantized(tmp_path: Path) -> None:
    shapes = {
        "x_pad_token": (32, 3840),
        "layers.0.attention.to_q.weight": (64, 64),
        "layers.0.adaLN_modulation.0.weight": (64, 64),
        "all_final_layer.2-1.linear.weight": (64, 64),
        "cap_embedder.1.weight": (64, 64),
    }
    found = roles(planned(component(tmp_path / "z", "ZImageTransformer2DModel", **shapes)))
    assert found["x_pad_token"] == (False, "no weight of a layer", "class")
    assert found["layers.0.attention.to_q.weight"] == (True, "linear weight", "class")
    assert not found["all_final_layer.2-1.linear.weight"][0]
    assert not found["cap_embedder.1.weight"][0]


def test_modulation_tables_and_heads_of_video_models_are_not_quantized(tmp_path: Path) -> None:
    shapes = {
        "blocks.0.scale_shift_table": (32, 64),
        "blocks.0.attn1.to_q.weight": (64, 64),
        "blocks.0.ffn.net.0.proj.weight": (64, 64),
        "condition_embedder.time_proj.weight": (64, 64),
        "condition_embedder.text_embedder.linear_1.weight": (64, 64),
        "proj_out.weight": (64, 64),
    }
    found = roles(planned(component(tmp_path / "wan", "WanTransformer3DModel", **shapes)))
    quantized = {name for name, (yes, _, _) in found.items() if yes}
    assert quantized == {"blocks.0.attn1.to_q.weight", "blocks.0.ffn.net.0.proj.weight"}
    assert {found[name][2] for name in quantized} == {"class"}


def test_names_tell_where_no_class_is_known(tmp_path: Path) -> None:
    save_file(
        {
            "down_blocks.0.to_q.weight": np.zeros((64, 64), np.float32),
            "time_embedding.linear_1.weight": np.zeros((64, 64), np.float32),
        },
        tmp_path / "model.safetensors",
    )
    found = roles(planned(tmp_path / "model.safetensors"))
    assert found["down_blocks.0.to_q.weight"] == (True, "linear weight", "shape")
    assert found["time_embedding.linear_1.weight"] == (False, "time embedding", "name")


def test_a_rule_of_the_user_wins_over_what_a_class_says(tmp_path: Path) -> None:
    folder = component(
        tmp_path / "z",
        "ZImageTransformer2DModel",
        **{"x_pad_token": (32, 3840), "layers.0.attention.to_q.weight": (64, 64)},
    )
    plan = planned(folder, layer_rules={"x_pad_token": 8})
    assert {t.name: t.bit_width for t in plan.tensors}["x_pad_token"] == 8


@pytest.mark.parametrize("name", DIFFUSERS)
def test_the_modality_of_every_class_of_diffusers_is_told(name: str, tmp_path: Path) -> None:
    folder = component(tmp_path / "m", name, **{"blocks.0.to_q.weight": (64, 64)})
    plan = planned(folder)
    audio = ("Audio", "1D", "Music", "Oobleck", "Vocoder", "Film", "StableAudio")
    if any(word in name for word in audio):
        assert plan.modality in ("audio", "image"), plan.modality_reason
    elif name.startswith("HiDream"):
        assert plan.modality == "image", plan.modality_reason
    assert plan.modality_reason


def test_the_table_has_what_the_modules_of_a_class_say(tmp_path: Path) -> None:
    """One class of each library, built anew."""
    pytest.importorskip("torch")
    from diffusers import FluxTransformer2DModel
    from transformers import BertConfig, BertForMaskedLM

    from arrow_quant_v2.torch.build.empty_model import uninitialised
    from arrow_quant_v2.torch.build.roles import module_roles, patterns_of

    with uninitialised():
        models = [FluxTransformer2DModel(), BertForMaskedLM(BertConfig())]
    for model in models:
        assert TABLE["classes"][type(model).__name__] == patterns_of(module_roles(model))


def test_a_class_that_the_table_lacks_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from diffusers import DiTTransformer2DModel

    from arrow_quant_v2.plan import class_roles

    model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, num_layers=2)
    model.save_pretrained(tmp_path / "dit")
    by_table = roles(planned(tmp_path / "dit"))
    monkeypatch.setattr(class_roles, "_table", dict)
    assert known_roles("", "DiTTransformer2DModel") is None
    assert {name for _, name, *_ in model_roles(tmp_path / "dit")} >= set(by_table) - {
        name for name in by_table if name.endswith("bias")
    }
    built = roles(planned(tmp_path / "dit"))
    assert {name: yes for name, (yes, _, _) in built.items()} == {
        name: yes for name, (yes, _, _) in by_table.items()
    }


def test_modules_are_told_apart() -> None:
    torch = pytest.importorskip("torch")
    from torch import nn

    from arrow_quant_v2.torch.build.roles import module_roles

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(64, 64)
            self.norm = nn.LayerNorm((4, 8, 8))
            self.table = nn.Parameter(torch.zeros(2, 64))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 64)
            self.first = nn.Linear(64, 64)
            self.blocks = nn.ModuleList([Block() for _ in range(4)])

    found = {name: role.name for name, role in module_roles(Net()).items()}
    assert found["embed.weight"] == "embedding"
    assert found["first.weight"] == "outside the repeated blocks"
    assert found["blocks.0.proj.weight"] == "linear weight"
    assert found["blocks.0.norm.weight"] == "norm"
    assert found["blocks.0.table"] == "no weight of a layer"


@pytest.mark.filterwarnings("ignore")
def test_a_run_tells_what_no_layer_uses_and_which_layers_are_the_ends(tmp_path: Path) -> None:
    """A network of unknown class: names say nothing, its modules and a run do."""
    torch = pytest.importorskip("torch")
    from torch import nn

    from arrow_quant_v2 import CalibrationStatistics
    from arrow_quant_v2.torch import calibrate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token_emb = nn.Embedding(50, 64)
            for number in range(10):
                setattr(self, f"part{number}", nn.Linear(64, 64))
            self.scale = nn.LayerNorm((2, 16, 64))

        def forward(self, ids: object) -> object:
            x = self.token_emb(ids).view(-1, 2, 16, 64)
            for number in range(10):
                x = torch.relu(getattr(self, f"part{number}")(x))
            return self.scale(x)

    torch.manual_seed(0)
    net = Net()
    save_file({k: v.numpy() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
    batches = [((torch.randint(0, 50, (4, 32)),), {}, float(t)) for t in range(8)]
    calibrate(net, batches, tmp_path / "stats")
    told = CalibrationStatistics.load(tmp_path / "stats").roles
    assert told["token_emb.weight"] == "embedding"
    assert told["part0.weight"] == told["part9.weight"] == "first or last layer"
    result = ArrowQuantV2().quantize_diffusion_model(
        tmp_path / "net.safetensors",
        tmp_path / "out",
        DiffusionQuantConfig(modality="text", min_accuracy=0.0),
        statistics=tmp_path / "stats",
    )
    quantized = {t.name for t in result.tensors if t.bit_width is not None}
    assert quantized == {f"part{number}.weight" for number in range(1, 9)}
