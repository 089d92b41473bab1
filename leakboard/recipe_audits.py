"""The command `leakboard audit recipe`, and audits with reference models from Python."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmark import places
from benchmark.errors import UserError
from benchmark.text import plain
from leakboard import audits, console, model_audits
from leakboard.console import clock, say
from leakboard.model_audits import (
    QUERIES,
    AttributeName,
    Channels,
    Classes,
    Kinds,
    Mean,
    Members,
    NetworkName,
    NonMembers,
    Queries,
    Released,
    ReleasedAs,
    Std,
    TorchScript,
    View,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from benchmark.run.audit.model import Model
    from benchmark.run.audit.recipe import Budget, Trainings
    from benchmark.run.audit.trainer import Trainer

REFERENCES = 16
"""Reference models by default."""
Device = Literal["auto", "cpu", "cuda"]


def recipe(
    *,
    train: Annotated[Path | None, typer.Option("--train", metavar="FILE.py", help="The recipe: a file of yours with `def train(x, y, classes, seed)`, which returns a trained torch.nn.Module. It runs as your own code.")] = None,
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="In its place: a protocol, by whose recipe models are trained: its network, optimizer, epochs, batches, augmentation, precision.")] = "",
    defense: Annotated[str, typer.Option("--defense", metavar="NAME", help="With --protocol: a training defense (leakboard list); default: the protocol's baseline.")] = "",
    members: Members,
    nonmembers: NonMembers,
    classes: Classes,
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="The model's weights, as for audit model; without them it is trained here, by the recipe on all members.")] = None,
    network: NetworkName = "",
    references: Annotated[int | None, typer.Option("--references", min=2, help="Reference models to train, an even number; default: 16.")] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Instead: so many hours of training, those of earlier calls included; the first pair is timed.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=64, envvar="LEAKBOARD_WORKERS", help="Models that are trained at once; they share the cores. Default: 1; with --protocol the cores, at most 8, and 1 on a GPU.")] = None,
    device: Annotated[Device, typer.Option("--device", help="With --protocol: where to train; auto: on a GPU where there is one.")] = "auto",
    trust: Annotated[bool, typer.Option("--trust", help="With --protocol: run a defense that nobody has reviewed without a sandbox.")] = False,
    view: View = None,
    channels: Channels = 3,
    mean: Mean = "",
    std: Std = "",
    torchscript: TorchScript = False,
    released: ReleasedAs = "posteriors",
    queries: Queries = QUERIES,
    kinds: Kinds = "",
    attribute: AttributeName = "",
    folder: audits.Out = Path("audit"),
    title: audits.Title = "",
    fail_if: audits.FailIf = None,
    canaries: audits.Canaries = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the halves, the seeds of trainings, the known records, permutations and resamples.")] = 0,
    as_json: audits.AsJson = False,
) -> None:  # fmt: skip
    """Audit with reference models, which are trained by your recipe or by a protocol's. Stopped, it goes on; asked for more, it trains the rest."""
    import torch

    from benchmark.run.audit import gate, images
    from benchmark.run.audit import kinds as others
    from benchmark.run.audit import model as models
    from benchmark.run.audit.recipe import Trainings
    from benchmark.targets.store import Store

    torch.set_num_threads(1)  # as in workers: the last digits of sums depend on the number of threads
    for text in fail_if or []:
        gate.condition(text)  # before the work
    shown = audits.shown_by(canaries)
    budget, wanted = _budget(references, hours), others.chosen(kinds)
    if weights is None and (network or mean or std or torchscript):
        raise UserError(
            "--network, --mean, --std, --torchscript: expected them with --weights, given without; leave them out"
        )
    named = network if weights else ""
    trainer = _trainer(train and train.expanduser(), protocol, defense, named, device, trust)
    by = {"--train": train, "--protocol": protocol, "--defense": defense, "--device": device if device != "auto" else "", "--trust": trust}  # fmt: skip
    model = by | {"--weights": weights, **model_audits.of_model(network, mean, std, torchscript)}
    trained = {"--references": references, "--hours": hours, "--workers": workers if workers != 1 else None}
    rest = (
        model_audits.of_images(members, nonmembers, classes, view, channels, attribute)
        | {"--canaries": canaries}
        | model_audits.of_audit(released, queries, title, seed, kinds)
    )
    command = audits.repeated("recipe", model | trained | rest, fail_if)
    with console.working("reading images"):
        data = images.load(members.expanduser(), nonmembers.expanduser(), classes, view, channels, attribute)
    trainings = Trainings(trainer, data, classes, seed, Store(places.store()), workers or _workers(protocol, device))
    audited = None
    if weights is not None:
        if not (network or torchscript or models.whole(weights)):
            network = trainer.architecture
        with console.working("reading the model"):
            numbers = (model_audits._numbers("--mean", mean), model_audits._numbers("--std", std))
            audited = models.load(
                weights.expanduser(),
                network,
                classes,
                data.shape,
                mean=numbers[0],
                std=numbers[1],
                torchscript=torchscript,
            )
    try:
        done = _audited(trainings, audited, budget, title, fail_if or [], command, released, queries, wanted)
    finally:
        if audited is not None:
            audited.close()
    audits.conclude(done, folder, as_json, shown)


def arrays(
    train: str | Path | None,
    x: ArrayLike,
    y: ArrayLike,
    members: ArrayLike,
    classes: int,
    *,
    protocol: str = "",
    defense: str = "",
    network: Any = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    references: int | None = None,
    hours: float | None = None,
    workers: int | None = None,
    device: Device = "auto",
    trust: bool = False,
    released: Released = "posteriors",
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
    queries: int = QUERIES,
    kinds: str = "",
    attribute: ArrayLike | None = None,
) -> audits.Audited:
    """`leakboard.audit_recipe`."""
    from benchmark.run.audit import images
    from benchmark.run.audit import kinds as others
    from benchmark.run.audit import model as models
    from benchmark.run.audit.recipe import Trainings
    from benchmark.targets.store import Store

    budget, wanted = _budget(references, hours), others.chosen(kinds)
    trainer = _trainer(None if train is None else Path(train), protocol, defense, "", device, trust)
    data = images.of_arrays(x, y, members, attribute)
    trainings = Trainings(trainer, data, classes, seed, Store(places.store()), workers or _workers(protocol, device))
    audited = None if network is None else models.of_module(network, classes, data.shape, mean=mean, std=std)
    return _audited(trainings, audited, budget, title, fail_if, "", released, queries, wanted, show=False)


def _trainer(train: Path | None, protocol: str, defense: str, network: str, device: Device, trust: bool) -> Trainer:
    """What trains: the user's file, or the protocol's recipe. Raises UserError for both, for none, and for what belongs to the other."""
    if (train is None) == (not protocol):
        raise UserError(
            f"--train: expected --train FILE.py or --protocol NAME, given {'both' if protocol else 'none'} of them"
        )
    if train is not None:
        from benchmark.run.audit.trainer import read

        if defense or device != "auto" or trust:
            raise UserError(
                "--defense, --device, --trust: expected them with --protocol, given --train; leave them out"
            )
        return read(train)
    from benchmark.run.audit import by_protocol
    from leakboard import score

    return by_protocol.read(protocol, defense, network, score.device_of(device), "never" if trust else "auto")


def _workers(protocol: str, device: Device) -> int:
    """Models that are trained at once by default: a protocol's recipe takes one core for each, a user's file what it likes."""
    from leakboard import score

    return score.default_workers(score.device_of(device)) if protocol else 1


def _budget(references: int | None, hours: float | None) -> Budget:
    from benchmark.run.audit.recipe import Budget

    if references is not None and hours is not None:
        raise UserError("--hours: expected --references or --hours, given both; leave one out")
    if references is not None and (references < 2 or references % 2):
        raise UserError(
            f"--references: expected an even number from 2, for they are trained in pairs, given {references}"
        )
    if hours is not None and not 0 < hours < 10_000:
        raise UserError(f"--hours: expected a number above 0, given {hours:g}")
    return Budget(references or REFERENCES, None) if hours is None else Budget(None, 3600 * hours)


def _audited(
    trainings: Trainings, audited: Model | None, budget: Budget, title: str, fail_if: Sequence[str], command: str,
    released: Released, queries: int, wanted: Sequence[str] | None, *, show: bool = True,
) -> audits.Audited:  # fmt: skip
    from benchmark.entries.registry import Registry
    from benchmark.run.audit import images, live, recipe
    from benchmark.run.audit.predictions import predictions
    from benchmark.run.audit.report import Recipe

    data, trainer, registry = trainings.images, trainings.trainer, Registry(places.PACKAGED / "submissions")
    if budget.models is not None and budget.models > trainings.most:
        raise UserError(
            f"--references: expected at most {trainings.most:,} for {len(trainings):,} records, given {budget.models:,}"
        )
    trainer.check(trainings.classes, data.shape)
    if show:
        _announce(trainings, audited, budget)
    asked = None
    if audited is not None:
        with console.working("asking the model about all images"):
            asked = live.ask_all(audited, data, registry, trainings.seed, trainings.store, queries)
        given = asked.given
    else:
        with console.working("training the model on all members"):
            answers = trainings.target()
        given = predictions(
            answers, data.y, data.members, form="log-probabilities", ids=data.ids, inputs=data.cells(), where=trainer.name,
            sources=data.sources,
        )  # fmt: skip
        given = replace(given, form="logits")
    trained = trainings.references(budget, _Progress() if show else lambda *_: None)
    given = replace(
        given, references=trained.answers, reference_members=trained.members,
        sources=(*trainer.sources, *given.sources),
    )  # fmt: skip
    more: dict[str, Any] = {}
    if asked is not None:
        asked = asked._replace(given=given)
        if show:
            model_audits._announce(asked, live.plan(given, asked.live, registry, trainings.seed))
        more["others"] = model_audits.other_kinds(asked, data, registry, trainings.seed, released, wanted, show=show)
    right = given.log_posteriors.argmax(1) == given.y
    seen, unseen = recipe.accuracies(trainings, trained)
    return audits._audited(
        given, title or ("" if audited else trainer.name), trainings.seed, fail_if, command, show=show, live=asked.live if asked else None, released=released,
        checked=[*images.checks(data, given.log_posteriors), *recipe.checks(trainings, trained, right)],
        recipe=Recipe(
            **trainer.told, references=len(trained.answers), size=len(trainings) // 2, seconds=trained.seconds,
            trained=audited is None, seen=seen, unseen=unseen,
        ),
        **more,
    )  # fmt: skip


def _announce(trainings: Trainings, audited: Model | None, budget: Budget) -> None:
    """What will be trained, on how many records, and what of it is there."""
    members = int(trainings.images.members.sum())
    target = f"audits {plain(audited.name, 80)}" if audited else f"trains the audited model on {members:,} members"
    many = (
        f"{budget.models} reference models in pairs"
        if budget.models
        else "pairs of reference models while the hours last"
    )
    say(
        f"{trainings.trainer.name}: {target}; trains {many}, one on a random half of the {len(trainings):,} records, one on the other"
    )
    if settings := trainings.trainer.told.get("settings"):
        say("recipe: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    wanted = budget.models or 2
    if (there := sum(map(trainings.stored, range(wanted)))) < wanted:
        before = f"{there} are there from earlier calls; " if there else ""
        say(f"{before}how long it takes is told after the first pair; Ctrl-C keeps what is trained")


class _Progress:
    """Says how long a model takes and how long the rest will: after the first pair, then every few seconds."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, done: int, total: int, each: float, left: float) -> None:
        now = time.monotonic()
        if self._shown and now - self._shown < console.EVERY and done < total:
            return
        if not self._shown and left:
            until = datetime.fromtimestamp(datetime.now(UTC).timestamp() + left).strftime("%H:%M")
            say(f"a model takes about {each:.1f} s: the rest of {total} about {clock(left)} minutes, until {until}")
        self._shown = now
        console.redraw(f"reference models: {done}/{total}, {clock(left)} left", last=done >= total)
