"""Pretrained diffusion models by name: diffusers' own files, held to the data set's images before any training.

NAME is a folder of `LEAKBOARD_MODELS` (default `mlruns/models`) that `UNet2DModel.save_pretrained` wrote, with
`scheduler_config.json` beside the network's files where its noise schedule is not the usual one, or one that
`DDPMPipeline.save_pretrained` wrote (`unet/` and `scheduler/`); any scheduler whose noise comes from betas will do.
JSON and safetensors alone are read: nothing is unpickled, and no code comes with a model. What trained it is unknown,
and rows say so.
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
WEIGHTS_BYTES = 1 << 29
"""In float32, 128 million parameters; a message to a sandbox holds twice as much."""
TENSORS = 10_000
"""Tensors at most: a network is built of no more layers before its weights are held to it."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}"
_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Model:
    """The files `unet` and `scheduler` as JSON ({} where there is no schedule), float32 weights, a digest of it all."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    digest: str


def root() -> Path:
    """Where the models lie."""
    return places.models()


def read(name: str, shape: tuple[int, int, int]) -> Model:
    """The model of this name, for images (c, h, w). Raises UserError where it is missing, broken or does not fit them."""
    try:
        return _read(name, shape)
    except OSError as problem:
        raise UserError(f"{root() / name}: expected files that can be read, given {problem.strerror}") from None


def _read(name: str, shape: tuple[int, int, int]) -> Model:
    folder = root() / name
    if not re.fullmatch(_NAME, name):
        raise UserError(
            f"{printable(name, 100)!r}: expected the name of a folder in {root()}/: letters, digits, '.', '_' and '-'"
        )
    if not folder.is_dir():
        known = (p.name for p in root().glob("*") if p.is_dir() and re.fullmatch(_NAME, p.name))
        raise UserError(
            f"{folder}: expected a folder that save_pretrained of diffusers wrote, given none{suggest(name, known)}"
        )
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    texts = {"unet": _content(network / "config.json", CONFIG_BYTES)}
    schedules = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    schedule = next((p for p in schedules if p.exists()), None)
    if schedule:
        texts["scheduler"] = _content(schedule, CONFIG_BYTES)
    unet = _object(network / "config.json", texts["unet"])
    scheduler = _object(schedule, texts["scheduler"]) if schedule else {}
    _check_images(network / "config.json", unet, shape)
    _check_schedule(schedule or folder, scheduler)
    content = _content(network / _WEIGHTS, WEIGHTS_BYTES)
    weights = _weights(network / _WEIGHTS, content)
    _check_network(network, unet, weights, shape)
    state = hashlib.sha256(hashlib.sha256(content).digest())
    for part, text in texts.items():
        state.update(part.encode() + hashlib.sha256(text).digest())
    return Model({"unet": unet, "scheduler": scheduler}, weights, state.hexdigest()[:40])


def _content(path: Path, most: int) -> bytes:
    if not path.is_file():  # a pipe would never end
        others = sorted(p.name for p in path.parent.glob(f"{path.stem.partition('.')[0]}*") if p != path)
        given = printable(", ".join(others), 200) or "none"
        advice = "; save_pretrained(..., safe_serialization=True) writes it: others may hold code" if others else ""
        raise UserError(f"{path}: expected this file, given {given}{advice}")
    size = path.stat().st_size
    if size > most:
        raise UserError(f"{path}: expected at most {most} bytes, given {size}")
    return path.read_bytes()


def _object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}: expected JSON, given {printable(str(problem), 200)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, given {type(found).__name__}")
    return found


def _check_images(path: Path, unet: dict[str, Any], shape: tuple[int, int, int]) -> None:
    if unet.get("_class_name") != "UNet2DModel":
        raise UserError(f"{path}: expected the _class_name UNet2DModel, given {_given(unet.get('_class_name'))}")
    channels, *size = shape
    own = unet.get("sample_size")
    if own is not None and (own if isinstance(own, list) else [own, own]) != size:
        raise UserError(f"{path}: expected sample_size {size}, as the images have, given {_given(own)}")
    for name in ("in_channels", "out_channels"):
        if unet.get(name, 3) != channels:  # 3 where the file says nothing
            raise UserError(
                f"{path}: expected {name} {channels}, as the images have, given {_given(unet.get(name, 3))}"
            )


def _check_schedule(path: Path, scheduler: dict[str, Any]) -> None:
    for name, expected in (("prediction_type", "epsilon"), ("num_train_timesteps", STEPS)):
        if scheduler.get(name, expected) != expected:
            raise UserError(f"{path}: expected {name} {expected}, given {_given(scheduler[name])}")
    if not scheduler:
        return
    if "_class_name" in scheduler and not (scheduler.get("beta_schedule") or scheduler.get("trained_betas")):
        given = _given(
            scheduler["_class_name"]
        )  # of sigmas, flows or a formula of its own: other noise than the betas'
        raise UserError(f"{path}: expected a scheduler with a beta_schedule or trained_betas, given {given} without")
    from diffusers import DDPMScheduler

    try:
        levels = DDPMScheduler.from_config(scheduler).alphas_cumprod
        valid = len(levels) == STEPS and bool(((0 < levels) & (levels < 1)).all())
    except Exception as problem:  # whatever a value of a wrong kind leads to
        raise UserError(f"{path}: expected a noise schedule of diffusers, given {_problem(problem)}") from None
    if not valid:
        raise UserError(f"{path}: expected {STEPS} shares of signal between 0 and 1, given others")


def _weights(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        weights = tensors_from_bytes(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as problem:
        raise UserError(f"{path}: expected safetensors, given {_problem(problem)}") from None
    if len(weights) > TENSORS:
        raise UserError(f"{path}: expected at most {TENSORS} tensors, given {len(weights)}")
    if 4 * sum(w.numel() for w in weights.values()) > WEIGHTS_BYTES:
        raise UserError(f"{path}: expected at most {WEIGHTS_BYTES // 4} parameters, given more")
    floats = {name: w.float() for name, w in weights.items() if w.is_floating_point()}
    if len(floats) < len(weights) or not all(w.isfinite().all() for w in floats.values()):
        raise UserError(f"{path}: expected numbers that are finite in float32, given others")
    return floats


def _check_network(folder: Path, unet: dict[str, Any], weights: dict[str, Tensor], shape: tuple[int, int, int]) -> None:
    """Build it and pass an image through without any memory or arithmetic: on the device meta."""
    from diffusers import UNet2DModel

    layers, blocks = unet.get("layers_per_block"), unet.get("down_block_types")
    if isinstance(layers, int) and isinstance(blocks, list) and layers * len(blocks) > len(weights):
        raise UserError(
            f"{folder}: expected a config.json of at most {len(weights)} layers, as many as there are tensors, "
            f"given {len(blocks)} blocks of {_given(layers)}"
        )
    try:
        with torch.device("meta"), torch.no_grad():
            network = UNet2DModel.from_config(unet)
            network.load_state_dict({name: w.to("meta") for name, w in weights.items()})
            answer = network(torch.empty(1, *shape), torch.zeros(1, dtype=torch.int64)).sample
    except Exception as problem:
        raise UserError(
            f"{folder}: expected weights and a config.json of one unconditional UNet2DModel, given {_problem(problem)}"
        ) from None
    if tuple(answer.shape[1:]) != shape:
        raise UserError(f"{folder}: expected noise of shape {shape}, given {tuple(answer.shape[1:])}")


def _given(value: Any) -> str:
    return printable(json.dumps(value), 100)


def _problem(problem: Exception) -> str:
    return f"{type(problem).__name__}: {printable(str(problem), 200)}"
