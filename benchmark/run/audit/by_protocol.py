"""A protocol's own recipe with a training defense, on a user's records: models are trained as the judge trains those of its targets.

A defense that nobody has reviewed trains and answers in a sandbox, as it does for the judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmark import data as datasets
from benchmark import networks, places, protocol
from benchmark.api import Samples
from benchmark.data import source
from benchmark.digests import code_of, digest
from benchmark.entries.registry import Part, Registry, version_of
from benchmark.errors import Fault, UserError
from benchmark.networks.access import ask, check_log_posteriors
from benchmark.networks.architecture import Shape, WrongShape
from benchmark.networks.optimizers import as_asked, asked_code
from benchmark.networks.training import TrainingRun
from benchmark.run.audit.predictions import Source
from benchmark.run.audit.trainer import finite
from benchmark.sandbox.hints import described
from benchmark.sandbox.remote import Isolation, Mode, Setup, require
from benchmark.targets.experiment import Experiment, built_by
from benchmark.targets.store import Store
from benchmark.text import plain


@dataclass(frozen=True, eq=False)
class ByProtocol:
    """Trains by a protocol's recipe and one of its training defenses. `given`: how both were named."""

    experiment: Experiment
    part: Part
    architecture: str
    given: tuple[str, str]

    @property
    def name(self) -> str:
        return f"{self.experiment.protocol.name}, {self.part.name}"

    @cached_property
    def recipe(self) -> protocol.Recipe:
        """The protocol's recipe, with the defense's own choices; with steps where the protocol has them."""
        return self.experiment.protocol.recipe.model_copy(update=self.part.axes.chosen)

    @cached_property
    def simple(self) -> Mapping[str, Any]:
        """The augmentation "simple" of the protocol's data set, where images are augmented."""
        if self.recipe.augmentation == "none":
            return {"pad": 0, "flip": False}
        name = self.experiment.protocol.dataset
        id = name.partition("/")[0]
        declared = source.plugins().get(id)
        return declared.source.simple if declared and declared.source else datasets.load(name).simple

    @cached_property
    def key(self) -> str:
        views = [f"torchvision {version_of('torchvision')}"] if self.recipe.augmentation == "randaug" else []
        return digest(
            "protocol recipe", self.experiment.key(self.part), code_of("run.audit.by_protocol:training"), self.recipe,
            built_by(self.architecture), self.simple, self.experiment.environment, *views, *asked_code(self.recipe),
        )  # fmt: skip

    @property
    def sources(self) -> tuple[Source, ...]:
        text, path = self.part.entry.text.encode(), protocol.path_of(self.given[0])
        content = path.read_bytes()
        return (
            Source(plain(path.name, 120), len(content), hashlib.sha256(content).hexdigest()),
            Source(self.part.entry.path.name, len(text), hashlib.sha256(text).hexdigest()),
        )

    @property
    def told(self) -> dict[str, Any]:
        chosen = self.recipe.model_dump(mode="json", exclude={"ensemble", "early_stopping"})
        settings = {"network": self.architecture} | {k: v for k, v in chosen.items() if v not in (None, [])}
        return {
            "file": self.sources[0].name, "protocol": self.experiment.protocol.name, "defense": self.part.name,
            "settings": {name.replace("_", " "): str(value) for name, value in settings.items()},
        }  # fmt: skip

    @property
    def asked(self) -> dict[str, str]:
        return {
            "name": self.given[0], "defense": self.given[1], "network": self.architecture,
            "device": self.experiment.device.type, "isolation": self.experiment.isolation.mode,
        }  # fmt: skip

    def check(self, classes: int, shape: Shape) -> None:
        """Raises UserError where the network does not take such images, or where nothing can isolate the defense."""
        require([self.part.entry], self.experiment.isolation.mode)
        try:
            networks.build(self.architecture, classes, shape, 0)
        except WrongShape as problem:
            raise UserError(f"{problem}; --view is the height and width of the images") from None

    def answers(self, data: dict[str, Tensor], rows: Tensor, classes: int, seed: int, order: int) -> Tensor:
        """As `Trainer` has it; with one thread, as the judge's workers have."""
        torch.set_num_threads(1)
        x, y = data["x"], data["y"]
        c, h, w = x.shape[1:]
        setup = Setup(self.architecture, classes, (c, h, w), self.simple, self.experiment.device)
        recipe, none = self.recipe.in_epochs(len(rows)), Samples(x[:0], y[:0])
        isolation = self.experiment.isolation
        try:
            defender = isolation.defender(self.part, setup)
            (state,) = defender.train([training(setup, recipe, Samples(x[rows], y[rows]), seed)])
            predict = defender.serve(training(setup, recipe, none, seed), state)
            found = ask(predict, x, np.random.default_rng(order))
            return check_log_posteriors(finite(found, self.part.name), len(x), classes, self.part.name)
        except UserError:
            raise
        except Fault as fault:
            raise UserError(f"{self.part.name}: expected a training that ends, given {fault.status}: {fault}") from None
        except Exception as error:  # a submission's own
            raise UserError(f"{self.part.name}: {described(error, self.experiment.registry.entries)}") from None
        finally:
            isolation.close()


def training(setup: Setup, recipe: protocol.Recipe, samples: Samples, seed: int) -> TrainingRun:
    """What the contract hands to a training defense, without reference and validation data. Keys hold its code."""
    none = Samples(samples.x[:0], samples.y[:0])
    return as_asked(
        TrainingRun(
            train=samples, reference=none, validation=none, classes=setup.classes, recipe=recipe, architecture=setup.architecture,
            simple=setup.simple, seed=seed, device=setup.device,
        )
    )  # fmt: skip


def read(name: str, defense: str = "", network: str = "", device: str = "cpu", isolation: str = "auto") -> ByProtocol:
    """The recipe of a protocol with a training defense, by default its baseline, and with a network, by default the protocol's.

    isolation: as `Mode`. Nothing of the defense is run. Raises UserError for what cannot train on an audit's records alone.
    """
    loaded = protocol.load(name)
    registry = Registry(places.submissions(), places.baselines())
    chain = registry.chain(defense or loaded.baseline, loaded.baseline)
    part = chain.training
    if chain.guards:
        raise UserError(
            f"--defense: expected a training defense, given {chain.name}, whose guard changes answers by a key and a state of the "
            "served model's own; audit that model's answers (leakboard audit predictions), or score the defense on a protocol (leakboard run)"
        )
    more = sorted({*part.uses, *(["validation"] if part.axes.early_stopping or loaded.recipe.early_stopping else [])})
    if more:
        raise UserError(
            f"--defense: expected one that trains on members alone, given {part.name}, which reads {' and '.join(more)} data: an audit scores all "
            "records that it has"
        )
    if part.pretrained:
        raise UserError(f"--defense: expected one without a pretrained model, given {part.name}")
    architecture = network or loaded.architecture
    if architecture not in networks.NAMES:
        raise UserError(
            f"--network: expected with --protocol a name that leakboard list networks has, for reference models have it too, given "
            f"{plain(architecture, 60)!r}; a file of your own goes into networks/ of the project"
        )
    isolated = Isolation(cast(Mode, isolation), None, loaded.limits)
    experiment = Experiment(loaded, registry, Store(places.store()), torch.device(device), isolated)
    return ByProtocol(experiment, part, architecture, (name, defense))
