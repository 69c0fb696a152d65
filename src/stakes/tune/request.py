"""Settings chosen for one request, on that request itself: no other image, and no plan to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from stakes import api
from stakes.anchors.anchors import Anchors
from stakes.config import QUIET, RunSettings, build
from stakes.data.forget import ForgetSplit
from stakes.errors import ConfigError
from stakes.files import private_folder
from stakes.inputs import as_classifier, as_method, refuse_mismatch
from stakes.locks import alone
from stakes.methods import Method
from stakes.models.classifier import Classifier
from stakes.processes import current
from stakes.progress import Progress, silent
from stakes.records import Record
from stakes.report.formatting import changed_from
from stakes.runs import SEARCH, SEARCH_LOCK
from stakes.runtime import repeatable, resolve_device, versions
from stakes.tune.judge import Judge
from stakes.tune.plan import own_space, start_of, told_space
from stakes.tune.record import Searched, TuneRecord
from stakes.tune.sampling import suggest
from stakes.tune.trials import ready, trial_of

TRIALS = 8


@dataclass(frozen=True)
class Tuned:
    """What a search of one request found.

    Attributes:
        record: all trials, as in ``tune.json``.
        method: the method with the settings to take, to give to `stakes.unlearn`.
        changed: whether they are others than those it started from.
    """

    record: TuneRecord
    method: Method[Any]
    changed: bool

    @property
    def searched(self) -> Searched:
        """The one row of the record."""
        return self.record.rows[self.method.name]


def tune_request(
    model: nn.Module,
    split: ForgetSplit,
    *,
    out: str | Path,
    method: str | Method[Any] = "structguard",
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    trials: int = TRIALS,
    reference: nn.Module | None = None,
    anchors: Anchors | None = None,
    cache: str | Path | None = None,
    progress: Progress = silent,
    **run: Any,
) -> Tuned:
    """Try settings of a method on a request, and choose those that keep the most of the model.

    Searched is what the method names (`Method.search`), or else its learning rate, from a tenth of the one that it
    starts from to ten times; what it starts from is the first trial. A trial unlearns the forget set in memory and is
    judged as those of `stakes.tune.engine.run_tune` are: forget accuracy, and agreement with the original model on
    validation probes. The highest agreement among the settings that forgot every image wins, the earliest of equals.
    No test image is opened, and no retained one unless the method trains on them.

    Args:
        model: any torch classifier, or a `Classifier`; never changed.
        split: the request.
        out: folder for ``tune.json``, written after each trial; the same call goes on where it was. The folder of the
            run that is to follow is a good one.
        trials: settings to try, at least 2. Each takes as long as an unlearning.
        reference: the classifier whose answers are to be kept, as for `stakes.unlearn`.
        anchors: as for `stakes.unlearn`.
        cache: folder for probes; the one of `stakes.unlearn` where left out.
        run: fields of `RunSettings`: seed, device, precision and so on.

    Raises:
        ConfigError: settings that do not go together, or more than one process.
        MissingExtraError: Optuna is not installed.
        RunFolderError: ``out`` holds another search, another process works there, or no trial worked.
        KeyboardInterrupt: interrupted; finished trials are kept.

    Source:
        ours; the sampler is that of Bergstra et al. (`stakes.tune.sampling.suggest`). Assumes that who answers
        validation probes as before answers real images as before. Not guaranteed: that, nor that copies of the
        forgotten images stay forgotten.

    Example:
        >>> tuned = tune_request(classifier, split, out="runs/first")  # doctest: +SKIP
        >>> unlearn(classifier, split, method=tuned.method, out="runs/first")  # doctest: +SKIP
    """
    started = as_method(method, preset, settings, "a search")
    _refuse(trials)
    classifier, folder = as_classifier(model, split.forget), Path(out)
    refuse_mismatch(classifier, split.forget)
    if not (folder / SEARCH).is_file():
        suggest(own_space(started), (), 0)  # says what is missing while there is nothing in the folder
    search = _Search(
        model=classifier,
        split=replace(split, test=None, retain=split.retain if "retain" in started.needs else None),
        method=started,
        preset=preset,
        run=build(RunSettings, run),
        reference=as_classifier(reference, split.forget) if reference is not None else None,
        anchors=anchors,
        cache=Path(cache) if cache is not None else api.default_cache(),
        trials=trials,
    )
    private_folder(folder)
    with alone(folder / SEARCH_LOCK, what=f"{folder}", fix="Wait for that search, or choose another --out."):
        record = search.carry_out(folder / SEARCH, progress)
    best = record.chosen(started.name, preset)
    start = start_of(started.settings, own_space(started))
    chosen = {name: best[name] for name in start}
    found = type(started)(started.settings.with_overrides(chosen))
    return Tuned(record, found, changed=chosen != start)


def _refuse(trials: int) -> None:
    if trials < 2:
        raise ConfigError("trials of a search", expected="2 or more", got=str(trials))
    if (processes := current().count) > 1:
        raise ConfigError(
            "a search",
            expected="one process",
            got=f"{processes}",
            fix="Search with one process, and give what it chose to the run with --set.",
        )


@dataclass
class _Search:
    """A search of one request; each attribute is that argument, made sure of."""

    model: Classifier
    split: ForgetSplit
    method: Method[Any]
    preset: str | None
    run: RunSettings
    reference: Classifier | None
    anchors: Anchors | None
    cache: Path
    trials: int

    def carry_out(self, path: Path, progress: Progress) -> TuneRecord:
        """All trials that are missing in the record on disk."""
        row, space = self.method.name, own_space(self.method)
        fresh = self._empty()
        record = TuneRecord.load(path) if path.is_file() else fresh
        record.refuse_other(fresh, path.parent)
        progress("trials", len(record.rows[row].trials), self.trials)
        while (done := len(tried := record.rows[row].trials)) < self.trials:
            wanted = (
                suggest(space, tried, self.run.seed, row) if done else start_of(self.method.settings, space)
            )
            record = record.with_trial(row, trial_of(wanted, self._carried_out(wanted)))
            record.save(path)
            progress("trials", done + 1, self.trials)
        return record

    def _empty(self) -> TuneRecord:
        settings = self.method.settings.model_dump(mode="json")
        plan = {
            "method": self.method.name,
            "preset": self.preset,
            "settings": settings,
            "run": self.run.model_dump(mode="json", exclude=QUIET),
        }
        hashes = {"model": self.model.fingerprint(), "forget_set": self.split.forget.fingerprint()}
        if self.reference is not None:
            hashes["reference"] = self.reference.fingerprint()
        if self.anchors is not None and "anchors" in self.method.needs:
            hashes["anchors"] = self.anchors.fingerprint()
        for name in ("unlabelled", "retain"):
            if (images := getattr(self.split, name)) is not None:
                hashes[f"{name}_set"] = images.fingerprint()
        row = Searched(
            method=self.method.name,
            preset=self.preset,
            settings=self._changes(),
            space=told_space(own_space(self.method)),
        )
        return TuneRecord(
            plan=plan, hashes=hashes, trials=self.trials, rows={self.method.name: row}, versions=versions()
        )

    def _changes(self) -> dict[str, Any]:
        """Settings that the search starts from, where they are not those of the preset."""
        kind = type(self.method)
        preset = self.preset if self.preset in kind.presets else None
        start = kind.configure(preset).settings.model_dump(mode="json")
        return changed_from(start, self.method.settings.model_dump(mode="json"))

    @cached_property
    def _judge(self) -> Judge:
        device = resolve_device(self.run.device)
        with repeatable(device):
            return Judge(
                ready(self.reference or self.model, device),
                self.split.forget,
                seed=self.run.seed,
                cache=self.cache,
                device=device,
                precision=self.run.precision,
                batch=self.run.eval_batch,
            )

    def _carried_out(self, wanted: Mapping[str, Any]) -> Iterator[tuple[Record, float]]:
        """The request, with these settings; first of all it refuses what does not go together."""
        with repeatable(resolve_device(self.run.device)):
            found = api.unlearn(
                self.model,
                self.split,
                reference=self.reference,
                anchors=self.anchors,
                method=type(self.method)(self.method.settings.with_overrides(wanted)),
                preset=self.preset,
                cache=self.cache,
                **self.run.model_dump() | {"milestones": False},
            )
            agreement = self._judge.agreement(found.classifier)
        yield found.record, agreement
