"""Reads a user's pretrained diffusion model from files of diffusers, and checks that it fits the data set's images.

NAME is a folder of `LEAKBOARD_MODELS` (default `mlruns/models`) that `UNet2DModel.save_pretrained` wrote, with
`scheduler_config.json` beside the network's files where its noise schedule is not that of Ho et al. 2020, or one that
`DDPMPipeline.save_pretrained` wrote (`unet/` and `scheduler/`). Any scheduler whose noise comes from betas will do.
Weights may be in shards, of a variant such as fp16 where there is no other, and have the names of before 2023. Where a
checkpoint has `unet/` and `unet_ema/`, NAME.unet or NAME.unet_ema says which is meant. JSON and safetensors alone are
read: nothing is unpickled, and no code comes with a model. What it was trained on is unknown, and rows say so.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from benchmark import places
from benchmark.errors import UserError, printable, suggest

STEPS = 1000
"""Steps of the noise schedule, as in Ho et al. 2020."""
CONFIG_BYTES = 1 << 16
INDEX_BYTES = 1 << 21
WEIGHTS_BYTES = 1 << 29
"""The largest config.json, index of shards, and weights: 128 million parameters in float32. A message to a sandbox holds twice as much."""
TENSORS = 10_000
"""Tensors of a model at most, which bounds how many layers are built to check it."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}"
_STEM = "diffusion_pytorch_model"
_WEIGHTS = f"{_STEM}.safetensors"
_SHARD = rf"{_STEM}[A-Za-z0-9_.\-]{{0,100}}\.safetensors"
_UNET_FOLDERS = ("unet", "unet_ema")
_RENAMED_2023 = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The old and the current names of attention weights in diffusers, which maps them when it loads a model."""


@dataclass(frozen=True)
class Model:
    """`config` has the JSON objects "unet" and "scheduler" ({} without a file); `weights` are float32; `digest` covers all files."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    digest: str


def root() -> Path:
    """The folder that holds the models, as it is shown."""
    return Path(places.brief(places.models()))


def read(name: str, shape: tuple[int, int, int]) -> Model:
    """The model of this name, for images (c, h, w). Raises UserError where it is missing, damaged or does not fit them."""
    try:
        return _read(name, shape)
    except OSError as problem:
        raise UserError(f"{root() / name}: expected files that can be read, given {problem.strerror}") from None


def _read(name: str, shape: tuple[int, int, int]) -> Model:
    folder, chosen = root() / name, ""
    if not folder.is_dir() and name.endswith(tuple(f".{n}" for n in _UNET_FOLDERS)):
        folder, chosen = root() / name.rpartition(".")[0], name.rpartition(".")[2]
    if not re.fullmatch(_NAME, name):
        raise UserError(
            f"{printable(name, 100)!r}: expected the name of a folder in {root()}/: letters, digits, '.', '_' and '-'"
        )
    if not folder.is_dir():
        known = (p.name for p in root().glob("*") if p.is_dir() and re.fullmatch(_NAME, p.name))
        raise UserError(
            f"{folder}: expected a folder that save_pretrained of diffusers wrote, given none{suggest(name, known)}"
        )
    network = _network_folder(folder, chosen)
    files = {"unet": _file_bytes(network / "config.json", CONFIG_BYTES)}
    schedules = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    schedule = next((p for p in schedules if p.exists()), None)
    if schedule:
        files["scheduler"] = _file_bytes(schedule, CONFIG_BYTES)
    unet = _json_object(network / "config.json", files["unet"])
    scheduler = _json_object(schedule, files["scheduler"]) if schedule else {}
    _check_images(network / "config.json", unet, shape)
    _check_schedule(schedule or folder, scheduler)
    weights, contents = _read_all_weights(network)
    _check_network(network, unet, weights, shape)
    state = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents))
    for part, text in files.items():
        state.update(part.encode() + hashlib.sha256(text).digest())
    return Model({"unet": unet, "scheduler": scheduler}, weights, state.hexdigest()[:40])


def _network_folder(folder: Path, chosen: str) -> Path:
    """The folder of the U-Net: the chosen one, the only one, or `folder` itself."""
    present = [n for n in _UNET_FOLDERS if (folder / n).is_dir()]
    if chosen and chosen not in present:
        raise UserError(
            f"{folder}: expected a folder {chosen}/, given {' and '.join(f'{n}/' for n in present) or 'none'}"
        )
    if not chosen and len(present) > 1:
        names = " or ".join(f"{folder.name}.{n}" for n in present)
        raise UserError(f"{folder}: expected one network, given {' and '.join(f'{n}/' for n in present)}: name {names}")
    return folder / (chosen or present[0]) if present else folder


def _read_all_weights(network: Path) -> tuple[dict[str, Tensor], list[bytes]]:
    """The weights under their current names, and the contents of the files that were read."""
    path = next((p for p in (network / _WEIGHTS, network / f"{_WEIGHTS}.index.json") if p.is_file()), None)
    if path is None:
        # diffusion_pytorch_model.fp16.safetensors, or diffusion_pytorch_model.safetensors.index.fp16.json for its shards.
        whole = [p for p in network.glob(f"{_STEM}.*.safetensors") if not re.search(r"-\d+-of-\d+", p.name)]
        variants = sorted([*whole, *network.glob(f"{_WEIGHTS}.index.*.json")])
        if len(variants) > 1:
            given = printable(" and ".join(p.name for p in variants), 200)
            raise UserError(f"{network / _WEIGHTS}: expected one variant, given {given}: leave the one that is meant")
        path = variants[0] if variants else network / _WEIGHTS
    if path.suffix == ".json":
        weights, contents = _read_shards(path)
    else:
        content = _file_bytes(path, WEIGHTS_BYTES)
        weights, contents = _read_weights(path, content), [content]
    return {_current_name(name, weights): w for name, w in weights.items()}, contents


def _read_shards(index: Path) -> tuple[dict[str, Tensor], list[bytes]]:
    """The weights of all shards that an index lists, and the contents of index and shards."""
    contents = [_file_bytes(index, INDEX_BYTES)]
    weight_map = _json_object(index, contents[0]).get("weight_map")
    file_of: dict[str, str] = weight_map if isinstance(weight_map, dict) and _all_strings(weight_map) else {}
    files = sorted(set(file_of.values()))
    if not files or len(files) > TENSORS or not all(re.fullmatch(_SHARD, name) for name in files):
        raise UserError(f"{index}: expected a weight_map of tensors to files {_STEM}*.safetensors, given another")
    weights: dict[str, Tensor] = {}
    for name in files:
        contents.append(_file_bytes(index.parent / name, max(0, WEIGHTS_BYTES - sum(map(len, contents[1:])))))
        tensors = _read_weights(index.parent / name, contents[-1])
        if weights.keys() & tensors.keys() or {n for n, file in file_of.items() if file == name} != tensors.keys():
            raise UserError(f"{index.parent / name}: expected the tensors that {index.name} has there, given others")
        weights |= tensors
    return _checked_weights(index, weights), contents


def _all_strings(value: dict[Any, Any]) -> bool:
    return all(isinstance(v, str) for v in value.values())


def _current_name(name: str, weights: dict[str, Tensor]) -> str:
    """The current name of an attention tensor, unless another tensor already has that name."""
    path, _, kind = name.rpartition(".")
    path, _, old = path.rpartition(".")
    new = f"{path}.{_RENAMED_2023[old]}.{kind}" if old in _RENAMED_2023 and ".attentions." in f".{path}" else name
    return name if new in weights else new


def _file_bytes(path: Path, most: int) -> bytes:
    if not path.is_file():  # reading a pipe would never end
        others = sorted(p.name for p in path.parent.glob(f"{path.stem.partition('.')[0]}*") if p != path)
        given = printable(", ".join(others), 200) or "none"
        raise UserError(f"{path}: expected this file, given {given}{_advice(path.parent, others)}")
    with path.open("rb") as file:
        content = file.read(most + 1)  # whatever its size is by then
    if len(content) > most:
        raise UserError(f"{path}: expected at most {most} bytes, given {max(len(content), path.stat().st_size)}")
    return content


def _advice(folder: Path, others: list[str]) -> str:
    """A command that converts pickled weights to safetensors, where these are there instead."""
    pickled = [name for name in others if name.endswith(".bin")]
    if not pickled:
        return ""
    variant_name = re.fullmatch(rf"{_STEM}\.(\w+)\.bin", pickled[0])
    variant = f", variant='{variant_name[1]}'" if variant_name else ""
    return (
        "; save_pretrained(..., safe_serialization=True) writes it: others may hold code. If you trust where it is from: "
        f'python -c "from diffusers import UNet2DModel as U; '
        f"U.from_pretrained('{printable(str(folder), 200)}'{variant}).save_pretrained('{printable(str(folder), 200)}')\""
    )


def _json_object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}: expected JSON, given {printable(str(problem), 200)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, given {type(value).__name__}")
    return value


def _check_images(path: Path, unet: dict[str, Any], shape: tuple[int, int, int]) -> None:
    if unet.get("_class_name") != "UNet2DModel":
        raise UserError(f"{path}: expected the _class_name UNet2DModel, given {_shown(unet.get('_class_name'))}")
    channels, *size = shape
    own = unet.get("sample_size")
    if own is not None and (own if isinstance(own, list) else [own, own]) != size:
        raise UserError(f"{path}: expected sample_size {size}, as the images have, given {_shown(own)}")
    for name in ("in_channels", "out_channels"):
        if unet.get(name, 3) != channels:  # the default of diffusers
            raise UserError(
                f"{path}: expected {name} {channels}, as the images have, given {_shown(unet.get(name, 3))}"
            )


def _check_schedule(path: Path, scheduler: dict[str, Any]) -> None:
    for name, expected in (("prediction_type", "epsilon"), ("num_train_timesteps", STEPS)):
        if scheduler.get(name, expected) != expected:
            raise UserError(f"{path}: expected {name} {expected}, given {_shown(scheduler[name])}")
    if not scheduler:
        return
    if "_class_name" in scheduler and not (scheduler.get("beta_schedule") or scheduler.get("trained_betas")):
        given = _shown(scheduler["_class_name"])  # noise by sigmas, flows or a formula of its own, not by betas
        raise UserError(f"{path}: expected a scheduler with a beta_schedule or trained_betas, given {given} without")
    from diffusers import DDPMScheduler

    try:
        levels = DDPMScheduler.from_config(scheduler).alphas_cumprod
        valid = len(levels) == STEPS and bool(((0 < levels) & (levels < 1)).all())
    except Exception as problem:  # values of wrong types lead to many kinds of errors
        raise UserError(f"{path}: expected a noise schedule of diffusers, given {_shown_error(problem)}") from None
    if not valid:
        raise UserError(f"{path}: expected {STEPS} shares of signal between 0 and 1, given others")


def _read_weights(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        weights = tensors_from_bytes(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as problem:
        raise UserError(f"{path}: expected safetensors, given {_shown_error(problem)}") from None
    return _checked_weights(path, weights)


def _checked_weights(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float32. Raises UserError for too many, for numbers that are no floats, and for NaN and infinity."""
    if len(weights) > TENSORS:
        raise UserError(f"{path}: expected at most {TENSORS} tensors, given {len(weights)}")
    if 4 * sum(w.numel() for w in weights.values()) > WEIGHTS_BYTES:
        raise UserError(f"{path}: expected at most {WEIGHTS_BYTES // 4} parameters, given more")
    floats = {name: w.float() for name, w in weights.items() if w.is_floating_point()}
    if len(floats) < len(weights) or not all(w.isfinite().all() for w in floats.values()):
        raise UserError(f"{path}: expected numbers that are finite in float32, given others")
    return floats


def _check_network(folder: Path, unet: dict[str, Any], weights: dict[str, Tensor], shape: tuple[int, int, int]) -> None:
    """Check that configuration and weights are one U-Net for these images, on the device meta: without memory or arithmetic."""
    from diffusers import UNet2DModel

    layers, blocks = unet.get("layers_per_block"), unet.get("down_block_types")
    if isinstance(layers, int) and isinstance(blocks, list) and layers * len(blocks) > len(weights):
        raise UserError(
            f"{folder}: expected a config.json of at most {len(weights)} layers, as many as there are tensors, "
            f"given {len(blocks)} blocks of {_shown(layers)}"
        )
    try:
        with torch.device("meta"), torch.no_grad():
            network = UNet2DModel.from_config(unet)
            network.load_state_dict({name: w.to("meta") for name, w in weights.items()})
            answer = network(torch.empty(1, *shape), torch.zeros(1, dtype=torch.int64)).sample
    except Exception as problem:
        raise UserError(
            f"{folder}: expected weights and a config.json of one unconditional UNet2DModel, given {_shown_error(problem)}"
        ) from None
    if tuple(answer.shape[1:]) != shape:
        raise UserError(f"{folder}: expected noise of shape {shape}, given {tuple(answer.shape[1:])}")


def _shown(value: Any) -> str:
    return printable(json.dumps(value), 100)


def _shown_error(problem: Exception) -> str:
    return f"{type(problem).__name__}: {printable(str(problem), 200)}"
