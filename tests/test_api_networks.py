"""Networks of the library's and of the user's own, references, and requests on what an earlier one gave."""

from __future__ import annotations

import pytest
import torch

from api_runs import SETTINGS, run
from stakes.data.forget import ForgetSplit
from stakes.errors import ModelError, RunFolderError
from stakes.inputs import as_classifier
from stakes.models import Classifier, load_checkpoint, save_checkpoint
from tinydigits import NAMES, SIZE, Small, digits_model, known, sets, split


def test_a_network_of_the_users_own_class(tmp_path):
    """Its class is in no registry: the folder gives the weights, the caller the class."""
    result = run(tmp_path / "cache", model=digits_model("small"), out=tmp_path / "run")
    assert result.record.steps > 0
    again = run(tmp_path / "cache", model=digits_model("small"), out=tmp_path / "run")
    read = load_checkpoint(tmp_path / "run", factory=Small)
    pixels = split().test.batch(slice(None))
    for other in (again.classifier, read):
        assert torch.equal(other(pixels), result.classifier(pixels))


def test_a_second_request_on_what_the_first_one_gave(tmp_path):
    through = SETTINGS | {"path": "projector"}
    first = run(tmp_path / "cache", model=digits_model("small"), settings=through)
    assert first.classifier.projector is not None
    more = ForgetSplit(forget=known().subset([5, 6]))
    second = run(tmp_path / "cache", model=first.classifier, forget=more, out=tmp_path / "run")
    read = load_checkpoint(tmp_path / "run", factory=Small)
    pixels = split().test.batch(slice(None))
    assert torch.equal(read(pixels), second.classifier(pixels))


def test_the_answers_of_a_reference_are_the_aim_of_a_model_that_forgot_before(unbroken, tmp_path):
    first = digits_model("resnet10")
    forgetful, second = unbroken[1].classifier, ForgetSplit(sets()[0].subset(range(40, 44)))
    own = run(tmp_path, model=forgetful, forget=second)
    held = run(tmp_path, model=forgetful, forget=second, reference=first, out=tmp_path / "held")
    assert held.record.hashes.model_before == own.record.hashes.model_before == forgetful.fingerprint()
    assert held.record.hashes.reference == first.fingerprint()
    assert own.record.hashes.reference is None
    fresh = run(tmp_path, model=first, forget=second)
    assert held.record.hashes.probes == fresh.record.hashes.probes != own.record.hashes.probes
    assert held.record.hashes.model_after not in (
        own.record.hashes.model_after,
        fresh.record.hashes.model_after,
    )
    with pytest.raises(RunFolderError, match="reference"):
        run(tmp_path, model=forgetful, forget=second, out=tmp_path / "held")


def test_the_model_itself_as_reference_changes_nothing(unbroken, tmp_path):
    again = run(tmp_path, reference=digits_model("resnet10"))
    assert again.record.hashes.model_after == unbroken[1].record.hashes.model_after


def test_another_network_as_reference_is_refused(tmp_path):
    with pytest.raises(ModelError, match="reference: expected the model's own network"):
        run(tmp_path, reference=digits_model("small"))
    shifted = digits_model("resnet10").clone()
    shifted.mean += 0.1
    with pytest.raises(ModelError, match="reference: expected the model's own network"):
        run(tmp_path, reference=shifted)


def test_a_changed_network_of_the_librarys_is_read_back_as_it_is(tmp_path):
    network = digits_model("resnet10").to_network()
    network.maxpool = torch.nn.AvgPool2d(3, stride=1, padding=1)
    model = Classifier.from_network(network, class_names=NAMES, input_size=SIZE)
    before = run(tmp_path, model=model, method="before", settings={}, out=tmp_path / "run")
    assert before.record.before == before.record.after
    # The same weights in the network that they came from are another request.
    other = Classifier.from_network(digits_model("resnet10").to_network(), class_names=NAMES, input_size=SIZE)
    assert other.fingerprint() == model.fingerprint()
    with pytest.raises(RunFolderError):
        run(tmp_path, model=other, method="before", settings={}, out=tmp_path / "run")


def test_a_network_of_the_users_own_class_from_a_checkpoint(tmp_path):
    save_checkpoint(digits_model("small"), tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model", factory=Small)
    result = run(tmp_path / "cache", model=loaded, out=tmp_path / "run")
    other = run(tmp_path / "cache", model=digits_model("small"), out=tmp_path / "other")
    assert result.record.digest() == other.record.digest()


def test_a_plain_module(tmp_path):
    network = digits_model("small").to_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = split().forget
    result = run(
        tmp_path, model=network, forget=(images.batch(slice(None)), images.labels), class_names=NAMES
    )
    assert result.classifier.class_names == NAMES
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(ModelError, match="input size"):
        as_classifier(network)
