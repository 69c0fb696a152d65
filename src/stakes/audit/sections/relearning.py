"""Section: how fast the forget set comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stakes.audit.drawing import INK, save_svg
from stakes.audit.evidence import Evidence
from stakes.audit.outputs import log_probability
from stakes.audit.relearning import Relearned, relearn
from stakes.data.images import ImageSet
from stakes.models.classifier import Classifier
from stakes.report.section import Cell, Figure, Section, Table
from stakes.runtime import generator

GOALS = (50, 90, 100)


@dataclass(frozen=True)
class _Course:
    """One fine-tuning and the set whose return it watched."""

    title: str
    ink: str
    line: str
    watched: str
    found: Relearned
    images: int


def relearning(evidence: Evidence) -> Section:
    """Fine-tune on the forget images, on what was never seen, and on retained images alone."""
    forget = evidence.sample(evidence.split.forget, evidence.settings.relearning.images, "relearning")
    courses = [_forget(evidence, evidence.after, forget, "unlearned model, forget images", "after", "-")]
    hard = _misclassified(evidence, len(forget))
    if evidence.retrained:
        never = evidence.retrained[0].classifier
        courses.append(
            _forget(evidence, never, forget, "model that never saw them, forget images", "other", "--")
        )
    elif hard is not None:
        courses.append(
            _forget(
                evidence, evidence.after, hard, "unlearned model, unseen misclassified images", "other", "--"
            )
        )
    retained = _from_retained(evidence, forget, hard)
    return _section(evidence, forget, courses, retained)


def _forget(
    evidence: Evidence, model: Classifier, images: ImageSet, title: str, ink: str, line: str
) -> _Course:
    settings = evidence.settings.relearning
    found = relearn(
        model,
        images,
        {"forget": images},
        lr=settings.lr,
        batch=settings.batch,
        max_steps=settings.max_steps,
        generator=generator("relearning", evidence.seed),
        device=evidence.device,
        until="forget",
        on_step=lambda step: evidence.progress("relearning", step, settings.max_steps),
    )
    evidence.meter.count(forward=found.forward, backward=found.backward)
    return _Course(title, ink, line, "forget", found, len(images))


def _misclassified(evidence: Evidence, most: int) -> ImageSet | None:
    """Unseen images that the unlearned model gets wrong, as it does the forgotten ones."""
    if evidence.split.test is None:
        return None
    unseen = evidence.sample(evidence.split.test, evidence.settings.relearning.search, "relearning unseen")
    logits = evidence.logits(evidence.after, unseen)
    wrong = (logits.argmax(1) != unseen.labels).nonzero().flatten()
    if len(wrong) == 0:
        return None
    wrong = wrong[evidence.drawn(len(wrong), most, "relearning misclassified")]
    return unseen.subset(wrong)


def _from_retained(evidence: Evidence, forget: ImageSet, hard: ImageSet | None) -> list[_Course]:
    """Does the forget set come back though none of its images is shown?"""
    settings, retain = evidence.settings.relearning, evidence.split.retain
    if retain is None:
        return []
    watch = {"forget": forget} | ({"unseen": hard} if hard is not None else {})
    found = relearn(
        evidence.after,
        retain,
        watch,
        lr=settings.lr,
        batch=settings.retain_batch,
        max_steps=settings.retain_steps,
        generator=generator("relearning retained", evidence.seed),
        device=evidence.device,
        on_step=lambda step: evidence.progress("relearning, retained", step, settings.retain_steps),
    )
    evidence.meter.count(forward=found.forward, backward=found.backward)
    titles = {
        "forget": ("retained images only: forget images", "before", "-"),
        "unseen": ("retained images only: unseen misclassified images", "soft", ":"),
    }
    return [
        _Course(*titles[name][:1], *titles[name][1:], name, found, len(images))
        for name, images in watch.items()
    ]


def _section(
    evidence: Evidence, forget: ImageSet, courses: list[_Course], retained: list[_Course]
) -> Section:
    figure = save_svg(
        evidence.folder / "relearning.svg", lambda axis: _draw(axis, [*courses, *retained]), size=(7, 3.6)
    )
    settings = evidence.settings.relearning
    return Section(
        name="relearning",
        title="Relearning: how fast the forgotten images come back",
        sentence=_sentence(evidence, courses, retained),
        limit=_limit(evidence, courses, retained) + evidence.on_trust(),
        numbers=_numbers(courses, retained) | _losses(evidence, forget),
        tables=(_table(courses, retained),),
        figures=(
            Figure(
                file=figure,
                alt="Curves: accuracy over the steps of fine-tuning, for forget images and for comparison",
                caption="Accuracy while the model is fine-tuned",
            ),
        ),
        settings={
            "learning rate (Adam)": settings.lr,
            "images a step": courses[0].found.batch,
            "most steps": settings.max_steps,
            "steps on retained images": settings.retain_steps if retained else None,
            "retained images a step": settings.retain_batch if retained else None,
            "seed": evidence.seed,
        }
        | evidence.cost("relearning"),
    )


def _sentence(evidence: Evidence, courses: list[_Course], retained: list[_Course]) -> str:
    sentence = (
        f"Shown again, the forget images take {_steps(evidence, courses[0], 90)} until 90 % are recognised"
    )
    if len(courses) > 1:
        whose = (
            "the model that never saw them takes"
            if evidence.retrained
            else f"{courses[1].images} unseen images that the model also gets wrong take"
        )
        sentence += f" ({whose} {_steps(evidence, courses[1], 90)})"
    if retained:
        values = retained[0].found.accuracy["forget"]
        sentence += (
            f"; {retained[0].found.steps[-1]} steps on retained images alone bring back {max(values):.1f} % "
            f"(from {values[0]:.1f} %)"
        )
        if len(retained) > 1:
            others = retained[1].found.accuracy["unseen"]
            sentence += f", and {max(others):.1f} % of the unseen ones"
    return sentence + "."


def _steps(evidence: Evidence, course: _Course, percent: int) -> str:
    step = course.found.steps_to(percent, course.watched)
    if step is None:
        return f"more than {evidence.settings.relearning.max_steps} steps"
    return "no step" if step == 0 else f"{step} step{'s' * (step > 1)} ({step * course.found.batch} examples)"


def _limit(evidence: Evidence, courses: list[_Course], retained: list[_Course]) -> str:
    parts = ["One learning rate and one seed; a faster attacker may exist."]
    if evidence.retrained:
        parts.append(
            "The retrained model recognises some of the images from the start, as any good model would."
        )
    elif len(courses) > 1:
        parts.append(
            "The unseen images are those the model gets wrong, so they are harder than most: the comparison makes "
            "relearning look faster than it is. A retrained model (--retrained) is the better measure."
        )
    else:
        parts.append(
            "Nothing to compare with: no retrained model, and no unseen images that the model gets wrong."
        )
    if not retained:
        parts.append("Relearning from retained images was left out: there is no retain data.")
    return " ".join(parts)


def _numbers(courses: list[_Course], retained: list[_Course]) -> dict[str, float | int | None]:
    numbers: dict[str, float | int | None] = {"images": courses[0].images}
    for name, course in zip(("forget", "comparison"), courses, strict=False):
        numbers[f"{name}_start_accuracy"] = round(course.found.accuracy["forget"][0], 4)
        for goal in GOALS:
            step = course.found.steps_to(goal, "forget")
            numbers[f"{name}_steps_to_{goal}"] = step
            numbers[f"{name}_examples_to_{goal}"] = None if step is None else step * course.found.batch
    for course in retained:
        values = course.found.accuracy[course.watched]
        numbers |= {
            f"retained_only_{course.watched}_start": round(values[0], 4),
            f"retained_only_{course.watched}_most": round(max(values), 4),
        }
    return numbers


def _losses(evidence: Evidence, forget: ImageSet) -> dict[str, float | int | None]:
    """How far the model is from the labels at the start: relearning from a high loss takes longer."""
    logits = evidence.logits(evidence.after, forget)
    return {"forget_start_loss": round(float(-log_probability(logits, forget.labels).mean()), 4)}


def _table(courses: list[_Course], retained: list[_Course]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for course in [*courses, *retained]:
        values = course.found.accuracy[course.watched]
        steps = [course.found.steps_to(goal, course.watched) for goal in GOALS]
        rows.append((course.title, course.images, round(values[0], 2), round(max(values), 2), *steps))
    return Table(
        caption=(
            f"Steps until 50, 90 and 100 % are recognised ({courses[0].found.batch} images a step"
            + (f", {retained[0].found.batch} where retained ones are shown" if retained else "")
            + "); unknown: not reached within these steps"
        ),
        columns=(
            "fine-tuned, watched",
            "images",
            "start (%)",
            "most (%)",
            *(f"to {goal} %" for goal in GOALS),
        ),
        rows=tuple(rows),
    )


def _draw(axis: Any, courses: list[_Course]) -> None:
    marks = iter("osv^D")
    for course in courses:
        axis.plot(
            course.found.steps,
            course.found.accuracy[course.watched],
            course.line,
            color=INK[course.ink],
            marker=next(marks),
            markersize=3,
            markevery=max(1, len(course.found.steps) // 20),
            label=course.title,
        )
    axis.set(xlabel="step", ylabel="recognised (%)", ylim=(-3, 103), xscale="symlog")
    axis.set_xlim(left=0)
    axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
