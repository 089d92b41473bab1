"""The data of an audit's report, as typed objects and as versioned JSON.

`Audit.model_json_schema()` is the schema that is published in the documentation. No record of the audited data is in here.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from benchmark.run.audit.canary_report import CanaryAudit
from benchmark.run.audit.parts import File
from benchmark.run.audit.parts import Part as _Part

SCHEMA = 1
"""The version of the JSON file's form: it grows when a field is renamed, removed or gets another meaning."""
State = Literal["leaks", "chance", "unclear"]
Way = Literal["predictions", "model", "recipe"]


class Verdict(_Part):
    """leaks: an attack tells members better than chance. chance: none does. unclear: they differ without the model, too."""

    state: State
    sentence: str
    more: str = Field(description="What the sentence does not say: what remains possible, or why it is unclear.")
    p: float = Field(
        description="How probable it is by chance alone that an attack stands out as far, over all attacks at once."
    )
    level: float = Field(description="The verdict is 'leaks' where p is at most this.")


class Numbers(_Part):
    """A value with its 95 % interval, and the central 99 % of what permuted memberships give."""

    value: float
    low: float
    high: float
    null_low: float
    null_high: float


class WorstCase(_Part):
    """The largest value of any attack with either sign. `low` is simultaneous over all of them."""

    value: float
    low: float
    high: float
    null: float = Field(description="What the worst case stays below by chance alone in 99 of 100 audits.")
    p: float = Field(description="How often chance alone gives as large a worst case.")
    attack: str
    reversed: bool = Field(description="Whether low scores mark members.")


class Attack(_Part):
    """An attack that ran."""

    name: str
    title: str
    reference: str
    calibrated: bool = Field(description="Whether it corrects for how hard a record is, by reference models.")
    learns: bool = Field(description="Whether it learns from known records; it is then scored on the others alone.")
    access: Literal["label", "posterior", "white-box"] = Field("posterior", description="What of the model it reads.")
    counts: bool = Field(True, description="Whether it counts for the verdict: whether what it reads is released.")
    queries: float = Field(1.0, description="Images that it asked about for each record that it scored.")
    members: int = Field(description="Members that it was measured on.")
    nonmembers: int
    metrics: dict[str, Numbers] = Field(
        description="By the name of the metric. One on a part of the images has an AUC alone."
    )
    fpr: list[float] = Field(description="Corners of the ROC curve, at most 100.")
    tpr: list[float]


class Left(_Part):
    """An attack that did not run."""

    name: str
    title: str
    reason: str


class Finding(_Part):
    """A check of the question: what was found, and what that does to the numbers or the verdict ("" for nothing)."""

    name: str
    state: Literal["ok", "warning", "broken", "not checked"]
    found: str
    effect: str


class Side(_Part):
    """Members, or non-members."""

    count: int
    accuracy: float = Field(description="Share of them that the model is right about, in [0, 1].")
    loss: float = Field(description="Median cross-entropy, nats.")


class Model(_Part):
    """What the answers show of the model; and of a model itself, what it is."""

    network: str = Field("", description="Name or file of the network; empty for an audit of answers.")
    parameters: int | None = Field(None, description="Parameters of the network; null where nobody can count them.")
    shape: list[int] = Field([], description="Channels, height and width of its images; empty for an audit of answers.")
    mean: list[float] = Field(
        [],
        description="What was subtracted from pixels in [0, 1], one a channel or one for all; empty where they went in as they are.",
    )
    std: list[float] = Field([], description="What pixels were divided by then.")
    isolated: bool = Field(False, description="Whether its code was foreign and ran in a sandbox.")
    classes: int
    form: str = Field(description="What was given: probabilities, log-probabilities or logits.")
    members: Side
    nonmembers: Side
    ece: float = Field(description="Expected calibration error on non-members, 10 bins.")
    references: int = Field(description="Reference models in the file.")


class Group(_Part):
    """A subgroup or a class: the AUC of the deciding attack within it, with its 95 % interval."""

    of: str = Field(description="What it is a subgroup of, such as site.")
    name: str
    members: int
    nonmembers: int
    auc: float
    low: float
    high: float


class Precision(_Part):
    """Of those called members at 1 % FPR, the share who are, also at the ends of the TPR's interval."""

    prior: float = Field(description="The share of members among all whom an attacker asks about.")
    value: float
    low: float
    high: float


class Risk(_Part):
    """Risk without an attack: a Jensen-Shannon distance, and the accuracy that a published line gives for it."""

    measure: str
    distance: float
    null: float = Field(description="95 % quantile of the distance under permuted membership.")
    attack: str = Field(description="The attack whose balanced accuracy the line predicts.")
    predicted: float
    error: float | None = Field(
        description="Root mean squared error of the line on this project's published boards; null where none is there."
    )
    rows: int = Field(description="Rows of those boards.")
    measured: float | None = Field(description="The largest balanced accuracy that was measured here.")


class Decision(_Part):
    """What a condition of the gate came to."""

    condition: str
    outcome: Literal["passes", "fails", "cannot tell"]
    reason: str


class Measured(_Part):
    """A value with its 95 % interval; null where the metric has none."""

    value: float
    low: float | None = None
    high: float | None = None


class Gain(_Part):
    """What an attack of another kind gains over a null: the difference of the kind's metric on the same records."""

    over: str = Field(description="The null: of those that read no more of the model, the one with the largest value.")
    value: float
    low: float = Field(description="95 %, simultaneous over the attacks of the kind (Bonferroni).")
    high: float


class OtherAttack(_Part):
    """An attack of another kind than membership, or its null: what uses nothing that the model has learnt."""

    name: str
    title: str
    reference: str
    null: bool
    access: Literal["label", "posterior", "white-box"]
    counts: bool = Field(description="Whether it counts for the sentence: whether what it reads is released.")
    queries: int = Field(description="Images that it asked the model about.")
    metrics: dict[str, Measured]
    gain: Gain | None = Field(None, description="Null for a null row, and where no null ran.")


class OtherKind(_Part):
    """A kind of attack besides membership, with the attacks that ran and those that did not."""

    kind: Literal["stealing", "attribute", "inversion"]
    sentence: str = Field(description="What was found, or why nothing was run.")
    metric: str = Field(description="The metric by which an attack is held against its null.")
    known: int = Field(0, description="Images, none of a member, that the attacks know.")
    scored: int = Field(0, description="Images, or classes for inversion, on which they are measured.")
    attacks: list[OtherAttack] = []
    left: list[Left] = []

    @property
    def counting(self) -> list[OtherAttack]:
        """The attacks that count and have a null, the one that gains most first."""
        return sorted((a for a in self.attacks if a.counts and a.gain), key=lambda a: -a.gain.value)  # type: ignore[union-attr]


class Without(_Part):
    """What the verdict and the worst cases would be by the attacks that need no reference models."""

    state: State
    p: float
    worst: dict[str, WorstCase]


class Recipe(_Part):
    """The recipe of the reference models, which were trained for this audit, and what they changed."""

    file: str = Field(description="Name of its file: the user's own, or the protocol's.")
    protocol: str = Field("", description="The protocol whose recipe it is; empty for a file of the user's own.")
    defense: str = Field("", description="The training defense that trained by it; empty for a file of the user's own.")
    settings: dict[str, str] = Field(
        {}, description="What a protocol's recipe says, network first; empty for a file of the user's own."
    )
    references: int = Field(
        description="Reference models, in pairs that were trained on a half of all records and on the other."
    )
    size: int = Field(description="Records that each of them was trained on.")
    seconds: float = Field(description="Seconds that all trainings took, those of earlier calls included.")
    trained: bool = Field(description="Whether the audited model was trained here, too, by the recipe on all members.")
    seen: float = Field(
        description="Accuracy of the reference models on the records that they were trained on, in [0, 1]."
    )
    unseen: float = Field(description="Their accuracy on the others.")
    without: Without | None = None


class Audit(_Part):
    """An audit of a model, by its answers or by itself."""

    form: int = Field(SCHEMA, description="The version of this form.")
    way: Way = "predictions"
    released: Literal["labels", "posteriors", "weights"] = Field(
        "posteriors", description="What others get of the model: attacks that read more do not count for the verdict."
    )
    title: str
    tool: str = Field(description="Leakboard's version.")
    when: str = Field(description="When it was made, ISO 8601, UTC.")
    command: str = Field(description="What makes it again; empty if it was made from Python.")
    seed: int
    files: list[File]
    verdict: Verdict
    model: Model
    checks: list[Finding]
    attacks: list[Attack]
    left: list[Left] = Field(description="Every other membership attack, and why it did not run.")
    worst: dict[str, WorstCase] = Field(description="By metric; a metric that the records don't resolve is absent.")
    band_fpr: list[float] = Field(description="False positive rates of the null band of a ROC curve.")
    band_high: list[float] = Field(
        description="TPRs that one attack stays below by chance in 99.5 of 100 cases, at each of them."
    )
    band_low: list[float]
    precision: list[Precision]
    groups: list[Group]
    class_spread: float | None = Field(description="Standard deviation over the classes of the AUC within a class.")
    class_spread_null: float | None = Field(
        description="95 % quantile of it where records are given to classes at random."
    )
    risks: list[Risk]
    exposed: int = Field(description="Records in the local file of the most exposed.")
    gate: list[Decision] = []
    recipe: Recipe | None = Field(None, description="Null where no reference models were trained.")
    canaries: CanaryAudit | None = Field(
        None,
        description="What planted canaries showed before (`leakboard audit canaries`); null where it was not given.",
    )
    others: list[OtherKind] = Field(
        [], description="Other kinds of attack than membership, by their nulls. The verdict does not look at them."
    )

    def as_json(self) -> str:
        """The audit as JSON: the same audit gives the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of the file."""
    return Audit.model_json_schema()
