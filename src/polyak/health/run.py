"""Why a run does not learn: ranked plain sentences with numbers, and the setting to change."""

import numpy as np

from polyak.health.behaviour import SOFT
from polyak.health.case import Case, gather
from polyak.health.finding import LEVELS, Finding, Report
from polyak.health.symptoms import HARD
from polyak.runs.run import Run


def doctor(run: Run) -> Report:
    """All that may keep a run from learning, the likeliest cause first; nothing where it learned."""
    case = gather(run)
    learned = case.judged and case.learned
    found = [each for symptom in HARD for each in symptom(case)]
    if not learned and case.players == 1:
        found += [each for symptom in SOFT for each in symptom(case)]
    found.sort(key=lambda each: (LEVELS.index(each[1].level), -each[0]))
    first: dict[str, Finding] = {}
    for _, finding in found:
        first.setdefault(finding.name, finding)
    findings = list(first.values())
    if case.judged and not learned and not findings:
        findings = [unexplained(case)]
    findings += [Finding("note", "unseen", said) for said in case.unseen]
    return Report(str(run.path), findings, facts(case, learned))


def unexplained(case: Case) -> Finding:
    """What can be said where nothing is found."""
    says = (
        "it is no better than chance, and nothing in its settings, its log, its policy or its "
        "environment explains that"
    )
    return Finding(
        "note", "unexplained", says, "train longer, try other seeds, or an algorithm of another family"
    )


def facts(case: Case, learned: bool) -> dict[str, str]:
    """How far the run is, what it earns, and what chance earns."""
    plan = case.plan
    made = f"{case.done:,} of {plan.steps:,} steps, {case.updates:,} updates"
    made = f"{case.updates:,} of {plan.updates:,} updates" if plan.updates else made
    if case.run.reached is not None:
        made += f", where its evaluation reached --stop-at {plan.stop_at:g}"
    said = {"run": f"{plan.algorithm} on {plan.env}, {made}"}
    found = case.returns[np.isfinite(case.returns)]
    if len(found):
        said["returns"] = f"first {found[0]:.4g}, best {found.max():.4g}, last {found[-1]:.4g}"
    if case.random is not None:
        cut = "" if all(case.random.ended) else " (cut)"
        said["chance"] = f"{case.random.returns.mean():.4g} on average{cut}"
    warned = [each.name for each in case.report.findings if each.level != "note"] if case.report else []
    if learned and warned:
        said["environment"] = f"{', '.join(warned)}: see polyak check-env {plan.env}"
    said["verdict"] = "it learns" if learned else "it does not learn, or not well"
    if not case.judged:
        said["verdict"] = "not known: there is nothing to hold its returns against"
    return said
