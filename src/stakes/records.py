"""Frozen results: one JSON a run, read and written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from stakes.errors import RunFolderError
from stakes.files import digest_json, write_json

SCHEMA: Literal[1] = 1
LIKE = 0.1
"""The largest shift (`stakes.metrics.shift`) of images that are like those a model was trained on."""
UNLIKE = 0.2
"""The shift from which unlabelled images did little good, or harm (experiments/LOG.md)."""
_VOLATILE = ("created", "phases", "versions", "device", "analyses")


class Frozen(BaseModel):
    """The base of what is written as JSON and read back: fixed, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Figures(Frozen):
    """Accuracies of one classifier in percent, in [0, 100]; None where there were no images to measure on.

    The paper's tables print 100 − ``forget_accuracy``.
    """

    test_accuracy: float | None = None
    retain_accuracy: float | None = None
    forget_accuracy: float
    test_images: int = 0
    retain_images: int = 0
    forget_images: int


class Phase(Frozen):
    """Cost of one phase of a run."""

    name: str
    seconds: float
    forward_images: int
    backward_images: int


class Hashes(Frozen):
    """SHA-256 of what went in and what came out.

    ``retain_set`` is that of the retained images that the run looked at: those measured (``retain_sample``), or all of
    them where the method trained on them.
    """

    model_before: str
    model_after: str
    forget_set: str
    test_set: str | None = None
    retain_set: str | None = None
    anchors: str | None = None
    anchors_text: str | None = Field(
        None,
        description="descriptions and the encoder's weights, where an encoder made the anchors: what it gives differs "
        "in the last digits from machine to machine",
    )
    probes: str | None = None
    reference: str | None = Field(
        None, description="the model whose answers were to be kept, if not the one before"
    )


class Unlabelled(Frozen):
    """Images without labels on which the model was held to its answers.

    Attributes:
        images: how many were used.
        twins: how many were left out as copies of an image to forget.
        hash: SHA-256 of those that were used.
        apart: how many others were kept apart to measure on, where there is no test set.
        agreement: on how many of these the saved model answers as the one whose answers were to be kept, percent.
        shift: how far the channel means of those used are from the ones the model keeps, in standard deviations
            (`stakes.metrics.shift`); None where it keeps none.
    """

    images: int
    twins: int = 0
    hash: str
    apart: int = 0
    agreement: float | None = Field(None, ge=0, le=100)
    shift: float | None = Field(None, ge=0)

    @property
    def said(self) -> str:
        """How many, for people."""
        return f"{self.images:,} unlabelled image{'' if self.images == 1 else 's'}"

    @property
    def left_out(self) -> str:
        """What goes on the sentence that says how many; empty where no copy was among them."""
        return f"; {self.twins:,} left out as copies of images to forget" if self.twins else ""

    @property
    def likeness(self) -> str:
        """How like what the model was trained on they are, as a sentence; empty where it keeps no statistics."""
        if self.shift is None:
            return ""
        return (
            f"By the statistics that the model keeps they lie {self.shift:.2f} standard deviations from what it was "
            f"trained on; images of the same kind, at most {LIKE:g}."
        )

    @property
    def agrees(self) -> str:
        """What was measured on those kept apart, as a sentence; empty where there are none."""
        if self.agreement is None:
            return ""
        return (
            f"It answers as before on {self.agreement:.2f} % of {self.apart:,} unlabelled "
            f"image{'' if self.apart == 1 else 's'} kept apart."
        )


class Record(Frozen):
    """All there is to say about one unlearning.

    ``before`` and ``after`` are measured alike; ``after`` on the classifier read back from the saved file
    where the run has a folder. ``forgotten`` is the paper's criterion: every forget image misclassified by
    that classifier. It does not say that a membership attack fails.
    """

    schema_version: Literal[1] = SCHEMA
    created: str
    method: str
    preset: str | None = None
    settings: dict[str, Any]
    run: dict[str, Any]
    request: dict[str, Any] = {}
    seed: int
    before: Figures
    after: Figures
    forgotten: bool
    steps: int
    stop_reason: Literal["forgotten", "already forgotten", "step limit", "finished"]
    already_misclassified: int
    phases: tuple[Phase, ...]
    hashes: Hashes
    unlabelled: Unlabelled | None = None
    versions: dict[str, str]
    device: str
    notes: tuple[str, ...] = ()
    analyses: dict[str, dict[str, float | int | None]] = {}

    @model_serializer(mode="wrap")
    def _only_if_there(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Unlabelled images are told of only where there are some: other records keep their form and hash."""
        return {key: value for key, value in plain(self).items() if key != "unlabelled" or value}

    @property
    def test_accuracy(self) -> float | None:
        """Test accuracy after unlearning, percent."""
        return self.after.test_accuracy

    @property
    def retain_accuracy(self) -> float | None:
        """Retain accuracy after unlearning, percent."""
        return self.after.retain_accuracy

    @property
    def forget_accuracy(self) -> float:
        """Forget accuracy after unlearning, percent; 0 means forgotten."""
        return self.after.forget_accuracy

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        images = self.after.forget_images
        if self.forgotten and not self.steps and self.already_misclassified == images:
            of_them = f"all {images} images to forget were" if images != 1 else "the one image to forget was"
            return f"Nothing was unlearned: {of_them} misclassified by the model before already."
        if self.forgotten:
            all_of_them = (
                f"all {images} images to forget are" if images != 1 else "the one image to forget is"
            )
            return f"Forgotten: {all_of_them} misclassified by the saved model."
        left = round(self.after.forget_accuracy * images / 100)
        some = f"{left} of {images} images to forget {'is' if left == 1 else 'are'}"
        return (
            f"NOT forgotten: {some if images != 1 else 'the one image to forget is'} still recognised "
            f"after {self.steps} step{'' if self.steps == 1 else 's'} ({self.stop_reason})."
        )

    def digest(self) -> str:
        """SHA-256 of everything but clock times, versions, the device's name and later analyses."""
        data = self.model_dump(mode="json")
        return digest_json({key: value for key, value in data.items() if key not in _VOLATILE})

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RunFolderError: no such file, damaged, or of another schema.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunFolderError(
                f"no record at {path}",
                expected="the folder of a finished run",
                fix="If the run was interrupted, run the same command again: it resumes.",
            ) from None
        except (pydantic.ValidationError, OSError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else str(error)
            raise RunFolderError(
                f"record {path}",
                expected=f"a record of schema {SCHEMA}",
                got=first,
                fix="Was it edited by hand?",
            ) from None
