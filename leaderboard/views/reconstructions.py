"""The page Reconstructions: images by inversion attacks, beside the mean image of each class."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from benchmark.metrics import METRICS, TASK_METRICS
from benchmark.protocol import QUICKSTART
from benchmark.result import Result
from leaderboard import figures
from leaderboard.publish import as_csv
from leaderboard.views import chosen, number, ranked

TASK = "inversion"
CLASS_MEANS, RECONSTRUCTIONS, NEAREST = "class_means", "reconstructions", "nearest_members"
"""Names of pictures in the records of inversion attacks."""
LARGEST = 256
"""Most pixels a side, and most classes, that are drawn: anybody may have written the records."""


def show() -> None:
    """Draw the page. Names are drawn by `st.text`: captions of `st.image` are read as Markdown."""
    protocol, results = chosen()
    st.title("Reconstructions", anchor=False)
    inversions = [r for r in results if r.task == TASK]
    if not inversions:
        st.text("No inversion attack was scored for this protocol. A protocol that has some:")
        st.code(f"leakboard run --protocol {QUICKSTART}", language=None, wrap_lines=True)
        st.stop()
    left, right = st.columns([3, 1])
    baseline = ranked(protocol, results)[0].baseline
    # Defenses with images come first, then those that were scored.
    best = {
        d: max((RECONSTRUCTIONS in r.pictures, r.status == "ok") for r in inversions if r.defense == d)
        for d in {r.defense for r in inversions}
    }
    defenses = sorted(best, key=lambda d: (*(not good for good in best[d]), d != baseline, d))
    defense = left.selectbox("Defense", defenses, key="defense", bind="query-params")
    seeds = sorted({r.seed for r in inversions if r.defense == defense})
    seed = right.selectbox("Seed", seeds, key="seed", bind="query-params")
    mine = sorted(
        (r for r in inversions if (r.defense, r.seed) == (defense, seed)), key=lambda r: (r.null_row, r.attack)
    )
    _images(protocol, mine)
    st.subheader("In numbers", anchor=False)
    _table(protocol, mine)


def _images(protocol: str, mine: Sequence[Result]) -> None:
    scored = [r for r in mine if r.status == "ok"]
    held = [r for r in scored if RECONSTRUCTIONS in r.pictures]
    if not scored:
        st.text(f"Nothing was reconstructed: {mine[0].reason or mine[0].status}.")
        return
    if not held:
        st.text("These records hold no images, which only published ones do. To score and publish them:")
        run = shlex.join(["leakboard", "run", *(r.attack for r in scored), "--protocol", protocol])
        publish = shlex.join(["leakboard", "publish", "--protocol", protocol])
        st.code(f"{run}\n{publish}", language=None, wrap_lines=True)
        return
    count = min(held[0].pictures[RECONSTRUCTIONS].shape[0], LARGEST)
    across = f"One column a class, 0 to {count - 1} from the left" + ("" if count <= 10 else ", ten in a row")
    st.text(f"{across}. The first row holds the mean image of each class, which a reconstruction is measured against.")
    means = next((r.pictures[CLASS_MEANS].array() for r in held if CLASS_MEANS in r.pictures), None)
    if means is not None:
        _row("Class means", "what the target's members of a class have in common", means)
    for r in scored:
        scores = "; ".join(f"{METRICS[m].label} {r.metrics[m]:.3f}" for m in TASK_METRICS[TASK] if m in r.metrics)
        scores += "; null row: it uses nothing of the target" if r.null_row else ""
        if RECONSTRUCTIONS in r.pictures:
            _row(r.attack, scores, r.pictures[RECONSTRUCTIONS].array())
            if NEAREST in r.pictures and not r.null_row:
                _row("Nearest members", f"of each class, to the images of {r.attack}", r.pictures[NEAREST].array())
        else:
            st.text(f"{r.attack}\n{scores}\nThis record holds no images.")


def _row(name: str, note: str, images: NDArray[np.uint8]) -> None:
    st.text(f"{name}\n{note}")
    if max(images.shape[:3]) > LARGEST or images.shape[3] not in (1, 3):
        st.text(f"Images of shape {images.shape} can't be drawn.")
        return
    # The alternative text holds a number, not the entry's name: names are text that others wrote.
    st.image(figures.strip(images), width="stretch", output_format="PNG", alt=f"{len(images)} images, one a class")


def _table(protocol: str, mine: Sequence[Result]) -> None:
    metrics = [m for m in TASK_METRICS[TASK] if any(m in r.metrics for r in mine)]
    table = pd.DataFrame([
        {"attack": r.attack, "defense": r.defense, "seed": r.seed, "status": r.status}
        | {m: r.metrics.get(m) for m in metrics}
        | {"null_row": r.null_row, "reason": r.reason}
        for r in mine
    ])  # fmt: skip
    config = {
        "attack": st.column_config.TextColumn("Attack", pinned=True),
        "status": st.column_config.TextColumn("Status"),
        **{m: number(m) for m in metrics},
        "null_row": st.column_config.CheckboxColumn("Null row", help="It uses nothing of the target"),
        "reason": st.column_config.TextColumn("Reason", width="large"),
    }
    st.dataframe(
        table, hide_index=True, width="stretch", height="content", column_order=list(config), column_config=config,
        placeholder="–", key="inversions", alt="Metrics of the inversion attacks",
    )  # fmt: skip
    file = f"{protocol}-reconstructions.csv"
    st.download_button("CSV", as_csv(table), file, "text/csv", icon=":material/download:")
