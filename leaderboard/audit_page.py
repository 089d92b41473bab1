"""The report of an audit as one HTML file, made from its data. Pure functions: no files, no clock.

The page needs no server, no script and no network: its policy allows inline style and nothing else. Thirteen sections, the
verdict first; one that this audit cannot fill says why. All texts that others wrote pass `html.escape`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from benchmark.metrics import METRICS
from benchmark.run.audit.canary_report import CanaryAudit, down
from benchmark.run.audit.report import Attack, Audit, Group, Measured, Model, Numbers, OtherKind, Recipe, Without
from benchmark.text import plain
from leaderboard.forest import Axis, axis
from leaderboard.page import POLICY, STYLE
from leaderboard.texts import breaking

STATES = {"leaks": "Leaks", "chance": "No leak found", "unclear": "Unclear"}
CHECKS = {"ok": "ok", "warning": "warning", "broken": "broken", "not checked": "not checked"}
CURVES = 4
"""Attacks in the plot of ROC curves at most."""
_PERCENT = ("tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "balanced_accuracy")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 460.0, 400.0, 52.0, 44.0, 10.0, 24.0


def as_html(audit: Audit, exposed: str = "") -> str:
    """The report. exposed: the name of the local file of the most exposed records, "" without one."""
    title = f"Leakboard audit: {plain(audit.title, 120)}"
    sections = [
        _verdict(audit), _model(audit), _data(audit), _released(audit), _threats(audit), _attacks(audit), _results(audit),
        _canaries(audit),
        _groups(audit, exposed),
        _privacy(audit),
        _others(audit),
        _mitigations(audit), _limits(audit),
    ]  # fmt: skip
    return _document(title, sections)


def canaries_as_html(audit: CanaryAudit) -> str:
    """The report of an audit by planted canaries: verdict, bounds with what each rests on, and how it was done."""
    v = audit.verdict
    colour = {"refuted": "leaks", "not refuted": "unclear", "shown": "unclear"}[v.state]  # nothing here clears a model
    facts = {
        "Claimed": "no epsilon" if audit.claimed is None else f"epsilon {audit.claimed:g}, delta {audit.delta:g}",
        "Canaries": f"{audit.canaries:,} ({audit.kind}), {audit.included:,} of them in the training data",
        "Guesses": f"{audit.guesses:,}, fixed when the canaries were planted: the half with the highest scores in, as many with the lowest out",
        "Right": f"{audit.right:,} ({audit.right / audit.guesses:.1%})",
        "Score": "log-odds of the planted label, which sort as the losses do",
        **({} if audit.p is None else {"If the claim is true": f"so many right guesses have a probability of {audit.p:.2g} at most, for any mechanism; a Gaussian curve allows less"}),
        **{f"File {f.name}": f"{f.bytes:,} bytes, SHA-256 {f.sha256}" for f in audit.files},
        "Secret": f"digest {audit.secret}",
        "Made": f"{audit.when}, by Leakboard {audit.tool}",
    }  # fmt: skip
    command = f'<pre tabindex="0">{escape(audit.command)}</pre>' if audit.command else ""
    sections = [
        f'<section class="au-verdict au-{colour}" aria-label="Verdict">\n<p class="au-state">{escape(v.state.capitalize())}</p>\n'
        f'<p class="au-lead">{_whole(v.sentence)}</p>\n<p>{_whole(v.more)}</p>\n</section>',
        _heading(1, "Epsilon that is shown"),
        _bounds(audit),
        _heading(2, "Under a Gaussian curve"),
        _text(f"The largest mu of Gaussian differential privacy that the guesses refute is {down(audit.mu)}, which stands for these epsilons:"),
        _table("Epsilon by delta", ("Delta", "Epsilon at least"), [(f"{d:g}", down(e)) for d, e in audit.curve]),
        _heading(3, "How it was done"), _facts(facts), command,
        _heading(4, "What remains"),
        "<ul><li>A lower bound is no guarantee: the true epsilon may be far larger, for better attacks and canaries find more.</li>"
        "<li>This is evidence, not compliance.</li></ul>",
    ]  # fmt: skip
    return _document(f"Leakboard audit: {plain(audit.title, 120)}", sections)


def _bounds(audit: CanaryAudit) -> str:
    """The lower bounds on epsilon beside the claim, and what they rest on."""
    rows = [
        (escape(b.name), f"{audit.claimed:g}" if b.judges and audit.claimed is not None else "–", f"<b>{down(b.epsilon)}</b>", f"{b.delta:g}", down(b.most), f"{escape(b.assumes)}<br><small>{escape(b.source)}</small>")
        for b in audit.bounds
    ]  # fmt: skip
    return "\n".join([
        _table(f"Lower bounds, each at {100 * audit.confidence:g} % confidence", ("Epsilon", "Claimed", "Shown", "Delta", "At most", "What it assumes"), rows),
        _text(f"All of them rest on this: {audit.assumes[:1].lower()}{audit.assumes[1:]}"),
        _text("At most: what the bound would be if the model gave all canaries away. A claim above it cannot be refuted by so many guesses."),
    ])  # fmt: skip


def _document(title: str, sections: Iterable[str]) -> str:
    body = "\n".join([f"<h1>{escape(title)}</h1>", *sections])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}\n{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _itself(audit: Audit, model: str, answers: str) -> str:
    """What is said of an audit of a model itself, or of one of answers: those of a file, or of a model that was trained for it."""
    return model if _has_model(audit) else answers


def _has_model(audit: Audit) -> bool:
    return bool(audit.model.network)


# --- Parts ------------------------------------------------------------------------------------------


def _heading(number: int, text: str) -> str:
    return f'<h2 id="s{number}">{number} {escape(text)}</h2>'


def _text(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _whole(text: str) -> str:
    """A text as HTML whose numbers keep their percent signs on the line."""
    return escape(text).replace(" %", "&nbsp;%")


def _absent(number: int, title: str, why: str) -> str:
    return f'{_heading(number, title)}\n<p class="au-absent"><b>Not filled.</b> {escape(why)}</p>'


def _facts(facts: Mapping[str, str]) -> str:
    lines = "\n".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in facts.items())
    return f"<dl>\n{lines}\n</dl>"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML cells; the first of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    lines = [f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>' for first, *rest in rows]
    body = "\n".join(lines)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _number(metric: str, value: float) -> str:
    base = metric.removesuffix("_reversed")
    if base not in _PERCENT:
        return f"{value:.3f}"
    return f"{value:.2%}" if base == "tpr_at_fpr_0.001" else f"{value:.1%}"


def _between(metric: str, low: float, high: float) -> str:
    return f"{_number(metric, low).removesuffix('%')} – {_number(metric, high)}"


# --- Sections ---------------------------------------------------------------------------------------


def _verdict(audit: Audit) -> str:
    v = audit.verdict
    gate = ""
    if audit.gate:
        rows = [(escape(g.condition), f"<b>{escape(g.outcome)}</b>", escape(g.reason)) for g in audit.gate]
        gate = _table("Gate", ("Fail if", "Outcome", "Why"), rows)
    warned = [c for c in audit.checks if c.state == "warning"]  # a broken one is in the verdict itself
    warnings = "".join(f"<li><b>{escape(c.name)}.</b> {escape(c.found)} {escape(c.effect)}</li>" for c in warned)
    files = {
        f"File {f.name}" if len(audit.files) > 1 else "File": f"{f.name}, {f.bytes:,} bytes, SHA-256 {f.sha256}"
        for f in audit.files
    }
    facts = {
        "Scope": "Membership inference by "
        + _itself(audit, "asking the model and by reading its weights", "the model's answers, one to each record")
        + ". Section 13 says what this leaves out.",
        "Made": f"{audit.when}, by Leakboard {audit.tool}", **files,
    }  # fmt: skip
    return (
        f'<section class="au-verdict au-{v.state}" aria-label="Verdict">\n<p class="au-state">{escape(STATES[v.state])}</p>\n'
        f'<p class="au-lead">{_whole(v.sentence)}</p>\n<p>{_whole(v.more)}</p>\n'
        + (f"<p>Read it with these warnings:</p><ul>{warnings}</ul>\n" if warned else "")
        + f"</section>\n{gate}\n{_heading(1, 'Verdict and scope')}\n{_facts(facts)}\n"
        + _text(
            f"Chance: one test over all attacks, both signs of their scores, and the metrics that the records resolve gives p = {v.p:.3g}; "
            f"the model is said to leak from p = {v.level:g} down, so that chance alone is called a leak in at most one audit of {1 / v.level:.0f}."
        )
    )


def _model(audit: Audit) -> str:
    m = audit.model
    rows = [
        (name, f"{s.count:,}", f"{s.accuracy:.1%}", f"{s.loss:.3g}")
        for name, s in (("Members", m.members), ("Non-members", m.nonmembers))
    ]
    gap = m.members.accuracy - m.nonmembers.accuracy
    told = {}
    if _has_model(audit):
        told = {
            "Network": m.network, "Parameters": f"{m.parameters:,}" if m.parameters else "not known",
            "Images": " x ".join(map(str, m.shape)) + " (channels, height, width)", "Normalisation": _normalisation(m),
            "Where it ran": "in a sandbox, for its code is foreign" if m.isolated else "in the audit's process: its weights are data",
        }  # fmt: skip
    if audit.recipe:
        told |= _recipe(audit.recipe)
    return "\n".join([
        _heading(2, "Model"), *([_facts(told)] if told else []), _table("What the answers show", ("", "Records", "Accuracy", "Median loss (nats)"), rows),
        _text(f"{m.classes:,} classes. The accuracies differ by {100 * gap:.1f} points. Expected calibration error on non-members: {m.ece:.3f}."),
        _not_told(audit.recipe)
        if audit.recipe
        else _itself(
            audit, '<p class="au-absent"><b>Not told:</b> recipe, pretraining. Weights do not hold them.</p>',
            '<p class="au-absent"><b>Not told:</b> network, number of parameters, recipe, pretraining. A file of answers does not hold them.</p>',
        ),
    ])  # fmt: skip


def _normalisation(model: Model) -> str:
    if not model.mean:
        return "none was asked for: pixels in [0, 1] went in as they are, and what the network does to them is its own"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (model.mean, model.std))
    return f"pixels in [0, 1] less {mean}, divided by {std}"


def _recipe(recipe: Recipe) -> dict[str, str]:
    """What is told of the recipe and of the reference models."""
    made = "trained for this audit by the recipe, on all members" if recipe.trained else "given by its weights"
    how = {"Recipe": recipe.file}
    if recipe.protocol:
        settings = ", ".join(f"{name} {value}" for name, value in recipe.settings.items())
        how = {"Recipe": f"that of the protocol {recipe.protocol}: {settings}", "Training defense": recipe.defense}
    return {
        "The audited model was": made,
        **how,
        "Reference models": f"{recipe.references}, in pairs: each on a random half of all records ({recipe.size:,}) and on the other",
        "Their training took": f"{_clock(recipe.seconds)} in sum",
        "Their accuracy": f"{recipe.seen:.1%} on records that they were trained on, {recipe.unseen:.1%} on the others",
    }


def _not_told(recipe: Recipe) -> str:
    what = "whether the audited model was trained by it too" if recipe.protocol else "what the recipe does. It is code; the file and its digest are above"  # fmt: skip
    return "" if recipe.protocol and recipe.trained else f'<p class="au-absent"><b>Not told:</b> {what}.</p>'


def _clock(seconds: float) -> str:
    """A time in words: seconds, minutes or hours."""
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} seconds"


def _data(audit: Audit) -> str:
    rows = [
        (escape(c.name), f'<span class="au-mark au-is-{c.state.split()[0]}">{escape(CHECKS[c.state])}</span>', f"{escape(c.found)} {escape(c.effect)}")
        for c in audit.checks
    ]  # fmt: skip
    return "\n".join([
        _heading(3, "Data, and checks of the question"),
        _text("An attack measures leakage only if members and non-members differ in nothing but that the model was trained on the first."),
        _table("Checks", ("Check", "State", "What was found, and what it means"), rows),
        '<p class="au-absent"><b>Not told:</b> where the data comes from, and whether it is personal.</p>',
    ])  # fmt: skip


_GETS = {
    "labels": "labels alone: attacks that read labels count for the verdict.",
    "posteriors": "answers with their probabilities: attacks that read them count for the verdict.",
    "weights": "the weights: all attacks count for the verdict.",
}


def _released(audit: Audit) -> str:
    if _has_model(audit):
        more = [a for a in audit.attacks if not a.counts]
        beyond = ""
        if more:
            strongest = max(more, key=lambda a: max(a.metrics["auc"].value, 1 - a.metrics["auc"].value))
            auc = strongest.metrics["auc"]
            beyond = (
                f" {len(more)} attacks read more than that, and were run to show what a wider release would give away; the strongest, "
                f"{strongest.name}, has an AUC of {auc.value:.3f} (95 %: {auc.low:.3f} to {auc.high:.3f})."
            )
        return "\n".join([
            _heading(4, "What is released"),
            _text(
                f"By what the audit was told, others get {_GETS[audit.released]}{beyond} A limit on the rate of queries helps against attacks "
                "that ask often; section 6 says how often each asks."
            ),
        ])  # fmt: skip
    references = ""
    if audit.model.references:
        there = "For calibration there are" if audit.recipe else "The file also has"
        references = f" {there} the answers of {audit.model.references} reference models."
    return "\n".join([
        _heading(4, "What is released"),
        _text(
            f"What was audited are answers of {audit.model.classes:,} {audit.model.form}, one to each record.{references} Whoever gets less, such as "
            "labels alone, finds less by these attacks; whoever gets the weights may find more. A limit on the rate of queries does not help: "
            "these attacks ask once a record."
        ),
    ])  # fmt: skip


def _threats(audit: Audit) -> str:
    ran = {kind.kind for kind in audit.others if kind.attacks}
    absent = {False: "not measured: it needs the model", True: "not measured: section 11 says why"}[bool(audit.others)]
    others = (
        ("Data reconstruction", "inversion"),
        ("Attribute inference", "attribute"),
        ("Model extraction", "stealing"),
    )
    rows = [
        ("Membership inference", _itself(audit, "measured, by asking the model and by reading it", "measured, from answers alone")),
        *((attack, "measured, against its nulls (section 11)" if kind in ran else absent) for attack, kind in others),
        ("Property inference", "not measured: this audit has no attack of it"),
    ]  # fmt: skip
    adversary = _itself(
        audit, "The adversary asks for answers to the records and to images made from them, or reads the network, and knows the label.",
        "The adversary asks for one answer a record, and knows the label.",
    )  # fmt: skip
    return "\n".join([
        _heading(5, "Threat model"),
        _text(f"Privacy attacks by the terms of NIST AI 100-2. {adversary}"),
        _table("Attacks on privacy", ("Attack", "Here"), rows),
    ])  # fmt: skip


def _attacks(audit: Audit) -> str:
    itself = _has_model(audit)
    heads = (
        "Attack",
        "Calibrated",
        "Learns",
        "Members + non-members",
        *(("Reads", "Asks", "Counts") if itself else ()),
    )
    rows = [
        (
            f"{breaking(a.name)}<br><small>{escape(_source(a.reference))}</small>",
            "yes" if a.calibrated else "no", "yes" if a.learns else "no", f"{a.members:,} + {a.nonmembers:,}",
            *((a.access, f"{a.queries:,.0f}", "yes" if a.counts else "no") if itself else ()),
        )
        for a in audit.attacks
    ]  # fmt: skip
    parts = [
        _heading(6, "Attacks"),
        _text(
            "A calibrated attack corrects for how hard a record is, and finds more at low false positive rates; one that is not takes an easy "
            "record for a member. An attack that learns is given a part of the records with their membership, drawn once, and is scored on the others."
        ),
        _table("Attacks that ran", heads, rows),
    ]
    if itself:
        parts.append(_text(
            "Asks: the images that an attack asks about, for each record. One that asks about many is measured on a part of the records, drawn "
                "with as many on each side. It has an AUC alone, and "
            "makes the worst case only where even the lower end of its interval lies above all that was measured on all records."
        ))  # fmt: skip
    if audit.model.references == 0:
        parts.append(
            _text(
                "No attack here is calibrated, for "
                + _itself(audit, "there are no reference models", "the file has no answers of reference models")
                + ": the true leak at low false positive rates may be several times as large."
            )
        )
    if audit.recipe and audit.recipe.without:
        parts.append(_changed(audit, audit.recipe, audit.recipe.without))
    if audit.left:
        by_reason: dict[str, list[str]] = {}
        for left in audit.left:
            by_reason.setdefault(left.reason, []).append(left.name)
        parts.append(_table("Attacks that did not run", ("Why", "Attacks"), [(escape(r), ", ".join(map(breaking, n))) for r, n in by_reason.items()]))  # fmt: skip
    return "\n".join(parts)


def _changed(audit: Audit, recipe: Recipe, without: Without) -> str:
    """What the reference models changed in the verdict and in the worst cases."""
    same = without.state == audit.verdict.state
    rows = [
        (escape(METRICS[metric].label), f"<b>{_number(metric, case.value)}</b><br><small>{breaking(case.attack)}</small>",
         f"{_number(metric, other.value)}<br><small>{breaking(other.attack)}</small>")
        for metric, case in audit.worst.items() if (other := without.worst.get(metric))
    ]  # fmt: skip
    return _text(
        f"By {recipe.references} reference models ({_clock(recipe.seconds)} of training) the verdict is "
        f"“{STATES[audit.verdict.state]}” (p = {audit.verdict.p:.3g}); without them it {'is the same' if same else f'would be “{STATES[without.state]}”'} "
        f"(p = {without.p:.3g})."
    ) + _table("The worst case with reference models and without", ("Metric", "With them", "Without"), rows)


def _source(reference: str) -> str:
    """The arXiv id of a card's reference, or the end of it, which says where it appeared."""
    found = re.search(r"arXiv:\d{4}\.\d{4,5}", reference)
    return found[0] if found else reference.rpartition(", ")[2][:60]


def _results(audit: Audit) -> str:
    rows = []
    for metric, case in audit.worst.items():
        sign = ", low scores" if case.reversed else ""
        rows.append((
            f"{escape(METRICS[metric].label)}<br><small>{breaking(case.attack)}{sign}</small>", f"<b>{_number(metric, case.value)}</b>",
            _between(metric, case.low, case.high), _number(metric, case.null), "&lt;&nbsp;0.003" if case.p < 0.003 else f"{case.p:.2g}",
        ))  # fmt: skip
    parts = [
        _heading(7, "Results"),
        _table(
            "The worst case over all attacks",
            ("Metric, and the attack", "Worst", "95 % interval", "Chance (99 %)", "p"),
            rows,
        ),
        _text(
            "The largest of many values is large by luck. So chance is the same maximum over all attacks under permuted memberships, and the lower "
            "end of an interval holds for all attacks at once; the upper end is the largest of theirs."
        ),
        _forest(audit, "tpr_at_fpr_0.01") if "tpr_at_fpr_0.01" in audit.worst else "",
        _forest(audit, "auc"),
        _roc(audit),
    ]
    if audit.precision:
        lines = [(f"{p.prior:.0%}", f"{p.value:.0%}", f"{100 * p.low:.0f} – {p.high:.0%}") for p in audit.precision]
        heads = ("Members among those asked about", "Of those called members, are members", "95 % interval")
        parts.append(_table("How sure an attacker is, at 1 % false alarms", heads, lines))
    if audit.risks:
        measured = []
        for r in audit.risks:
            error = f" ± {r.error:.1%}" if r.error is not None else ""
            measured.append((
                escape(r.measure), f"{r.distance:.3f}", f"{r.null:.3f}", f"{r.predicted:.1%}{error}<br><small>{breaking(r.attack)}</small>",
                f"{r.measured:.1%}" if r.measured is not None else "–",
            ))  # fmt: skip
        parts += [
            _table("Risk without an attack, beside what was measured", ("Distance", "Value", "Chance (95 %)", "Predicted accuracy", "Measured (worst)"), measured),
            _text(
                f"How far the answers to members lie from those to non-members, and what a line fitted to {audit.risks[0].rows} rows of published boards gives "
                "for it; ± is the line's error (root mean square) on data and networks that it has not seen."
            ),
        ]  # fmt: skip
    return "\n".join(filter(None, parts))


def _canaries(audit: Audit) -> str:
    title, found = "Canaries and a bound on epsilon", audit.canaries
    if found is None:
        why = _itself(audit, "A model that was trained without any gives none", "Answers alone give none")
        return _absent(8, title, (
            f"An empirical bound needs canaries, planted with probability one half each before the training. {why}. leakboard audit plant plants "
            "them, leakboard audit canaries shows the epsilon, and --canaries canaries-audit.json, of this command, puts it here."
        ))  # fmt: skip
    return "\n".join([
        _heading(8, title),
        _text(
            f"{found.canaries:,} canaries ({found.kind}) were planted, {found.included:,} of them into the training data; {found.right:,} of {found.guesses:,} "
            "guesses of who is in are right. That they were planted into this model, or into one that was trained alike, is the word of whoever audits."
        ),
        _bounds(found),
    ])  # fmt: skip


def _privacy(audit: Audit) -> str:
    """What differential privacy was claimed, and what was shown."""
    title, found = "Differential privacy", audit.canaries
    if found is None:
        holds = _itself(audit, "weights do", "answers do")
        return _absent(10, title, (
            f"No guarantee was named, and {holds} not hold one. Without a proof, this report says nothing about epsilon. A claimed epsilon is held "
            "against planted canaries: leakboard audit canaries --claimed-epsilon; section 8 then has what they show."
        ))  # fmt: skip
    claimed = "no epsilon" if found.claimed is None else f"epsilon {found.claimed:g}, delta {found.delta:g}, for adding or removing one record"  # fmt: skip
    return "\n".join([
        _heading(10, title),
        _facts({
            "Claimed": claimed, "Shown": found.verdict.sentence,
            "Gaussian differential privacy": f"mu is at least {down(found.mu)}, if the curve is Gaussian",
        }),
        f"<p>{_whole(found.verdict.more)}</p>",
        '<p class="au-absent"><b>Not told:</b> the proof: accountant, sampling, and what was tuned on the data. A lower bound is no guarantee.</p>',
    ])  # fmt: skip


def _groups(audit: Audit, exposed: str) -> str:
    parts = [_heading(9, "By class and subgroup")]
    if audit.groups:
        parts += [
            _group_forest(audit.groups),
            _text("The AUC of the deciding attack within each group of at least 50 members and 50 non-members, the largest first. Each interval stands for itself: of 20 groups one lies outside by chance."),
        ]  # fmt: skip
    else:
        parts.append(
            '<p class="au-absent"><b>Not filled.</b> No class and no subgroup has 50 members and 50 non-members.</p>'
        )
    if audit.class_spread is not None and audit.class_spread_null is not None:
        says = "more than" if audit.class_spread > audit.class_spread_null else "no more than"
        parts.append(
            _text(
                f"Over the classes the AUC spreads by {audit.class_spread:.3f} (standard deviation), {says} chance explains ({audit.class_spread_null:.3f})."
            )
        )
    if audit.exposed and exposed:
        parts.append(_text(
            f"The {audit.exposed:,} most exposed members, which score above 99 % of the non-members, are in the local file {exposed}; by chance "
            "alone one member in a hundred does. The file names records: keep it to yourself."
        ))  # fmt: skip
    return "\n".join(parts)


_KINDS = {"inversion": "Inversion", "attribute": "Attributes", "stealing": "Extraction"}
_OF_KINDS = {
    "stealing": "A copy is a small network of a fixed form, whatever the model's: an attacker who trains a larger one, on more images or "
    "for longer, gets a better copy.",
    "attribute": "An untrained network of the same layers shows what any network tells of an image. A majority and a label are guesses "
    "without the model: where an attribute goes with the class, whoever knows the class knows it.",
    "inversion": "What classifiers recognise need not look like a member: an image that depends on no membership is nearer to a member than to "
    "a non-member in half of the cases.",
}  # fmt: skip
"""What the numbers of a kind don't say."""


def _others(audit: Audit) -> str:
    """Each kind by its sentence, with the numbers of its attacks beside those of its nulls."""
    title = "Inversion, attributes, extraction"
    if not any(kind.attacks for kind in audit.others):
        why = " ".join(kind.sentence for kind in audit.others)
        return _absent(11, title, why or "These attacks ask the model about images of their own, or read its weights. Answers to the records allow neither.")  # fmt: skip
    parts = [
        _heading(11, title),
        _text(
            "A null uses nothing that the model has learnt. What an attack gains is its distance from the strongest null that reads no more than "
            "it does, on the same records; the intervals of the gains hold for all attacks of a kind at once. The verdict does not look at these kinds."
        ),
    ]  # fmt: skip
    for kind in sorted(audit.others, key=lambda k: list(_KINDS).index(k.kind)):
        if not kind.attacks:
            parts.append(f'<p class="au-absent"><b>{_KINDS[kind.kind]}: not filled.</b> {escape(kind.sentence)}</p>')
            continue
        parts += [f"<h3>{_KINDS[kind.kind]}</h3>", f"<p><b>{_whole(kind.sentence)}</b></p>", _kind_table(kind)]
        if kind.kind in _OF_KINDS:
            parts.append(_text(_OF_KINDS[kind.kind]))
        if kind.left:
            left = "; ".join(f"{x.name} ({x.reason})" for x in kind.left)
            parts.append(f"<p><small>Did not run: {escape(left)}.</small></p>")
    return "\n".join(parts)


def _kind_table(kind: OtherKind) -> str:
    metrics = [m for m in METRICS if METRICS[m].table == kind.kind and any(m in a.metrics for a in kind.attacks)]
    rows = []
    for a in kind.attacks:
        note = "null" if a.null else a.access + ("" if a.counts else ", not released")
        gain = f"<b>{100 * a.gain.value:+.1f}</b><br><small>{100 * a.gain.low:.1f} to {100 * a.gain.high:.1f}, over {breaking(a.gain.over)}</small>" if a.gain else "–"  # fmt: skip
        rows.append((
            f"{breaking(a.name)}<br><small>{escape(_source(a.reference))}</small>", note, f"{a.queries:,}",
            *(_with_interval(m, a.metrics.get(m)) for m in metrics), gain,
        ))  # fmt: skip
    what = "classes" if kind.kind == "inversion" else "images"
    caption = f"{_KINDS[kind.kind]}: known are {kind.known:,} images of no member; measured on {kind.scored:,} {what}"
    heads = ("Attack", "Reads", "Asks", *(METRICS[m].label for m in metrics), "Gain in points (95 %)")
    return _table(caption, heads, rows)


def _with_interval(metric: str, value: Measured | None) -> str:
    if value is None:
        return "–"
    shown = f"{value.value:.3f}" if metric.endswith(("_distance", "_mean")) else f"{value.value:.1%}"
    if value.low is None or value.high is None:
        return shown
    return f"{shown}<br><small>{value.low:.1%} – {value.high:.1%}</small>"


def _mitigations(audit: Audit) -> str:
    return "\n".join([
        _heading(12, "Mitigations"),
        f'<p class="au-absent"><b>Not measured on this model.</b> {_itself(audit, "It was not trained again", "Answers alone cannot be trained again")}. The published boards show what defenses cost in '
        "accuracy and what they leave of the leak, on other data: <code>leakboard board</code>.</p>",
        "<ul><li>Against overfitting: fewer epochs, weight decay, augmentation. They prove nothing.</li>"
        "<li>In training: DP-SGD alone gives a guarantee.</li>"
        "<li>Coarser answers, such as rounded ones or labels: attacks that read labels alone remain.</li></ul>",
    ])  # fmt: skip


def _limits(audit: Audit) -> str:
    command = f'<pre tabindex="0">{escape(audit.command)}</pre>' if audit.command else ""
    again = f"The same files and seed ({audit.seed}) give the same numbers" + (" by:" if audit.command else ".")
    return "\n".join([
        _heading(13, "What remains"),
        "<ul><li>No attack that was run is the strongest there can be: what was found is a lower bound.</li>"
        "<li>A record that is exposed may hide behind an average that looks harmless.</li>"
        "<li>The numbers hold for this model and these records. Audit again after every training, and when what is released changes.</li>"
        "<li>This is evidence, not compliance: no cut-off is agreed on.</li></ul>",
        _text(again), command,
    ])  # fmt: skip


# --- Plots ------------------------------------------------------------------------------------------


def _ticks(scale: Axis, percent: bool) -> str:
    decimals = max(0, -math.floor(math.log10((scale.high - scale.low) / scale.steps) + 1e-9) - (2 if percent else 0))
    names = [f"{v:.{decimals}%}" if percent else f"{v:.{decimals}f}" for v in scale.ticks()]
    return "".join(
        f'<span style="left:{scale.at(v):.2f}%">{n}</span>' for v, n in zip(scale.ticks(), names, strict=True)
    )


def _rows(label: str, scale: Axis, percent: bool, items: Iterable[tuple[str, str, Numbers | Group, bool]]) -> str:
    """A forest plot: a row for each of (name in HTML, value in HTML, numbers, whether it is above chance)."""
    lines = []
    for name, value, n, above in items:
        at = n.value if isinstance(n, Numbers) else n.auc
        null = ""
        if isinstance(n, Numbers):
            left = scale.at(n.null_low)
            null = f'<i class="au-null" style="left:{left:.2f}%;width:{scale.at(n.null_high) - left:.2f}%"></i>'
        bar = f'<i class="au-bar" style="left:{scale.at(n.low):.2f}%;width:{scale.at(n.high) - scale.at(n.low):.2f}%"></i>'
        dot = f'<i class="au-dot{"" if above else " au-hollow"}" style="left:{scale.at(at):.2f}%"></i>'
        lines.append(f'<li><span class="au-name">{name}</span><span class="au-plot" aria-hidden="true">{null}{bar}{dot}</span><span class="au-value">{value}</span></li>')  # fmt: skip
    head = f'<li class="au-axis" aria-hidden="true"><span class="au-name"></span><span class="au-plot">{_ticks(scale, percent)}</span><span class="au-value"></span></li>'
    return f'<figure class="au-forest" style="--au-steps:{scale.steps}"><figcaption>{escape(label)}</figcaption><ol>\n{head}\n' + "\n".join(lines) + "\n</ol></figure>"  # fmt: skip


def _forest(audit: Audit, metric: str) -> str:
    shown = [(a, a.metrics[metric]) for a in audit.attacks if metric in a.metrics]
    shown.sort(key=lambda pair: -pair[1].value)
    percent = metric in _PERCENT
    scale = axis([x for _, n in shown for x in (n.low, n.high, n.null_low, n.null_high)], 0.0 if percent else 0.5)
    items = [
        (
            breaking(a.name) + ("" if a.counts else " <small>not released</small>"),
            f"<b>{_number(metric, n.value)}</b> <small>({_between(metric, n.low, n.high)})</small>",
            n,
            n.value > n.null_high,
        )
        for a, n in shown
    ]
    label = f"{METRICS[metric].label}: dot and 95 % interval of each attack for itself; grey: what chance gives one attack (99 %). Hollow: within it."
    return _rows(label, scale, percent, items)


def _group_forest(groups: Sequence[Group]) -> str:
    scale = axis([x for g in groups for x in (g.low, g.high)], 0.5)
    items = [
        (f"{escape(g.of)} {breaking(g.name)} <small>{g.members:,} + {g.nonmembers:,}</small>",
         f"<b>{g.auc:.3f}</b> <small>({g.low:.3f} – {g.high:.3f})</small>", g, g.low > 0.5)
        for g in groups
    ]  # fmt: skip
    return _rows("AUC within a group: dot and 95 % interval. Hollow: the interval holds one half.", scale, False, items)


def _roc(audit: Audit) -> str:
    """ROC curves on log axes, with what chance gives one attack."""
    named = [c.attack for m, c in audit.worst.items() if not c.reversed and m != "balanced_accuracy"]
    by_auc = sorted(audit.attacks, key=lambda a: -a.metrics["auc"].value)
    names = list(dict.fromkeys([*named, *(a.name for a in by_auc if len({*a.fpr}) > 3)]))[:CURVES]
    attacks = [a for n in names for a in audit.attacks if a.name == n]
    least = 10.0 ** math.floor(math.log10(audit.band_fpr[0]) + 1e-9)
    lines = "".join(f'<polyline class="au-c{i}" points="{_points(_steps(a), least)}"/>' for i, a in enumerate(attacks))
    high = list(zip(audit.band_fpr, audit.band_high, strict=True))
    low = list(zip(audit.band_fpr, audit.band_low, strict=True))[::-1]
    band = f'<polygon class="au-band" points="{_points([*high, (1, 1), *low], least)}"/>'
    grid, decade = [], least
    while decade <= 1.0000001:
        x, y = _x(decade, least), _y(decade, least)
        name = f"{decade:.0%}" if decade >= 0.01 else f"{100 * decade:g}%"
        grid.append(
            f'<path class="au-grid" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        )
        grid.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{name}</text>')
        grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
        decade *= 10
    middle = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    titles = (
        f'<text x="{middle[0]}" y="{_HEIGHT - 8}" text-anchor="middle">False positive rate</text>'
        f'<text transform="translate(12 {middle[1]}) rotate(-90)" text-anchor="middle">Share of members found</text>'
    )
    legend = "".join(
        f'<li><svg viewBox="0 0 40 10" width="40" height="10" aria-hidden="true"><path class="au-c{i}" d="M0 5H40"/></svg> {breaking(a.name)}</li>'
        for i, a in enumerate(attacks)
    )
    text = "ROC curves on logarithmic axes. Grey: what chance gives one attack (99 %, at each rate for itself)."
    return (
        f'<figure class="au-roc"><figcaption>{escape(text)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="ROC curves of {len(attacks)} attacks; the numbers are in the tables">'
        f"{band}{''.join(grid)}{titles}{lines}</svg><ul>{legend}</ul></figure>"
    )


def _steps(attack: Attack) -> list[tuple[float, float]]:
    """The corners of a ROC curve joined by steps: between two of them no threshold has a larger TPR."""
    points: list[tuple[float, float]] = []
    for x, y in zip(attack.fpr, attack.tpr, strict=True):
        if points:
            points.append((x, points[-1][1]))
        points.append((x, y))
    return points


def _points(points: Iterable[tuple[float, float]], least: float) -> str:
    return " ".join(f"{_x(x, least):.1f},{_y(y, least):.1f}" for x, y in points)


def _x(value: float, least: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * _log(value, least)


def _y(value: float, least: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * _log(value, least)


def _log(value: float, least: float) -> float:
    """Where a rate lies between `least` and 1 on a logarithmic axis, in [0, 1]."""
    return 1 - math.log(max(value, least)) / math.log(least)


_STYLE = """
:root { --grey: #8a8f98; --blue: #0072b2; --red: #b3261e; --green: #1b6e3c; --amber: #8a5a00; --c0: #0072b2; --c1: #b84a00; --c2: #00795a; --c3: #a3478a; }
@media (prefers-color-scheme: dark) {
  :root { --blue: #56b4e9; --red: #ff8a80; --green: #6fce93; --amber: #f0b95a; --c0: #56b4e9; --c1: #f08a3c; --c2: #2fc79b; --c3: #e08cc4; } }
main { max-width: 64rem; }
h1 { font-size: 1.5rem; }
.au-verdict { border: 1px solid var(--line); border-left: .5rem solid var(--amber); padding: .3rem 1rem .5rem; margin: 1rem 0; }
.au-leaks { border-left-color: var(--red); }
.au-chance { border-left-color: var(--green); }
.au-state { margin: .4rem 0 0; font-weight: 700; color: var(--amber); }
.au-leaks .au-state { color: var(--red); }
.au-chance .au-state { color: var(--green); }
.au-lead { font-size: 1.2rem; font-weight: 600; line-height: 1.4; margin: .2rem 0 .6rem; }
.au-verdict ul, .au-verdict li { margin: .1rem 0; }
.au-mark { font-weight: 600; }
.au-is-warning { color: var(--amber); } .au-is-broken { color: var(--red); } .au-is-ok { color: var(--green); }
.au-absent { border-left: 3px solid var(--line); padding-left: .7rem; }
table { margin-top: .4rem; }
td, th { max-width: 30rem; }
th small, td small { white-space: normal; font-weight: 400; }
figure { margin: 1.2rem 0; }
figcaption { max-width: 60rem; font-size: .85rem; opacity: .9; margin-bottom: .3rem; }
.au-forest ol { list-style: none; margin: 0; padding: 0; font-size: .85rem; }
.au-forest li { display: grid; grid-template-columns: 15rem 1fr 12rem; column-gap: 1rem; align-items: center; border-top: 1px solid var(--line); }
.au-forest .au-name { overflow-wrap: anywhere; padding: .1rem 0; }
.au-value { font-variant-numeric: tabular-nums; }
small { font-size: .78rem; opacity: .85; white-space: nowrap; }
.au-plot { position: relative; min-height: 1.8rem; align-self: stretch; margin: 0 .8rem;
  background: linear-gradient(90deg, var(--line) 1px, transparent 1px) 0 0 / calc(100% / var(--au-steps)) 100%; border-right: 1px solid var(--line); }
.au-plot > * { position: absolute; }
.au-forest .au-axis { border: 0; }
.au-axis .au-plot { background: none; border: 0; min-height: 1.3rem; font-size: .75rem; }
.au-axis .au-plot > span { bottom: 0; transform: translateX(-50%); }
.au-null { top: 0; bottom: 0; background: color-mix(in srgb, var(--grey) 35%, transparent); }
.au-bar { top: calc(50% - 1.5px); height: 3px; background: var(--blue); }
.au-dot { top: 50%; width: .65rem; height: .65rem; box-sizing: border-box; border-radius: 50%; background: var(--blue); transform: translate(-50%, -50%); }
.au-dot.au-hollow { background: var(--back); border: 2.5px solid var(--blue); }
.au-roc svg { display: block; width: 100%; max-width: 34rem; height: auto; }
.au-roc ul { list-style: none; margin: .2rem 0; padding: 0; font-size: .85rem; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.au-roc li { overflow-wrap: anywhere; }
.au-roc li svg { display: inline; width: 2.5rem; vertical-align: middle; }
.au-roc text { font-size: 12px; fill: var(--text); }
.au-grid { stroke: var(--line); stroke-width: 1; fill: none; }
.au-band { fill: color-mix(in srgb, var(--grey) 35%, transparent); }
.au-c0, .au-c1, .au-c2, .au-c3 { fill: none; stroke-width: 2; stroke: var(--c0); }
.au-c1 { stroke: var(--c1); stroke-dasharray: 7 4; } .au-c2 { stroke: var(--c2); stroke-dasharray: 2 3; } .au-c3 { stroke: var(--c3); stroke-dasharray: 10 3 2 3; }
dd, code, pre { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; }
@media screen and (max-width: 44rem) {
  main { padding: .6rem .8rem 2rem; }
  .au-lead { font-size: 1.08rem; }
  .au-forest li { grid-template-columns: 1fr auto; }
  .au-forest .au-plot { grid-column: 1 / -1; grid-row: 2; }
  .au-forest .au-axis .au-name, .au-forest .au-axis .au-value { display: none; }
  .wide table { width: 100%; font-size: .78rem; } .wide td, .wide th, .wide tbody th { min-width: 0; padding-right: .5rem; overflow-wrap: break-word; hyphens: auto; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; } }
@media print {
  :root { color-scheme: light; --back: #fff; --text: #000; --line: #bbb; --blue: #0072b2; --red: #b3261e; --green: #1b6e3c; --amber: #8a5a00;
    --c0: #0072b2; --c1: #b84a00; --c2: #00795a; --c3: #a3478a; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; }
  h2 { break-after: avoid; margin-top: 1.2rem; } li, tr, .au-verdict, .au-roc { break-inside: avoid; }
  .wide { overflow: visible; } table { width: 100%; font-size: 8pt; } td, th { min-width: 0; }
  .au-forest li { grid-template-columns: 10rem 1fr 9rem; }
  .au-roc svg { max-width: 24rem; } }
""".strip()
