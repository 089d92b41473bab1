"""Pretrained models: what is read, what its digest covers, and everything that is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.errors import UserError
from benchmark.networks.pretrained import CONFIG_BYTES, STEPS, WEIGHTS_BYTES, Model, read
from tests.conftest import save_unet

SHAPE = (1, 8, 8)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that holds `tiny`."""
    monkeypatch.setenv("LEAKBOARD_MODELS", str(tmp_path / "models"))
    save_unet(tmp_path / "models" / "tiny")
    return tmp_path / "models"


def change(path: Path, **values: Any) -> None:
    """Other values in a JSON file; what is None in `values` becomes null."""
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


# --- What is read -----------------------------------------------------------------------------------


def test_a_network_alone_has_its_weights_and_no_schedule(models: Path) -> None:
    unet, found = save_unet(models / "tiny"), read("tiny", SHAPE)
    assert found.config["scheduler"] == {} and found.config["unet"]["block_out_channels"] == [8, 8]
    assert found.weights.keys() == unet.state_dict().keys()
    assert all(torch.equal(w, found.weights[name]) for name, w in unet.state_dict().items())


def test_a_pipeline_has_a_network_and_a_schedule(models: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2")
    DDPMPipeline(save_unet(models / "tiny"), scheduler).save_pretrained(models / "whole")
    alone, whole = read("tiny", SHAPE), read("whole", SHAPE)
    assert whole.config["unet"] == alone.config["unet"]
    assert whole.config["scheduler"]["beta_schedule"] == "squaredcos_cap_v2"
    assert whole.digest != alone.digest
    shutil.copy(models / "whole/scheduler/scheduler_config.json", models / "tiny")
    assert read("tiny", SHAPE).digest == whole.digest


def test_the_digest_covers_all_that_is_read_and_no_name(models: Path) -> None:
    def digest(name: str) -> str:
        return read(name, SHAPE).digest

    first = digest("tiny")
    shutil.copytree(models / "tiny", models / "copy")
    (models / "link").symlink_to(models / "tiny")
    assert digest("copy") == digest("link") == first
    found = {first}
    change_weights(models / "copy" / WEIGHTS, lambda w: w["conv_in.bias"][0].add_(1e-3))
    found.add(digest("copy"))
    change(models / "copy" / "config.json", norm_eps=1e-6)
    found.add(digest("copy"))
    change(models / "copy" / "scheduler_config.json", beta_end=0.01)
    found.add(digest("copy"))
    assert len(found) == 4


def test_half_precision_becomes_single(models: Path) -> None:
    unet = save_unet(models / "tiny")
    change_weights(models / "tiny" / WEIGHTS, lambda w: w.update({n: t.half() for n, t in w.items()}))
    weights = read("tiny", SHAPE).weights
    assert all(torch.equal(w, unet.state_dict()[name].half().float()) for name, w in weights.items())


def test_eight_bits_become_single(models: Path) -> None:
    change_weights(models / "tiny" / WEIGHTS, lambda w: w.update({n: t.to(torch.float8_e4m3fn) for n, t in w.items()}))
    assert {w.dtype for w in read("tiny", SHAPE).weights.values()} == {torch.float32}


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def attentive(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Any:
    """A small network with attention, saved by diffusers as it saves today."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        shape[1], shape[0], shape[0], block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    unet.save_pretrained(folder)
    return unet


def of_2022(weights: dict[str, torch.Tensor]) -> None:
    for new, old in OLD.items():
        for name in [n for n in weights if f".{new}." in n]:
            weights[name.replace(f".{new}.", f".{old}.")] = weights.pop(name)


def same(found: Model, unet: Any, half: bool = False) -> bool:
    expected = {n: w.half().float() if half else w for n, w in unet.state_dict().items()}
    return found.weights.keys() == expected.keys() and all(
        torch.equal(w, found.weights[n]) for n, w in expected.items()
    )


def test_weights_named_as_before_2023_are_read_as_diffusers_reads_them(models: Path) -> None:
    from diffusers import UNet2DModel

    unet = attentive(models / "old")
    change_weights(models / "old" / WEIGHTS, of_2022)
    assert any(".query." in name for name in load_file(models / "old" / WEIGHTS))
    assert same(read("old", SHAPE), unet) and same(read("old", SHAPE), UNet2DModel.from_pretrained(models / "old"))
    change_weights(models / "old" / WEIGHTS, lambda w: w.pop(next(n for n in w if ".query." in n)))
    with pytest.raises(UserError, match="of one unconditional UNet2DModel"):
        read("old", SHAPE)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [False, True])
def test_shards_and_variants_are_read(models: Path, shards: bool, variant: str | None) -> None:
    unet = attentive(models / "first")
    kinds: dict[str, Any] = {"max_shard_size": "10KB"} if shards else {}
    (unet.half() if variant else unet).save_pretrained(models / "big", variant=variant, **kinds)
    assert (len(list((models / "big").glob("*.safetensors"))) > 2) == shards
    found = read("big", SHAPE)
    assert same(found, unet.float())
    part = sorted((models / "big").glob("*.safetensors"))[0]
    change_weights(part, lambda w: w.update({n: t + 1 for n, t in w.items()}))
    assert read("big", SHAPE).digest != found.digest, "every file counts"
    part.unlink()
    with pytest.raises(UserError, match=r"expected this file"):
        read("big", SHAPE)


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        [],
        {"conv_in.bias": 7},
        {"conv_in.bias": "../tiny/x.safetensors"},
        {"conv_in.bias": WEIGHTS.replace(".s", "-1.s")},
    ],
)
def test_an_index_that_names_other_files_or_tensors_is_refused(models: Path, weight_map: object) -> None:
    folder = models / "tiny"
    (folder / WEIGHTS).rename(folder / WEIGHTS.replace(".s", "-1.s"))
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError) as error:
        read("tiny", SHAPE)
    assert "\n" not in str(error.value)


def test_of_several_variants_none_is_taken_in_silence(models: Path) -> None:
    folder = models / "tiny"
    shutil.copy(folder / WEIGHTS, folder / "diffusion_pytorch_model.fp16.safetensors")
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(UserError, match=r"given .*fp16\.safetensors and .*non_ema\.safetensors"):
        read("tiny", SHAPE)


def test_of_a_network_and_its_mean_one_is_named(models: Path) -> None:
    own, mean = attentive(models / "step" / "unet"), save_unet(models / "step" / "unet_ema")
    with pytest.raises(UserError, match=r"given unet/ and unet_ema/: name step\.unet or step\.unet_ema"):
        read("step", SHAPE)
    assert same(read("step.unet", SHAPE), own) and same(read("step.unet_ema", SHAPE), mean)
    shutil.rmtree(models / "step" / "unet")
    assert same(read("step", SHAPE), mean), "the only one"
    with pytest.raises(UserError, match="expected a folder unet/, given unet_ema/"):
        read("step.unet", SHAPE)


@pytest.mark.parametrize(
    ("name", "variant"), [("diffusion_pytorch_model.bin", None), ("diffusion_pytorch_model.fp16.bin", "fp16")]
)
def test_the_advice_for_pickled_weights_works(models: Path, name: str, variant: str | None) -> None:
    """The very command that the message names, run here."""
    unet = attentive(models / "pickled")
    (models / "pickled" / WEIGHTS).unlink()
    torch.save(unet.state_dict(), models / "pickled" / name)
    with pytest.raises(UserError) as error:
        read("pickled", SHAPE)
    code = str(error.value).partition('python -c "')[2].removesuffix('"')
    assert (f"variant='{variant}'" in code) == bool(variant)
    exec(code, {})
    assert same(read("pickled", SHAPE), unet)


def test_a_network_of_any_size_is_held_to_the_images(models: Path) -> None:
    change(models / "tiny" / "config.json", sample_size=None)
    assert isinstance(read("tiny", (1, 28, 28)), Model)
    change(models / "tiny" / "config.json", sample_size=[8, 12])
    assert isinstance(read("tiny", (1, 8, 12)), Model)
    change(models / "tiny" / "config.json", sample_size=None)
    with pytest.raises(UserError, match=r"of one unconditional UNet2DModel, given RuntimeError: Sizes of tensors"):
        read("tiny", (1, 7, 7))


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "../tiny", "/tiny", "", ".tiny", "a b", "tiny/", "tiny\n", "é", "a" * 101])
def test_a_name_leads_nowhere_else(models: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"expected the name of a folder in .*/models/: letters, digits"):
        read(name, SHAPE)


def bin_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def huge(name: str, size: int) -> Callable[[Path], None]:
    def step(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return step


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **values)


def schedule(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "scheduler_config.json", **values)


def weights(step: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder / WEIGHTS, step)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "tiny: expected a folder that save_pretrained of diffusers wrote, given none"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: expected this file, given none"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"{WEIGHTS}: expected this file, given none"),
    "pickled": (bin_only, "expected this file, given diffusion_pytorch_model.bin; save_pretrained(..., safe_serialization=True)"),
    "a pipe": (pipe, f"{WEIGHTS}: expected this file, given none"),
    "huge config": (huge("config.json", CONFIG_BYTES + 1), f"config.json: expected at most {CONFIG_BYTES} bytes"),
    "huge weights": (huge(WEIGHTS, WEIGHTS_BYTES + 1), f"{WEIGHTS}: expected at most {WEIGHTS_BYTES} bytes"),
    "no JSON": (text("config.json", "{"), "config.json: expected JSON, given Expecting property name"),
    "deep JSON": (text("config.json", "[" * 60_000), "config.json: expected JSON, given maximum recursion"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json: expected JSON, given"),
    "a list": (text("config.json", "[]"), "config.json: expected a JSON object, given list"),
    "a bad schedule file": (text("scheduler_config.json", "nothing"), "scheduler_config.json: expected JSON"),
    "another class": (config(_class_name="UNet2DConditionModel"), 'expected the _class_name UNet2DModel, given "UNet2DConditionModel"'),
    "another size": (config(sample_size=32), "config.json: expected sample_size [8, 8], as the images have, given 32"),
    "another height": (config(sample_size=[9, 8]), "expected sample_size [8, 8], as the images have, given [9, 8]"),
    "no size": (config(sample_size="8"), 'expected sample_size [8, 8], as the images have, given "8"'),
    "colour": (config(in_channels=3), "config.json: expected in_channels 1, as the images have, given 3"),
    "variances": (config(out_channels=2), "config.json: expected out_channels 1, as the images have, given 2"),
    "v-prediction": (schedule(prediction_type="v_prediction"), 'expected prediction_type epsilon, given "v_prediction"'),
    "few steps": (schedule(num_train_timesteps=100), "expected num_train_timesteps 1000, given 100"),
    "unknown schedule": (schedule(beta_schedule="mine"), "expected a noise schedule of diffusers, given NotImplementedError: mine"),
    "no number": (schedule(beta_start="x"), "expected a noise schedule of diffusers, given TypeError"),
    "short schedule": (schedule(trained_betas=[0.1]), "expected 1000 shares of signal between 0 and 1, given others"),
    "no noise": (schedule(beta_start=float("nan")), "expected 1000 shares of signal between 0 and 1, given others"),
    "torn weights": (lambda f: os.truncate(f / WEIGHTS, 5000), f"{WEIGHTS}: expected safetensors, given SafetensorError"),
    "no safetensors": (text(WEIGHTS, "PK" * 500), f"{WEIGHTS}: expected safetensors, given SafetensorError"),
    "whole numbers": (weights(lambda w: w.update(x=torch.ones(2, dtype=torch.int64))), f"{WEIGHTS}: expected numbers that are finite"),
    "no numbers": (weights(lambda w: w["conv_in.bias"].fill_(float("nan"))), f"{WEIGHTS}: expected numbers that are finite"),
    "too large numbers": (
        weights(lambda w: w.update({"conv_in.bias": torch.full((8,), 1e300, dtype=torch.float64)})),
        f"{WEIGHTS}: expected numbers that are finite in float32",
    ),
    "no numbers in 8 bits": (
        weights(lambda w: w.update({"conv_in.bias": torch.full((8,), torch.nan).to(torch.float8_e4m3fn)})),
        f"{WEIGHTS}: expected numbers that are finite in float32",
    ),
    "endless": (config(layers_per_block=10**9), "layers, as many as there are tensors, given 2 blocks of 1000000000"),
    "sigmas": (
        schedule(_class_name="EDMEulerScheduler", num_train_timesteps=STEPS, prediction_type="epsilon"),
        'expected a scheduler with a beta_schedule or trained_betas, given "EDMEulerScheduler" without',
    ),
    "a formula": (
        schedule(_class_name="IPNDMScheduler", num_train_timesteps=STEPS, trained_betas=None),
        'expected a scheduler with a beta_schedule or trained_betas, given "IPNDMScheduler" without',
    ),
    "one too few": (weights(lambda w: w.pop("conv_in.bias")), "of one unconditional UNet2DModel, given RuntimeError: Error"),
    "one too many": (weights(lambda w: w.update(x=torch.ones(2))), "of one unconditional UNet2DModel, given RuntimeError: Error"),
    "another width": (config(block_out_channels=[8, 16]), "of one unconditional UNet2DModel, given RuntimeError: Error"),
    "unknown block": (config(down_block_types=["Mine", "Mine"]), "of one unconditional UNet2DModel, given ValueError: Mine"),
    "impossible": (config(block_out_channels=[10**9, 10**9]), "of one unconditional UNet2DModel, given RuntimeError"),
    "conditional": (config(class_embed_type="identity"), "given ValueError: class_labels should be provided"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_broken_or_does_not_fit_is_refused_in_one_line(models: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    spoil(models / "tiny")
    with pytest.raises(UserError) as error:
        read("tiny", SHAPE)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_link_to_nothing_and_a_near_miss(models: Path) -> None:
    (models / "gone").symlink_to(models / "nowhere")
    with pytest.raises(UserError, match="gone: expected a folder"):
        read("gone", SHAPE)
    with pytest.raises(UserError, match=r"given none; did you mean 'tiny'\?"):
        read("tny", SHAPE)
    (models / "two\nlines").mkdir()
    with pytest.raises(UserError, match=r"given none; known: tiny$"):  # what no name can be is not proposed
        read("another", SHAPE)


@pytest.mark.parametrize("name", ["is_dir", "is_file", "stat", "open"])
def test_what_cannot_be_read_is_said_in_one_line(models: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(UserError, match=r"models/tiny: expected files that can be read, given Permission denied$"):
        read("tiny", SHAPE)


def test_too_many_tensors_are_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.networks import pretrained

    count = len(read("tiny", SHAPE).weights)
    monkeypatch.setattr(pretrained, "TENSORS", count)
    assert read("tiny", SHAPE)
    monkeypatch.setattr(pretrained, "TENSORS", count - 1)
    with pytest.raises(UserError, match=f"{WEIGHTS}: expected at most {count - 1} tensors, given {count}"):
        read("tiny", SHAPE)


def test_too_many_parameters_are_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision on disk is twice as much in memory."""
    from benchmark.networks import pretrained

    change_weights(models / "tiny" / WEIGHTS, lambda w: w.update({n: t.half() for n, t in w.items()}))
    size = (models / "tiny" / WEIGHTS).stat().st_size
    monkeypatch.setattr(pretrained, "WEIGHTS_BYTES", size)
    with pytest.raises(UserError, match=f"expected at most {size // 4} parameters, given more"):
        read("tiny", SHAPE)
