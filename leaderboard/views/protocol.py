"""The page Protocol: what a protocol measures, on what and how, what it leaves out, and what changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from benchmark import places
from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.protocol import QUICKSTART
from benchmark.result import Result
from benchmark.text import NAME, plain
from leaderboard import tables
from leaderboard.pairs import UTILITY
from leaderboard.publish import OFFICIAL, provenance
from leaderboard.ranking import split_of
from leaderboard.views.compare import parts

if TYPE_CHECKING:
    from benchmark.protocol import Protocol

column = st.column_config
PARTS = {
    "target-train": "members: the target is trained on it",
    "target-test": "non-members, and the target's test accuracy",
    "target-reference": "for defenses that need non-members or choose a checkpoint",
    "shadow-train": "members of the shadow world, where attacks learn",
    "shadow-test": "non-members of the shadow world; thresholds are set there",
    "shadow-reference": "for the shadow world's own defenses",
}
LIMITS = {
    "seconds": "seconds", "memory_mb": "MB of memory", "processes": "processes", "files": "open files",
    "scratch_mb": "MB of scratch space", "output_mb": "MB of output", "stored_mb": "MB stored",
}  # fmt: skip
THRESHOLDS = {"shadow": "the shadow world", "partial": "the known samples of the target"}
GROUPS = {
    "Split": "On what", "Recipe": "How networks are trained", "Adversary": "What adversaries have", "Statistics": "Statistics",
    "Ranking": "How entries are ranked", "Inversion": "How reconstructions are judged",
    "Attribute inference": "What is inferred", "Limits": "What one submission may use",
}  # fmt: skip


def show() -> None:
    """Draw the page, also for a protocol without results."""
    name = str(st.session_state.get("protocol") or "")
    st.title("Protocol", anchor=False)
    definition = _defined(name)
    editions = tables.editions(tables.source(name).results) if name else {}
    if definition is not None:
        _describe(definition)
    elif not editions:
        st.text("Nothing is scored yet. To score a first protocol:")
        st.code(f"leakboard run --protocol {QUICKSTART}", language=None, wrap_lines=True)
        st.stop()
    axes = pd.DataFrame(_axes(definition) if definition else [], columns=["of", "what", "value"])
    if definition is not None:
        _axes_shown(axes)
    _required(name, definition, next(iter(editions.values()), []))
    if definition is not None:
        st.subheader("What it leaves out", anchor=False)
        st.text(plain(definition.leaves_out, 4000))
    _history(definition, editions)
    if definition is not None:
        with st.expander("The file itself"):
            st.code((_folder() / f"{definition.name}.yaml").read_text("utf-8"), language=None, wrap_lines=True)
        st.download_button(
            "CSV", axes.to_csv(index=False), f"{definition.name}-protocol.csv", "text/csv", icon=":material/download:"
        )


def _folder() -> Any:
    from benchmark.protocol import FOLDER

    return FOLDER


def _defined(name: str) -> Protocol | None:
    """The protocol's definition; None, with a line on the page why, where there is none or it can't be read."""
    from benchmark import errors
    from benchmark import protocol as definitions

    try:
        return definitions.load(name)
    except errors.UserError as error:
        st.text(f"Only what was scored is known of this protocol: {plain(str(error).splitlines()[0])}")
        return None


def _describe(definition: Protocol) -> None:
    size = f"{definition.split.size:,} samples a part" if definition.split.size else "as many samples a part as go"
    few = f"Data {definition.dataset}, network {definition.architecture}, {size}, seeds {', '.join(map(str, definition.seeds))}; "
    st.text(
        f"{plain(definition.about, 4000)}\n\n{few}{len(definition.attacks)} attacks and {len(definition.defenses)} defenses are required."
    )
    st.subheader("What is measured", anchor=False)
    for task, metrics in (TASK_METRICS | {"utility": UTILITY}).items():
        st.text("\n".join([f"{task.capitalize()}", *(f"– {METRICS[m].label}: {METRICS[m].help}" for m in metrics)]))


# --- Axes -------------------------------------------------------------------------------------------


def _axes(definition: Protocol) -> list[tuple[str, str, str]]:
    """Everything in a protocol that numbers depend on, in words: (part of the protocol, axis, value)."""
    recipe, split = definition.recipe, definition.split
    size = f"{split.size:,} samples" if split.size else "as many samples as go into equal parts"
    kept = [p for p in PARTS if p in split.parts]
    rows = [("Split", part, f"{size}: {PARTS[part]}") for part in kept]
    rows += [
        ("Split", "known beforehand", f"{split.known_fraction:.0%} of target-train and target-test, for partial knowledge; never scored"),
        ("Split", "pinned", f"SHA-256 of the data ({definition.data_digest[:12]}) and of the indices of each seed"),
        ("Recipe", "optimizer", f"{recipe.optimizer}, learning rate {recipe.learning_rate:g}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"),
        ("Recipe", "schedule", f"{recipe.schedule}{f' at {recipe.milestones}' if recipe.milestones else ''}, {f'{recipe.steps} updates' if recipe.steps else f'{recipe.epochs} epochs'}, batches of {recipe.batch_size}"),
        ("Recipe", "augmentation", recipe.augmentation),
        ("Recipe", "early stopping", "on validation data" if recipe.early_stopping else "none: one epoch count for all"),
        ("Recipe", "arithmetic", f"{recipe.precision}; {f'{recipe.ensemble} networks train as one ensemble' if recipe.ensemble > 1 else 'networks train one by one'}"),
        ("Adversary", "reference models", f"{definition.references.online} models of the population, {definition.references.offline} of shadow data"),
        ("Targets", "a seed", f"{definition.targets} networks of the population" if definition.targets > 1 else "one, trained on target-train"),
    ]  # fmt: skip
    if (costly := definition.costly) and costly.references:
        rows.append(("Adversary", "reference models of costly defenses", f"{costly.references.online} and {costly.references.offline}, for {', '.join(costly.defenses)}"))  # fmt: skip
    if costly and costly.targets:
        rows.append(("Targets", "of what is costly", f"the first {costly.targets}, for {', '.join((*costly.defenses, *costly.attacks))}"))  # fmt: skip
    other = definition.adversary.model_dump(exclude_none=True) if definition.adversary else {}
    rows += [("Adversary", f"shadow world's {k.replace('_', ' ')}", str(v)[:NAME]) for k, v in other.items()]
    if definition.label_only:
        rows.append(("Adversary", "label-only attacks", f"{definition.label_only} candidates, half of them members"))
    if definition.canaries:
        rows.append(
            ("Adversary", "canaries", f"{definition.canaries.count} mislabelled samples; only these are scored")
        )
    rows += [
        ("Statistics", "seeds", f"{', '.join(map(str, definition.seeds))}: shared by all entries, so that two entries are compared by paired differences"),
        ("Statistics", "intervals", f"95 %: over seeds Student's t; within a scenario a bootstrap over samples, {definition.resamples:,} resamples"),
        ("Statistics", "null", f"{definition.nulls} permutations of the membership labels, the same for all attacks on a target"),
        ("Statistics", "thresholds", f"set on {THRESHOLDS[definition.thresholds]} or by the attack itself, never on what is scored"),
        ("Ranking", "defenses", f"by the worst case over the required attacks that apply: {' then '.join(METRICS[m].label for m in definition.rank_by)}, the first that the samples resolve; attack and sign chosen on the other seeds"),
        ("Ranking", "utility floor", f"{definition.utility_floor:.0%} of the test accuracy of {definition.baseline}"),
        ("Ranking", "attacks", "by the mean over the required defenses, within a track of access and knowledge"),
        ("Inversion", "evaluation classifier", f"{definition.evaluator}: another network, on other data"),
        ("Inversion", "second evaluation classifier", f"{definition.second_evaluator}: another network again, on data of its own"),
        ("Attribute inference", "attribute", definition.attribute or "whether the shape in an image is thicker than the median of its class"),
    ]  # fmt: skip
    return rows + [("Limits", label, f"{getattr(definition.limits, field):,}") for field, label in LIMITS.items()]


def _axes_shown(axes: pd.DataFrame) -> None:
    for group, title in GROUPS.items():
        st.subheader(title, anchor=False)
        rows = axes[axes.of == group]
        if group == "Limits":
            st.text(", ".join(f"{value} {what}" for what, value in zip(rows.what, rows.value, strict=True)))
        else:
            lines = (f"– {what}: {value}" for what, value in zip(rows.what, rows.value, strict=True))
            st.text("\n".join(lines))


# --- What is required -------------------------------------------------------------------------------


def _required(name: str, definition: Protocol | None, results: Sequence[Result]) -> None:
    """Tables of the required attacks and defenses, with how much of each is scored."""
    if definition is None:
        try:
            board = tables.board_of(name)
        except ValueError as error:
            st.text(f"What it requires is not known: {plain(str(error))}")
            return
        wanted = {"attack": board.required_attacks, "defense": board.required_defenses}
    else:
        wanted = {"attack": definition.attacks, "defense": definition.defenses}
    known = tables.cards()
    for kind, names in wanted.items():
        rows = []
        for entry in names:
            mine = [r for r in results if getattr(r, kind) == entry]
            entries = [next((e for e in known.get(id, []) if e.kind == kind), None) for id, _ in parts(entry)]
            cards = [e for e in entries if e and e.card]
            tracks = [r.track for r in mine] or [f"{e.access}/{'+'.join(sorted(e.needs)) or 'none'}" for e in cards]
            rows.append({
                kind: plain(entry, NAME),
                "method": plain(" + ".join(e.card.title for e in cards)) or "no submission of this name",
                "about": ", ".join(dict.fromkeys(s for e in cards for s in (e.stages or (e.task,)))),
                "track": "; ".join(dict.fromkeys(tracks)) if kind == "attack" else "",
                "ok": sum(r.status == "ok" for r in mine),
                "skipped": sum(r.status == "skipped" for r in mine),
                "other": sum(r.status not in ("ok", "skipped") for r in mine),
            })  # fmt: skip
        st.subheader(f"Required {kind}s", anchor=False)
        config = {
            kind: column.TextColumn(kind.capitalize(), pinned=True),
            "method": column.TextColumn("Method"),
            "about": column.TextColumn("Task" if kind == "attack" else "Stage"),
            **({"track": column.TextColumn("Track", help="Access / auxiliary knowledge")} if kind == "attack" else {}),
            "ok": column.NumberColumn("Scored", help="Scenarios with numbers"),
            "skipped": column.NumberColumn("Skipped", help="Scenarios that don't apply"),
            "other": column.NumberColumn("Failed", help="Failed, timed out or out of memory"),
        }
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, width="stretch", height="content", column_order=list(config),
            column_config=config, key=f"required-{kind}", alt=f"Required {kind}s",
        )  # fmt: skip


# --- What changed -----------------------------------------------------------------------------------


def _history(definition: Protocol | None, editions: Mapping[str, Sequence[Result]]) -> None:
    """A table of the versions of which there are results, and the changelog's entries on rules."""
    st.subheader("Versions, and why they changed", anchor=False)
    st.text("Whatever moves a number makes a new version; results of two versions never meet in one table.")
    rows = [_version(results, definition) for results in editions.values()]
    if definition is not None and not any(r["state"] == "the file as it is" for r in rows):
        rows.insert(0, {"version": definition.measures[:12], "state": "the file as it is: nothing of it is scored"})
    config = {
        "version": column.TextColumn("Version", help="Digest of all that moves a number"),
        "state": column.TextColumn("State"), "split": column.TextColumn("Split"), "results": column.NumberColumn("Results"),
        "first": column.DatetimeColumn("First", format="YYYY-MM-DD", help="UTC"), "last": column.DatetimeColumn("Last", format="YYYY-MM-DD", help="UTC"),
        "commits": column.TextColumn("Commits", help="Of the judge"), "devices": column.TextColumn("Machines"),
    }  # fmt: skip
    st.dataframe(
        pd.DataFrame(rows, columns=list(config)), hide_index=True, width="stretch", height="content", placeholder="–",
        column_config=config, key="versions", alt="Versions of the protocol",
    )  # fmt: skip
    if lines := rules(places.PACKAGED / "CHANGELOG.md"):
        st.text("What the changelog says of rules:")
        for line in lines:
            st.text(line)


def _version(results: Sequence[Result], definition: Protocol | None) -> dict[str, Any]:
    """A row of the table of versions; commits and machines are those of the published provenance."""
    first = results[0]
    digest, split = first.protocol_digest, split_of(first)
    folder = places.board(first.protocol) / (OFFICIAL if split == "official" else "")
    published = provenance(folder)
    seen = published.get("seen") if published.get("protocol_digest") == digest else None
    same = definition is not None and digest == definition.measures
    state = "secret split" if split == "official" else "the file as it is" if same else "an earlier version of the file"
    times = [pd.to_datetime(r.finished, unit="s", errors="coerce") for r in results]
    return {
        "version": plain(digest[:12], NAME), "state": state if definition else "no file", "split": split, "results": len(results),
        "first": min(times), "last": max(times), "commits": _listed(seen, "commit"), "devices": _listed(seen, "device"),
    }  # fmt: skip


def _listed(seen: Any, name: str) -> str:
    """A field of the published provenance as plain text; anybody may have written it."""
    values = seen.get(name) if isinstance(seen, dict) else None
    return plain(", ".join(map(str, values))) if isinstance(values, list) else ""


def rules(changelog: Any) -> list[str]:
    """The changelog's entries tagged Rules, newest first, each as one line that begins with its release."""
    if not changelog.is_file():
        return []
    lines, release = [], ""
    for block in re.split(r"\n(?=- |## )", changelog.read_text("utf-8")):
        title = re.match(r"## (.*)", block)
        release = title[1] if title else release
        if block.startswith("- Rules:"):
            lines.append(plain(f"{release}: {' '.join(block.removeprefix('- Rules:').split())}", 4000))
    return lines
