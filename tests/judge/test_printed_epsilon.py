"""What is printed of an epsilon: never less than is claimed, and that its noise is secret on a secret split alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.api import Claims
from benchmark.judge.utility import PUBLIC_NOISE, _claims
from benchmark.targets.artifacts import Artifacts
from leaderboard.ranking import epsilon_text
from tests.conftest import artifacts_in


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("epsilon", [8.2443, 0.0056176, 1.0, 99.999])
def test_epsilon_is_rounded_up_and_says_where_its_noise_is_public(artifacts: Artifacts, epsilon: float) -> None:
    claim = Claims(epsilon, 1e-5, "RDP", "add/remove one", "Poisson")
    official = replace(artifacts, secret=b"x" * 32)
    for place, public in ((artifacts, True), (official, False)):
        chain = place.chain("dp_sgd")
        said = _claims(place.network(chain.training, 0), chain, claim)
        assert epsilon <= float(said["epsilon"]) <= epsilon * 1.01
        assert said.get("noise") == (PUBLIC_NOISE if public else None)
        shown = epsilon_text(said)
        assert (
            shown.startswith(f"{said['epsilon']} (δ 1e-05, add/remove one, RDP") and (PUBLIC_NOISE in shown) == public
        )
        assert len(shown) < 150


@pytest.mark.parametrize("claim", [Claims(1e9, 1e-5, "RDP", "add/remove one", "Poisson"), Claims(1.0, 0.5, "RDP")])
def test_what_is_no_guarantee_says_nothing_of_its_noise(artifacts: Artifacts, claim: Claims) -> None:
    chain = artifacts.chain("dp_sgd")
    assert "noise" not in _claims(artifacts.network(chain.training, 0), chain, claim)


def test_an_epsilon_of_more_digits_is_rounded_up_where_it_is_shown() -> None:
    said = {
        "epsilon": "8.2443",
        "delta": "1e-05",
        "adjacency": "add/remove one",
        "accountant": "RDP",
        "sampling": "Poisson",
    }
    assert epsilon_text(said).startswith("8.25 (")
