"""The command `leakboard audit model`, and audits of a module from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmark import places
from benchmark.errors import UserError
from benchmark.text import plain
from leakboard import audits, console
from leakboard.console import clock, say

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from benchmark.entries.registry import Registry
    from benchmark.run.audit.images import Images
    from benchmark.run.audit.live import Asked, Plan
    from benchmark.run.audit.model import Model
    from benchmark.run.audit.predicted import Track
    from benchmark.run.audit.report import OtherKind
    from benchmark.targets.store import Store

QUERIES = 40_000
"""What one attack may cost by default, in forward passes of one image."""
Released = Literal["labels", "posteriors", "weights"]
# fmt: off
Members = Annotated[Path, typer.Option("--members", metavar="DIR", help="Images that it was trained on: a folder of class folders, .npz (x, y) or .parquet.")]
NonMembers = Annotated[Path, typer.Option("--non-members", metavar="DIR", help="Images of the same origin that it was not trained on.")]
Classes = Annotated[int, typer.Option("--classes", min=2, help="How many classes it tells apart.")]
NetworkName = Annotated[str, typer.Option("--network", metavar="NAME", help="Its network: a name (leakboard list networks), timm:NAME, or a file NAME.py; none for TorchScript and ONNX.")]
View = Annotated[int | None, typer.Option("--view", min=1, max=1024, help="Height and width in pixels that images of a folder are scaled to, by Pillow's BOX filter; default: 32. If yours were resized otherwise, give .npz with them.")]
Channels = Annotated[int, typer.Option("--channels", help="3 (RGB) or 1 (grey), for images of a folder.")]
Mean = Annotated[str, typer.Option("--mean", metavar="NUMBERS", help="Subtracted from pixels in [0, 1], one a channel, such as '0.485 0.456 0.406'; default: pixels go in as they are.")]
Std = Annotated[str, typer.Option("--std", metavar="NUMBERS", help="What pixels are divided by then, such as '0.229 0.224 0.225'.")]
TorchScript = Annotated[bool, typer.Option("--torchscript", help="The weights are TorchScript, whatever the file's name.")]
ReleasedAs = Annotated[Released, typer.Option("--released", help="What others will get; attacks that read more are run, and do not count for the verdict.")]
Queries = Annotated[int, typer.Option("--queries", min=1000, help="What one attack may cost, in forward passes; what costs more is measured on a part of the images.")]
AttributeName = Annotated[str, typer.Option("--attribute", metavar="NAME", help="The array of .npz or column of .parquet with an attribute of the images, for attribute inference; default: a, where it is there.")]
Kinds = Annotated[str, typer.Option("--kinds", metavar="KINDS", help="Kinds of attack, joined by commas: membership (always), stealing, attribute, inversion. Default: all but inversion, which takes minutes.")]
# fmt: on
"""Options that `audit recipe` has, too."""


def model(
    weights: Annotated[Path, typer.Option("--weights", metavar="FILE", help="The model's weights: .safetensors, or a state dict as .pt; or the whole model: .ts (TorchScript) or .onnx.")],
    members: Members,
    nonmembers: NonMembers,
    classes: Classes,
    network: NetworkName = "",
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
    seed: audits.Seed = 0,
    as_json: audits.AsJson = False,
) -> None:  # fmt: skip
    """Audit a model itself: its weights, and images of both sides. Stopped, it goes on where it was. See docs/audit.md."""
    import torch

    from benchmark.run.audit import gate, images
    from benchmark.run.audit import kinds as others
    from benchmark.run.audit import model as models
    from benchmark.targets.store import Store

    torch.set_num_threads(1)  # as in workers: the last digits of sums depend on the number of threads
    for text in fail_if or []:
        gate.condition(text)  # before the work
    shown, wanted = audits.shown_by(canaries), others.chosen(kinds)
    model = {"--weights": weights, **of_model(network, mean, std, torchscript)}
    rest = (
        of_images(members, nonmembers, classes, view, channels, attribute)
        | {"--canaries": canaries}
        | of_audit(released, queries, title, seed, kinds)
    )
    command = audits.repeated("model", model | rest, fail_if)
    with console.working("reading images"):
        data = images.load(members.expanduser(), nonmembers.expanduser(), classes, view, channels, attribute)
    with console.working("reading the model"):
        audited = models.load(
            weights.expanduser(), network, classes, data.shape, mean=_numbers("--mean", mean), std=_numbers("--std", std),
            torchscript=torchscript,
        )  # fmt: skip
    try:
        done = _audited(
            audited, data, title, seed, fail_if or [], command, released, queries, Store(places.store()), wanted
        )
    finally:
        audited.close()
    audits.conclude(done, folder, as_json, shown)


def of_model(network: str, mean: str, std: str, torchscript: bool) -> dict[str, object]:
    """Options of a model, for the command that makes the audit again."""
    return {"--network": network, "--mean": mean, "--std": std, "--torchscript": torchscript}


def of_images(
    members: Path, nonmembers: Path, classes: int, view: int | None, channels: int, attribute: str
) -> dict[str, object]:
    """Options of the images. Raises UserError for another number of channels than 1 or 3."""
    if channels not in (1, 3):
        raise UserError(f"--channels: expected 1 or 3, given {channels}")
    return {
        "--members": members, "--non-members": nonmembers, "--classes": classes, "--view": view,
        "--channels": channels if channels != 3 else None, "--attribute": attribute,
    }  # fmt: skip


def of_audit(released: Released, queries: int, title: str, seed: int, kinds: str) -> dict[str, object]:
    """Options of the audit, without those at their defaults."""
    return {
        "--released": released if released != "posteriors" else None, "--queries": queries if queries != QUERIES else None,
        "--kinds": kinds, "--title": title, "--seed": seed or None,
    }  # fmt: skip


def module(
    network: Any,
    x: ArrayLike,
    y: ArrayLike,
    members: ArrayLike,
    classes: int,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    released: Released = "posteriors",
    title: str = "",
    seed: int = 0,
    fail_if: Sequence[str] = (),
    queries: int = QUERIES,
    kinds: str = "",
    attribute: ArrayLike | None = None,
) -> audits.Audited:
    """`leakboard.audit_model`."""
    from benchmark.run.audit import images
    from benchmark.run.audit import kinds as others
    from benchmark.run.audit import model as models

    wanted = others.chosen(kinds)
    data = images.of_arrays(x, y, members, attribute)
    audited = models.of_module(network, classes, data.shape, mean=mean, std=std)
    return _audited(audited, data, title, seed, fail_if, "", released, queries, None, wanted, show=False)


def _audited(
    model: Model, data: Images, title: str, seed: int, fail_if: Sequence[str], command: str, released: Released, queries: int,
    store: Store | None, wanted: Sequence[str] | None, *, show: bool = True,
) -> audits.Audited:  # fmt: skip
    from benchmark.entries.registry import Registry
    from benchmark.run.audit import images, live

    registry = Registry(places.PACKAGED / "submissions")
    with console.working("asking the model about all images"):
        asked = live.ask_all(model, data, registry, seed, store, queries)
    if show:
        _announce(asked, live.plan(asked.given, asked.live, registry, seed))
    others = other_kinds(asked, data, registry, seed, released, wanted, show=show)
    return audits._audited(
        asked.given,
        title,
        seed,
        fail_if,
        command,
        show=show,
        live=asked.live,
        released=released,
        checked=images.checks(data, asked.given.log_posteriors),
        others=others,
    )


def other_kinds(
    asked: Asked, data: Images, registry: Registry, seed: int, released: Released, wanted: Sequence[str] | None, *, show: bool
) -> Callable[[Track], Sequence[OtherKind]]:  # fmt: skip
    """What runs the other kinds of attack. Says before which those are, which not and why, and how long they take."""
    from benchmark.run.audit import kinds

    planned = kinds.planned(asked, data, registry, seed, released, wanted)
    if show:
        plans = [(kind, *kind.plan()) for kind in planned]
        running = {kind.title: len(parts) for kind, parts, _ in plans if parts}
        if running:
            many = ", ".join(f"{title} ({count} attacks and nulls)" for title, count in running.items())
            say(f"then {many}; about {clock(kinds.seconds(planned, asked.seconds))} minutes more")
        for kind, parts, left in plans:
            if not parts and left:
                say(f"not run: {kind.title}: {left[0].reason}")
    return lambda track: kinds.run(planned, track)


def _announce(asked: Asked, plan: Plan) -> None:
    """What will run, on how many records, how long it takes about, and what will not run."""
    given, model = asked.given, asked.live.model
    counted = f"{model.parameters:,} parameters, " if model.parameters else ""
    mean, std = (" ".join(f"{v:g}" for v in values) for values in (model.mean, model.std))
    normalised = f", less {mean}, divided by {std}" if mean else ""
    say(
        f"model: {plain(model.name, 80)}, {counted}{given.classes} classes, images {'x'.join(map(str, model.shape))} in [0, 1]{normalised}"
    )
    at_once = 1 if model.isolation else 2
    each = 1 + len(given) * 1e-3  # training of perceptrons, permutations and resamples
    seconds = (1.3 * plan.passes * asked.seconds + each * len(plan.parts)) / at_once
    until = datetime.fromtimestamp(datetime.now(UTC).timestamp() + seconds).strftime("%H:%M")
    say(
        f"runs {len(plan.parts)} attacks on {int(given.members.sum()):,} members and {int((~given.members).sum()):,} non-members; "
        f"about {clock(seconds)} minutes, until {until}, less what an earlier call has done"
    )
    if plan.partly:
        partly = ", ".join(f"{name} {n:,}" for name, n in plan.partly.items())
        say(f"on a part of the records (--queries): {partly}")
    by_reason: dict[str, list[str]] = {}
    for left in plan.left:
        by_reason.setdefault(left.reason, []).append(left.name)
    for reason, names in by_reason.items():
        say(f"not run: {', '.join(names)}: {reason}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise UserError(
            f"{option}: expected numbers, one a channel, such as '0.5 0.5 0.5', given {plain(text, 60)!r}"
        ) from None
