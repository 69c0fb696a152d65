"""Measuring, against scikit-learn and torchmetrics, with and without the cache."""

from __future__ import annotations

import pytest
import sklearn.metrics
import torch
import torchmetrics

from stakes.api import evaluate
from stakes.data.forget import ForgetSplit
from stakes.errors import ConfigError, DataError, NumericalError
from stakes.evaluator import Evaluator
from stakes.metrics.accuracy import accuracy, predict
from tinydigits import digits_model, known, sets


@pytest.fixture
def split() -> ForgetSplit:
    train, test = sets()
    return ForgetSplit(
        forget=train.subset(range(20)), test=test.subset(range(90)), retain=train.subset(range(20, 220))
    )


def worse(seed: int = 0):
    """A model with errors of its own."""
    model = digits_model().clone()
    with torch.no_grad():
        model.head.weight += (
            torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.3
        )
    return model


def test_accuracy_agrees_with_others(split):
    model = worse()
    figures = Evaluator(batch=32).figures(model, split, "measure")
    for name in ("test", "retain", "forget"):
        images = getattr(split, name)
        predicted = model(images.batch(slice(None))).argmax(1)
        value = getattr(figures, f"{name}_accuracy")
        assert value == pytest.approx(100 * sklearn.metrics.accuracy_score(images.labels, predicted))
        metric = torchmetrics.classification.MulticlassAccuracy(num_classes=10, average="micro")
        assert value == pytest.approx(100 * float(metric(predicted, images.labels)), rel=1e-6)
        assert getattr(figures, f"{name}_images") == len(images)
        assert 0 < value < 100


def test_the_size_of_a_batch_does_not_matter(split):
    model = worse()
    assert (
        len({Evaluator(batch=size).figures(model, split, "x").model_dump_json() for size in (7, 64, 999)})
        == 1
    )


def test_what_is_absent_is_none(split):
    figures = Evaluator().figures(digits_model(), ForgetSplit(forget=split.forget), "x")
    assert figures.test_accuracy is None
    assert figures.retain_accuracy is None
    assert (figures.test_images, figures.retain_images) == (0, 0)
    empty = ForgetSplit(forget=split.forget, retain=split.retain.subset([]), test=split.test.subset([]))
    assert Evaluator().figures(digits_model(), empty, "x") == figures


def test_passes_are_counted_and_progress_reaches_the_end(split):
    told = []
    evaluator = Evaluator(batch=50, progress=lambda phase, done, total: told.append((phase, done, total)))
    evaluator.figures(digits_model(), split, "measure")
    assert evaluator.meter.phases["measure"].forward == 310
    assert evaluator.meter.phases["measure"].backward == 0
    assert told[0] == ("measure", 0, 310)
    assert told[-1] == ("measure", 310, 310)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_the_retain_sample_is_seeded_and_counted(split):
    model = worse()
    figures = [Evaluator(seed=seed, retain_sample=31).figures(model, split, "x") for seed in (0, 0, 1, 2, 3)]
    assert figures[0] == figures[1]
    assert {f.retain_images for f in figures} == {31}
    assert len({f.retain_accuracy for f in figures}) > 1
    whole = Evaluator().figures(model, split, "x")
    assert Evaluator(retain_sample=200).figures(model, split, "x") == whole
    assert Evaluator(retain_sample=5000).figures(model, split, "x") == whole


def test_the_cache_gives_the_same_without_passes(split, tmp_path):
    model = worse()

    def measure(which=model, images=split, cached=True):
        evaluator = Evaluator(batch=64, cache=tmp_path)
        figures = evaluator.figures(which, images, "x", cached=cached)
        return figures, evaluator.meter.phases["x"].forward

    plain, passes = measure(cached=False)
    assert passes == 310
    assert not list(tmp_path.iterdir())
    assert measure() == (plain, 310)
    assert measure() == (plain, 0)
    assert measure(cached=False) == (plain, 310)
    grown = ForgetSplit(forget=sets()[0].subset(range(15, 25)), retain=sets()[0].subset(range(200, 230)))
    assert measure(images=grown)[1] == 10, "only the images not seen yet"
    assert measure(worse(1))[1] == 310, "another model"
    shifted = worse()
    shifted.mean += 0.01
    assert measure(shifted)[1] == 310, "another normalisation"
    rewired = worse()
    rewired.body.add_module("more", torch.nn.Identity())
    assert rewired.fingerprint() == model.fingerprint()
    assert measure(rewired)[1] == 310, "another layer without weights"


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw[:-3] + b"\x07\x07\x07", lambda _: b""]
)
def test_a_damaged_cache_is_measured_again(split, tmp_path, damage):
    model = worse()
    whole = Evaluator(cache=tmp_path).figures(model, split, "x", cached=True)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    evaluator = Evaluator(cache=tmp_path)
    assert evaluator.figures(model, split, "x", cached=True) == whole
    assert evaluator.meter.phases["x"].forward == 310


def test_mode_is_restored_and_evaluation_mode_used():
    model = digits_model().clone().train()
    images = known().subset(range(30))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(predict(model, images), images.labels)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_nan_is_not_a_misclassification():
    model = digits_model().clone()
    model.head.bias[4] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        predict(model, known().subset(range(3)))


def test_accuracy_is_in_percent():
    assert accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0])) == 75.0


def test_public_evaluate(split, tmp_path):
    model = worse().train()
    wanted = Evaluator().figures(model.clone(), split, "x")
    assert evaluate(model, split) == wanted
    assert evaluate(model, split, cache=tmp_path, eval_batch=10) == wanted
    assert model.training
    sampled = evaluate(model, split, retain_sample=10, seed=2)
    assert sampled.retain_images == 10


def test_public_evaluate_takes_any_network(split):
    network = digits_model().to_network()
    plain = evaluate(network, split)  # takes normalised images, and nothing says how: pixels as they are
    assert plain.forget_images == 20


def test_public_evaluate_refuses(split):
    with pytest.raises(ConfigError, match="eval_bach"):
        evaluate(digits_model(), split, eval_bach=3)
    other = ForgetSplit(forget=split.forget.with_size((1, 10, 10)))
    with pytest.raises(DataError, match=r"image size.*\(1, 8, 8\)"):
        evaluate(digits_model(), other)
    named = ForgetSplit(forget=split.forget.for_classes(tuple("9876543210")))
    with pytest.raises(DataError, match="class names"):
        evaluate(digits_model(), named)
