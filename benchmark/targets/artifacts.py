"""What a scenario is made from: networks, models behind guards, reference models, attackers; each made once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from benchmark.api import References
from benchmark.data.population import seed_of
from benchmark.entries.registry import Chain, Part
from benchmark.sandbox.local import Attacker
from benchmark.sandbox.remote import Builder, RemoteAttacker
from benchmark.targets.experiment import Experiment, NetworkId, prepared_on, trained_as
from benchmark.targets.network import Network
from benchmark.targets.served import Guard, ServedModel
from benchmark.targets.store import tensor_digest


@dataclass
class Artifacts(Experiment):
    """All networks and models of one protocol on one device, through one store.

    A network is named by training defense, seed, role (`NetworkId`) and number; the role says whose network it is.
    """

    _networks: dict[object, Network] = field(init=False, repr=False, default_factory=dict)
    _served: dict[object, ServedModel] = field(init=False, repr=False, default_factory=dict)

    def network(self, training: Part, seed: int, role: str = "target", number: int = 0) -> Network:
        """A network without guards. It is trained, or read from the store, when it is first asked for its weights."""
        key = training.name, seed, role, number
        if key not in self._networks:
            self._networks[key] = Network(self, training, seed, role, number)
        return self._networks[key]

    def served(self, chain: Chain, seed: int, role: str = "target", number: int = 0) -> ServedModel:
        """A network behind the chain's guards, whose states are prepared on the network `prepared_on`."""
        main = prepared_on(chain, role, number)
        key = chain.training.name, tuple((g.name, main) for g in chain.guards), seed, role, number
        if key not in self._served:
            model = ServedModel(self.network(chain.training, seed, *trained_as(role, number)), role)
            if chain.guards:
                model.before = self.served(replace(chain, guards=chain.guards[:-1]), seed, role, number)
                if (role, number) == main:
                    model.guards = (*model.before.guards, Guard(chain.guards[-1], model.before))
                else:
                    model.guards = self.served(chain, seed, *main).guards
            self._served[key] = model
        return self._served[key]

    def reference_ids(self, chain: Chain, seed: int, role: str, target: int) -> list[NetworkId]:
        """The reference models of an attack on this target; `role`: online or offline."""
        if role == "offline":
            return [(role, k) for k in range(self.reference_sizes(chain.training).offline)]
        models = self.population_models(chain.training)
        return [(role, k) for k in self.population(seed).references_of(target, models)]

    def references(self, chain: Chain, seed: int, role: str, target: int = 0) -> References:
        """The reference models of an attack on this target, and their answers to the candidates.

        Their `ask` raises PermissionError once the answers to other images exceed the attack's share of the store.
        """
        population, ids = self.population(seed), self.reference_ids(chain, seed, role, target)
        models = [self.served(chain, seed, *id) for id in ids]
        m, log_posteriors = len(models), [model.answers("candidates") for model in models]
        answer_bytes: dict[str, int] = {}

        def ask(x: Tensor) -> Tensor:
            answer_bytes[tensor_digest(x)] = 8 * m * len(x) * population.data.classes
            if sum(answer_bytes.values()) > self.isolation.limits.stored_mb << 20:
                raise PermissionError(
                    f"reference models answer {self.isolation.limits.stored_mb} MB, and were asked for more"
                )
            return torch.stack([model.answers_to(x) for model in models])

        members = np.stack([population.members_of(*trained_as(*id)) for id in ids])
        return References(torch.from_numpy(members), torch.stack(log_posteriors), ask)

    def attacker(self, part: Part, seed: int) -> Attacker | RemoteAttacker:
        """A new instance of an attack, which has fitted nothing yet."""
        return self.isolation.attacker(part, self.setup(seed, "target"))

    def builder(self, seed: int) -> Builder:
        """Builds the fresh networks that a stealing attack trains."""
        return Builder(self.setup(seed, "target"), seed_of("copy", seed))
