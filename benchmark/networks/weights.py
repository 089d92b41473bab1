"""Weights from a file of anybody's: safetensors, or a checkpoint of PyTorch's whose pickle holds nothing but tensors.

Nothing of a file is run: `torch.load(weights_only=True)` refuses a pickle with anything else in it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor, nn

from benchmark import reading
from benchmark.errors import UserError, printable
from benchmark.text import plain

LARGEST = 4 << 30
"""Bytes of a file at most."""
TENSORS = 10_000
SAFETENSORS, PICKLED = (".safetensors",), (".pt", ".pth", ".bin", ".ckpt")
_INSIDE = ("state_dict", "model_state_dict", "model")
"""Where training programs keep the weights in a checkpoint."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before the names of weights: DataParallel, torch.compile, Lightning."""


@dataclass(frozen=True)
class File:
    """A file that was read once."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def read(path: Path) -> File:
    """The bytes of a regular file of at most LARGEST bytes. Raises UserError."""
    return File(plain(path.name, 120), reading.content(path, LARGEST, "weights"))


def tensors(file: File) -> dict[str, Tensor]:
    """The weights of a file by name, without what wrappers put before the names. Raises UserError, in one line."""
    suffix = Path(file.name).suffix.lower()
    if suffix in SAFETENSORS:
        try:
            found: Any = tensors_from_bytes(file.content)
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{file.name}: expected safetensors, given {_shown(error)}") from None
    elif suffix in PICKLED:
        found = _unpickled(file)
    else:
        raise UserError(
            f"{file.name}: expected weights named {', '.join(SAFETENSORS + PICKLED)}, or a model named .ts, .torchscript or .onnx, "
            f"given {suffix or 'no ending'!r}"
        )
    return _plain(found, file.name)


def load(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Put weights into a network. `what` names both in messages. Raises ValueError where names or shapes differ."""
    own = network.state_dict()
    counted = {name for name in own if name.endswith("num_batches_tracked")}  # old checkpoints have none
    missing, more = [n for n in own if n not in weights and n not in counted], sorted(weights.keys() - own.keys())
    if missing or more:
        lacks = f"none of {len(missing)} tensors such as {missing[0]}" if missing else ""
        has = f"{len(more)} others such as {printable(more[0], 60)}" if more else ""
        raise ValueError(f"{what}: expected its {len(own)} tensors, given {' and '.join(filter(None, (lacks, has)))}")
    for name, value in own.items():  # in the network's order: that of a file of safetensors is any
        given = weights.get(name, value)  # old checkpoints lack counters
        if given.shape != value.shape:
            raise ValueError(
                f"{what}: expected {name} of shape {tuple(value.shape)}, given {tuple(given.shape)}; is it another "
                "network, or another number of --classes or --channels?"
            )
        if (given.dtype == torch.bool) != (value.dtype == torch.bool):
            raise ValueError(f"{what}: expected {name} of {value.dtype}, given {given.dtype}")
    network.load_state_dict(dict(weights), strict=False)


def _unpickled(file: File) -> Any:
    buffer = io.BytesIO(file.content)
    if zipfile.is_zipfile(buffer):
        with zipfile.ZipFile(buffer) as archive:
            if sum(item.file_size for item in archive.infolist()) > 2 * LARGEST:
                raise UserError(f"{file.name}: expected at most {2 * LARGEST:,} bytes unpacked, given more")
            if any("/code/" in item.filename for item in archive.infolist()):
                raise UserError(f"{file.name}: expected weights, given TorchScript; say so by --torchscript")
    buffer.seek(0)
    try:
        return torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or refused pickle raises whatever it likes
        text = str(error)
        if "weights_only" in text or "Unsupported" in text:
            raise UserError(
                f"{file.name}: expected tensors alone, given a pickle that holds other objects, which could run code; save "
                "model.state_dict(), best as safetensors: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
            ) from None
        raise UserError(f"{file.name}: expected a checkpoint of PyTorch, given {_shown(error)}") from None


def _plain(found: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a state dict, which may lie in a checkpoint."""
    for key in _INSIDE:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(k, str) for k in found):
        raise UserError(f"{name}: expected a state dict, weights by name, given {type(found).__name__}")
    if odd := [k for k, v in found.items() if not isinstance(v, Tensor)]:
        raise UserError(
            f"{name}: expected tensors alone (or a state dict under {', '.join(_INSIDE)}), given {type(found[odd[0]]).__name__} "
            f"as {plain(odd[0], 60)!r}"
        )
    if odd := [
        k for k, v in found.items() if v.layout != torch.strided or v.is_quantized or v.is_meta or v.is_complex()
    ]:
        raise UserError(f"{name}: expected plain tensors of real numbers, given another kind as {plain(odd[0], 60)!r}")
    if len(found) > TENSORS:
        raise UserError(f"{name}: expected at most {TENSORS:,} tensors, given {len(found):,}")
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) and k != p for k in found)), ""):
        found = {k.removeprefix(prefix): v for k, v in found.items()}
    return {k: v.detach() for k, v in found.items()}


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(str(error), 160)}"
