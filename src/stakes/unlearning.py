"""One unlearning from the model that came to the model that was saved and measured, phase by phase."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stakes.anchors import build_anchors
from stakes.anchors.anchors import Anchors
from stakes.config import QUIET, RunSettings
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.errors import ConfigError, DataError, ModelError, OutputError
from stakes.evaluator import Evaluator, sampled
from stakes.files import digest_json
from stakes.held_to import HeldTo
from stakes.inputs import as_classifier, refuse_mismatch, refuse_other_network
from stakes.inverted_store import build_inverted
from stakes.joined_probes import JoinedProbes, Probes
from stakes.layer_statistics import keeps_statistics
from stakes.memory import fewer_images, free, out_of_memory
from stakes.meter import Meter
from stakes.methods import Job, Method, NoStore, carry_out
from stakes.methods.base import Outcome, Row
from stakes.methods.milestones import Milestones
from stakes.models.checkpoint import load_checkpoint, save_checkpoint
from stakes.models.classifier import Classifier
from stakes.models.wiring import wiring
from stakes.notes import notes
from stakes.probe_store import ProbeSet, ProbeStore
from stakes.processes import check_precision, current, spread
from stakes.progress import Progress
from stakes.records import Figures, Hashes, Phase, Record, Unlabelled
from stakes.runs import RunFolder
from stakes.runtime import device_name, repeatable, resolve_device, versions

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unlearned:
    """What an unlearning gives.

    Attributes:
        classifier: an `nn.Module` to deploy, ``logits = classifier(pixels)`` with pixels in [0, 1]; the very module
            that ``record.after`` was measured on.
        history: one row of losses a step.
        record: figures, settings, hashes and costs.
    """

    classifier: Classifier
    history: list[dict[str, float]]
    record: Record


@dataclass
class Unlearning:
    """One call of `unlearn`, phase by phase; each attribute is that argument, made sure of."""

    method: Method[Any]
    preset: str | None
    run: RunSettings
    split: ForgetSplit
    model: nn.Module
    reference: nn.Module | None
    anchors: Anchors | None
    folder: RunFolder | None
    cache: Path
    request: dict[str, Any]
    progress: Progress

    def carry_out(self) -> Unlearned:
        """All phases, or what a finished run of the same request gave."""
        if self.run.milestones and self.folder is None:
            raise ConfigError("milestones", expected="out=, a run folder to keep them in", got="none")
        self.method = self.method.for_images(
            len(self.split.forget),
            batchnorm=keeps_statistics(self.model),
            unlabelled=self.split.unlabelled is not None,
        )
        self.device = resolve_device(self.run.device)
        with repeatable(self.device):
            return self._carry_out()

    def _carry_out(self) -> Unlearned:
        check_precision(self.run.precision)
        self.original = as_classifier(self.model, self.split.forget).clone().eval().to(self.device)
        self.original.requires_grad_(False)
        refuse_mismatch(self.original, self.split.forget)
        self.kept = self._kept()
        self.held_to = HeldTo.of(self.split, self.method, self.run)
        if "retain" in self.method.needs and self.split.retain is None:
            raise DataError(
                f"method {self.method.name}",
                expected="the retain set, which this method trains on",
                got="none",
                fix="Give the training data, or choose a method that works without, such as structguard.",
            )
        self.split = self._looked_at()
        if "anchors" in self.method.needs:
            self.anchors = current().from_main(self._own_anchors)
        self.meter = Meter()
        if self.folder is None:
            return self._fresh()
        identity = current().from_main(self._identity)
        if (finished := self.folder.claim(identity)) is not None:
            return self._again(self.folder, finished)
        with self.folder.alone():
            # Another process may have been quicker.
            if (finished := self.folder.claim(identity)) is not None:
                return self._again(self.folder, finished)
            return self._resumable(self.folder)

    def _looked_at(self) -> ForgetSplit:
        """The split without retained images that the run never looks at: hashing them would decode them all."""
        if self.split.retain is None or "retain" in self.method.needs:
            return self.split
        retain = sampled(self.split.retain, self.run.retain_sample, self.run.seed)
        return dataclasses.replace(self.split, retain=retain)

    def _kept(self) -> Classifier:
        """The classifier whose answers are to be kept."""
        if self.reference is None:
            return self.original
        kept = as_classifier(self.reference, self.split.forget).clone().eval().to(self.device)
        refuse_other_network(self.original, kept)
        return kept.requires_grad_(False)

    def _own_anchors(self) -> Anchors:
        anchors = self.anchors or build_anchors(self.original.class_names)
        return anchors.for_classes(self.original.class_names)

    def _again(self, folder: RunFolder, finished: Record) -> Unlearned:
        """What a finished run gave."""
        self._keep_anchors(folder)
        return Unlearned(self._read_back(), folder.history(), finished)

    def _resumable(self, folder: RunFolder) -> Unlearned:
        """Work in a folder that is ours; what it costs is kept, and added to what earlier calls have cost."""
        self._keep_anchors(folder)
        self.meter.add(folder.costs())
        try:
            return self._fresh()
        except BaseException:
            with contextlib.suppress(OutputError):  # what went wrong matters more
                self._keep_costs()
            raise

    def _keep_costs(self) -> None:
        if self.folder is not None:
            self.folder.keep_costs(self.meter.totals())

    def _keep_anchors(self, folder: RunFolder) -> None:
        # Also those that the method has no use for: analyses look from them.
        if self.anchors is not None:
            folder.keep_anchors(self.anchors)

    def _fresh(self) -> Unlearned:
        evaluator = Evaluator(
            self.run.eval_batch,
            self.device,
            self.run.seed,
            self.run.retain_sample,
            self.cache,
            self.meter,
            self.progress,
        )
        before = evaluator.figures(self.original, self.split, "evaluate before", cached=True)
        self._keep_costs()
        probes = self._probes() if "probes" in self.method.needs else None
        self._keep_costs()
        history: list[dict[str, float]] = []
        outcome = self._unlearn(probes, history)
        deployed = self._saved(outcome.classifier)
        after = evaluator.figures(deployed, self.split, "evaluate after")
        used = self._held_to(evaluator, deployed)
        record = current().from_main(lambda: self._record(before, after, outcome, probes, deployed, used))
        if self.folder:
            history = self.folder.history()
            self.folder.finish(record)
        return Unlearned(deployed, history, record)

    def _identity(self) -> dict[str, Any]:
        """What makes two calls the same request."""
        more = {"reference": name} if (name := self._reference_fingerprint()) else {}
        if self.held_to is not None:
            more["unlabelled"] = self.held_to.fingerprint()
        if self.original.architecture is None:  # the user's own: its config does not say what it computes
            more["wiring"] = wiring(self.original.body)
        return {
            "method": self.method.name,
            "preset": self.preset,
            "settings": self.method.settings.model_dump(mode="json"),
            "run": self.run.model_dump(mode="json", exclude=QUIET),
            "request": self.request,
            "hashes": {
                "model": self.original.fingerprint(),
                # Names in order and normalisation: the same weights may stand for another classifier.
                "model_config": digest_json(self.original.config),
                "forget_set": self.split.forget.fingerprint(),
                "test_set": _fingerprint(self.split.test),
                "retain_set": _fingerprint(self.split.retain),
                "anchors": self._anchors_fingerprint(),
                **more,
            },
        }

    def _used_anchors(self) -> Anchors | None:
        return self.anchors if "anchors" in self.method.needs else None

    def _anchors_fingerprint(self) -> str | None:
        return used.fingerprint() if (used := self._used_anchors()) is not None else None

    def _reference_fingerprint(self) -> str | None:
        return None if self.reference is None else self.kept.fingerprint()

    def _probes(self) -> Probes:
        """The probe set, and the unlabelled images with it where there are some."""
        if (held := self.held_to) is None:
            return self._made_probes()
        count = len(held.images)
        # First, since it tells whether they are of use.
        with self.meter.phase("unlabelled"), spread():
            self.meter.count(forward=count)
            answers = held.ask(
                self.kept,
                batch=self.run.eval_batch,
                device=self.device,
                on_batch=lambda done: self.progress("unlabelled", done, count),
            )
        if held.unlike:
            current().only_main(lambda: _LOG.warning(held.unlike))
        return JoinedProbes(self._made_probes(), held.images, answers)

    def _made_probes(self) -> ProbeSet:
        settings = self.method.settings.probes
        common: dict[str, Any] = {
            "seed": self.run.seed,
            "device": self.device,
            "precision": self.run.precision,
            "progress": self.progress,
            "on_pass": lambda images: self.meter.count(forward=images, backward=images),
        }
        with self.meter.phase("probes"):
            if settings.kind == "inverted":
                return build_inverted(self.cache, self.kept, self.split.forget, settings, **common)
            store = ProbeStore(self.cache)
            return store.build(self.kept, self.split.forget, settings, chunk=self.run.probe_chunk, **common)

    def _unlearn(self, probes: Probes | None, history: list[dict[str, float]]) -> Outcome:
        """Carry the method out; where a step does not fit into memory, from the last state on with less of it."""
        most: int | None = None
        while True:
            try:
                return self._steps(probes, history, most)
            except (RuntimeError, MemoryError) as error:
                # Of many processes one alone cannot take a step again: the others are in the midst of it.
                if not out_of_memory(error) or current().count > 1:
                    raise
                most = fewer_images(self.method.settings, self.original, most, error)
            free()

    def _steps(self, probes: Probes | None, history: list[dict[str, float]], most: int | None) -> Outcome:
        model = self.original.clone()
        model.requires_grad_(True)
        needs = self.method.needs
        job = Job(
            original=self.kept,
            model=model,
            forget=self.split.forget,
            settings=self.method.settings,
            seed=self.run.seed,
            device=self.device,
            precision=self.run.precision,
            probes=probes,
            anchors=self.anchors if "anchors" in needs else None,
            retain=self.split.retain if "retain" in needs else None,
            meter=self.meter,
            store=_CostlyStore(self.folder, self.meter) if self.folder else NoStore(),
            most_images=most,
            start=self.original,
        )
        history[:] = [row for row in history if row["step"] <= job.step]
        if self.folder:
            self.folder.rewind_history(job.step)
        milestones = None
        if self.folder and self.run.milestones:
            self.folder.rewind_snapshots(job.step)
            milestones = Milestones(self.folder.keep_snapshot)

        def keep(row: Row) -> None:
            history.append(row)
            if self.folder:
                self.folder.append_history(row)

        with self.meter.phase("unlearn"), self.meter.watching(model.body), spread():
            return carry_out(
                self.method,
                job,
                eval_batch=self.run.eval_batch,
                measure_every=self.run.measure_every,
                checkpoint_seconds=self.run.checkpoint_seconds,
                milestones=milestones,
                progress=self.progress,
                on_row=keep,
            )

    def _saved(self, classifier: Classifier) -> Classifier:
        """The classifier as a user will get it: read back from disk where there is a folder."""
        classifier = classifier.clone().eval().requires_grad_(False)
        if self.folder is None:
            return classifier
        folder = self.folder.path
        current().only_main(lambda: save_checkpoint(classifier, folder))
        return self._read_back()

    def _read_back(self) -> Classifier:
        """The classifier of the run folder."""
        if self.folder is None:
            raise ModelError("the run has no folder to read from")
        # A network of the user's own class cannot be rebuilt from its config; its weights are read back all the same.
        factory = self._empty_network if self.original.architecture is None else None
        return load_checkpoint(self.folder.path, factory=factory).to(self.device)

    def _empty_network(self) -> nn.Module:
        bare = self.original.clone()
        bare.projector = None
        return bare.to_network()

    def _record(
        self,
        before: Figures,
        after: Figures,
        outcome: Outcome,
        probes: Probes | None,
        deployed: Classifier,
        unlabelled: Unlabelled | None,
    ) -> Record:
        split = self.split
        right = before.forget_accuracy * before.forget_images / 100
        return Record(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            method=self.method.name,
            preset=self.preset,
            settings=self.method.settings.model_dump(mode="json"),
            run=self.run.model_dump(mode="json"),
            request=self.request,
            seed=self.run.seed,
            before=before,
            after=after,
            forgotten=after.forget_accuracy == 0.0,
            steps=outcome.steps,
            stop_reason=outcome.stop_reason,
            already_misclassified=before.forget_images - round(right),
            phases=tuple(
                Phase(
                    name=name,
                    seconds=round(cost.seconds, 3),
                    forward_images=cost.forward,
                    backward_images=cost.backward,
                )
                for name, cost in self.meter.phases.items()
            ),
            hashes=Hashes(
                model_before=self.original.fingerprint(),
                model_after=deployed.fingerprint(),
                forget_set=split.forget.fingerprint(),
                test_set=_fingerprint(split.test),
                retain_set=_fingerprint(split.retain),
                anchors=self._anchors_fingerprint(),
                anchors_text=used.text_fingerprint() if (used := self._used_anchors()) is not None else None,
                probes=probes.fingerprint() if probes is not None else None,
                reference=self._reference_fingerprint(),
            ),
            unlabelled=unlabelled,
            versions=versions(),
            device=device_name(self.device),
            notes=notes(
                split,
                self.held_to,
                {"test": before.test_accuracy, "retain": before.retain_accuracy},
                without_statistics=probes is not None
                and self.method.settings.probes.kind == "inverted"
                and not keeps_statistics(self.original),
            ),
        )

    def _held_to(self, evaluator: Evaluator, deployed: Classifier) -> Unlabelled | None:
        """What the record says of unlabelled images, the saved model's answers on those kept apart among it."""
        if (held := self.held_to) is None:
            return None
        return held.told(
            evaluator.agreement(self.kept, deployed, held.apart, "agreement") if held.apart else None
        )


@dataclass(frozen=True)
class _CostlyStore:
    """The state of a run folder, and with each state what it took to get there."""

    folder: RunFolder
    meter: Meter

    def load(self) -> dict[str, Any] | None:
        return self.folder.load()

    def save(self, state: Mapping[str, Any]) -> None:
        self.folder.save(state)
        self.folder.keep_costs(self.meter.totals())

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.folder.remember(name, make)


def _fingerprint(images: ImageSet | None) -> str | None:
    return images.fingerprint() if images is not None else None
