"""Weights from foreign files: what checkpoints look like, and what is refused in one line without running anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.networks import weights

PLAIN = {"w.weight": torch.arange(6.0).view(2, 3), "w.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "saved",
    [
        PLAIN,
        {"state_dict": PLAIN},
        {"model": PLAIN, "epoch": 3},
        {"state_dict": {f"module.{k}": v for k, v in PLAIN.items()}},
        {f"_orig_mod.module.{k}": v for k, v in PLAIN.items()},
        {"state_dict": {f"model.{k}": v for k, v in PLAIN.items()}, "optimizer": {"lr": 0.1}},
    ],
)
def test_a_state_dict_is_found_wherever_it_lies(tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "m.pth")
    found = weights.tensors(weights.read(tmp_path / "m.pth"))
    assert found.keys() == PLAIN.keys() and all(torch.equal(found[k], PLAIN[k]) for k in PLAIN)


class Runs:
    """A pickle that would run code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_pickle_of_anything_else_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for saved in ({**PLAIN, "x": Runs(trace)}, nn.Linear(2, 2)):
        torch.save(saved, tmp_path / "m.pt")
        with pytest.raises(
            UserError, match=r"m\.pt: expected tensors alone, given a pickle that holds other objects"
        ) as told:
            weights.tensors(weights.read(tmp_path / "m.pt"))
        assert "\n" not in str(told.value)
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Runs(trace)))
    with pytest.raises(UserError, match=r"m\.pt: expected"):
        weights.tensors(weights.read(tmp_path / "m.pt"))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.safetensors", b"no tensors", r"m\.safetensors: expected safetensors, given SafetensorError"),
        (
            "m.pt",
            b"PK\x03\x04 no archive",
            r"m\.pt: expected a checkpoint of PyTorch, given|m\.pt: expected tensors alone",
        ),
        ("m.h5", b"", r"m\.h5: expected weights named \.safetensors, \.pt, .*, given '\.h5'"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        weights.tensors(weights.read(tmp_path / name))
    assert "\n" not in str(told.value)


def test_what_is_no_state_dict_is_named(tmp_path: Path) -> None:
    for saved, message in (([1, 2], "given list"), ({"a": 3.0}, "given float as 'a'"), ({}, "given dict")):
        torch.save(saved, tmp_path / "m.pt")
        with pytest.raises(UserError, match=message):
            weights.tensors(weights.read(tmp_path / "m.pt"))


def test_loading_names_what_does_not_fit() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fits = {k: torch.full_like(v, 2) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    weights.load(network, fits, "here")
    assert float(network[0].bias[0]) == 2
    with pytest.raises(
        ValueError,
        match=r"here: expected its 7 tensors, given none of 1 tensors such as 0\.bias and 1 others such as x",
    ):
        weights.load(network, {k if k != "0.bias" else "x": v for k, v in fits.items()}, "here")
    with pytest.raises(ValueError, match=r"here: expected 0\.bias of shape \(2,\), given \(3,\)"):
        weights.load(network, fits | {"0.bias": torch.ones(3)}, "here")


def test_safetensors_round(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "m.safetensors")
    file = weights.read(tmp_path / "m.safetensors")
    assert torch.equal(weights.tensors(file)["w.weight"], PLAIN["w.weight"]) and len(file.sha256) == 64


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2).to_sparse_csr(), torch.zeros(2, 2, device="meta"), torch.zeros(2, 2, dtype=torch.complex64)],
    ids=["sparse", "sparse rows", "meta", "complex"],
)  # fmt: skip
def test_tensors_that_hold_no_real_numbers_are_refused(tmp_path: Path, odd: torch.Tensor) -> None:
    torch.save({**PLAIN, "more": odd}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"m\.pt: expected plain tensors of real numbers, given another kind as 'more'"):
        weights.tensors(weights.read(tmp_path / "m.pt"))


def test_flags_are_no_weights() -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"expected weight of torch\.float32, given torch\.bool"):
        weights.load(network, {"weight": torch.ones(2, 2, dtype=torch.bool), "bias": torch.zeros(2)}, "m")
