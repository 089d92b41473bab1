"""What scenarios are made from: networks, served models, reference models, attackers; each made once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmark.api import References
from benchmark.data.population import seed_of
from benchmark.entries.registry import Chain, Part
from benchmark.sandbox.local import Attacker
from benchmark.sandbox.remote import Builder, RemoteAttacker
from benchmark.targets.experiment import Experiment, prepared_in
from benchmark.targets.network import Network
from benchmark.targets.served import Guard, ServedModel
from benchmark.targets.store import tensor_digest


@dataclass
class Artifacts(Experiment):
    """Everything of one protocol on one device, through one store."""

    _networks: dict[object, Network] = field(init=False, repr=False, default_factory=dict)
    _served: dict[object, ServedModel] = field(init=False, repr=False, default_factory=dict)

    def network(self, training: Part, seed: int, role: str = "target", number: int = 0) -> Network:
        at = training.name, seed, role, number
        if at not in self._networks:
            self._networks[at] = Network(self, training, seed, role, number)
        return self._networks[at]

    def served(self, chain: Chain, seed: int, role: str = "target", number: int = 0) -> ServedModel:
        """A network behind the chain's guards, as they are prepared in the chain's world for this role."""
        world = prepared_in(chain, role)
        at = chain.training.name, tuple((g.name, world) for g in chain.guards), seed, role, number
        if at not in self._served:
            model = ServedModel(self.network(chain.training, seed, role, number))
            if chain.guards:
                model.before = self.served(replace(chain, guards=chain.guards[:-1]), seed, role, number)
                if (role, number) == (world, 0):
                    model.guards = (*model.before.guards, Guard(chain.guards[-1], model.before))
                else:
                    model.guards = self.served(chain, seed, world).guards
            self._served[at] = model
        return self._served[at]

    def references(self, chain: Chain, seed: int, role: str) -> References:
        """The reference models of this chain, `online` or `offline`, queried on the candidates."""
        population, sizes = self.population(seed), self.reference_sizes(chain.training)
        models = [self.served(chain, seed, role, k) for k in range(getattr(sizes, role))]
        m, rows = len(models), [model.answers("candidates") for model in models]
        known: dict[str, int] = {}

        def ask(x: Tensor) -> Tensor:
            known[tensor_digest(x)] = 8 * m * len(x) * population.data.classes
            if sum(known.values()) > self.isolation.limits.stored_mb << 20:
                raise PermissionError(
                    f"reference models answer {self.isolation.limits.stored_mb} MB, and were asked for more"
                )
            return torch.stack([model.asked(x) for model in models])

        return References(torch.from_numpy(population.reference_members(role, m)), torch.stack(rows), ask, m)

    def attacker(self, part: Part, seed: int) -> Attacker | RemoteAttacker:
        """One instance of an attack, ready to fit."""
        return self.isolation.attacker(part, self.setup(seed, "target"))

    def builder(self, seed: int) -> Builder:
        """Makes the networks that a stealing attack trains."""
        return Builder(self.setup(seed, "target"), seed_of("copy", seed))
