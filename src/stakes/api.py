"""The public calls: unlearn and evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from torch import Tensor, nn

from stakes.anchors.anchors import Anchors
from stakes.config import RunSettings, build
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.evaluator import Evaluator
from stakes.inputs import Images, as_classifier, as_method, as_split, refuse_mismatch
from stakes.methods import Method
from stakes.progress import Progress, silent
from stakes.records import Figures
from stakes.runtime import repeatable, resolve_device
from stakes.team_folder import run_folder
from stakes.unlearning import Unlearned, Unlearning


def default_cache() -> Path:
    """Where probes and predictions are kept when no other folder is named."""
    return Path(platformdirs.user_cache_dir("stakes", appauthor=False))


def unlearn(
    model: nn.Module,
    forget: Images | ForgetSplit,
    *,
    reference: nn.Module | None = None,
    anchors: Anchors | None = None,
    method: str | Method[Any] = "structguard",
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    test: Images | None = None,
    retain: Images | None = None,
    unlabelled: ImageSet | Tensor | None = None,
    class_names: Sequence[str] | None = None,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    request: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    **run: Any,
) -> Unlearned:
    """Make a classifier forget images and keep the rest.

    Args:
        model: any torch classifier, or a `Classifier`; never changed.
        forget: the forget set: an `ImageSet`, a pair of pixels (k, C, H, W) in [0, 1] and labels (k,), or a
            `ForgetSplit` that brings test and retain set along.
        reference: the model whose answers are to be kept, and which probes are made from; by default the model
            itself. For a model that forgot before, give the one from before that: what each unlearning breaks
            does not become the aim of the next. Same network and classes as the model; never changed.
        anchors: semantic anchors; where the method needs them and none are given they are built from the bundled
            attributes of the class names.
        method: a name, or a configured method.
        preset: a named group of settings of that method; with a configured method, its name for the record.
        settings: dotted overrides, for example ``{"probes.epsilon": 1.0}``.
        test, retain: images to measure on; never trained on, except ``retain`` by methods that say they need it.
        unlabelled: images from elsewhere, without labels, on which the model is to go on answering as it does: pixels
            (n, C, H, W) in [0, 1], or an `ImageSet` whose labels are not looked at. Traffic of the deployed model lets
            it keep far more than probes alone; images of another kind may do harm. Methods with probes take them among
            these, with the reference's answers as labels. Images to forget that are among them are left out, also
            saved or scaled anew; where they were cut or moved that is not noticed
            (`stakes.data.unlabelled.without_twins`). Where there is no test set, a fifth of them is kept apart, and
            the record says on how many of these the model answers as before.
        class_names: names of the classes where neither model nor images have them.
        out: a run folder to write, and to resume from after an interruption; None keeps everything in memory.
        cache: folder for probes and predictions.
        request: what was asked, for the record.
        progress: told how far the work is.
        run: fields of `RunSettings`: seed, device, precision and so on.

    Returns:
        Classifier, history and record. ``record.forgotten`` says whether it worked: an unlearning that reached its
        step limit returns too, and says no.

    Raises:
        StakesError: bad input, refused before work starts.
        KeyboardInterrupt: after the state was saved; the same call resumes.

    Note:
        "Forgotten" is misclassification of the exact images on the deployed path. It is no guarantee against
        membership attacks or relearning.

    Example:
        >>> result = unlearn(model, (pixels, labels), class_names=names)  # doctest: +SKIP
        >>> result.record.forget_accuracy  # doctest: +SKIP
        0.0
    """
    configured = as_method(method, preset, settings, "unlearn")
    work = Unlearning(
        method=configured,
        preset=preset or (None if isinstance(method, Method) else configured.default_preset),
        run=build(RunSettings, run),
        split=as_split(model, forget, test, retain, class_names, unlabelled),
        model=model,
        reference=reference,
        anchors=anchors,
        folder=run_folder(Path(out)) if out is not None else None,
        cache=Path(cache) if cache is not None else default_cache(),
        request=dict(request or {}),
        progress=progress,
    )
    return work.carry_out()


def evaluate(
    model: nn.Module,
    split: ForgetSplit,
    *,
    cache: str | Path | None = None,
    progress: Progress = silent,
    **run: Any,
) -> Figures:
    """Measure test, retain and forget accuracy of a classifier, as `unlearn` does for its record.

    Example:
        >>> evaluate(classifier, split).forget_accuracy  # doctest: +SKIP
        0.0
    """
    settings = build(RunSettings, run)
    device = resolve_device(settings.device)
    evaluator = Evaluator(
        settings.eval_batch,
        device,
        settings.seed,
        settings.retain_sample,
        Path(cache) if cache is not None else None,
        progress=progress,
    )
    # A copy: measuring must not move the user's model to another device.
    classifier = as_classifier(model, split.forget).clone()
    refuse_mismatch(classifier, split.forget)
    with repeatable(device):
        return evaluator.figures(classifier, split, "evaluate", cached=cache is not None)
