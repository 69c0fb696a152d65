"""The public calls end to end, on digits: resumable, reproducible, and clear about what went wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stakes.anchors.anchors import Anchors
from stakes.api import unlearn
from stakes.data.forget import ForgetSplit
from stakes.data.images import ImageSet
from stakes.errors import AnchorError, ConfigError, DataError, ModelError, NumericalError, RunFolderError
from stakes.inputs import as_classifier
from stakes.methods import StructGuard
from stakes.models import Classifier, load_checkpoint, save_checkpoint
from stakes.unlearning import Unlearned
from tinydigits import FEW_PROBES, NAMES, SIZE, Small, anchors, digits_model, known, sets, split

SETTINGS = FEW_PROBES | {
    "probe_batch": 4,
    "forget_batch": 2,
    "max_steps": 200,
    "importance_after": 1,
    "lr": 0.003,
}


def run(cache: Path, **call: Any) -> Unlearned:
    model = call.pop("model") if "model" in call else digits_model("resnet10")
    forget = call.pop("forget") if "forget" in call else split()
    given = {"anchors": anchors(), "settings": SETTINGS, "device": "cpu", "measure_every": 2} | call
    if given.get("method", "structguard") == "structguard":
        given.setdefault("preset", "paper")
    return unlearn(model, forget, cache=cache, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Unlearned]:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder / "cache", out=folder / "run")


def model_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# -- what it gives ---------------------------------------------------------------------------------------------


def test_forgets_and_says_so(whole):
    folder, result = whole
    record, images = result.record, split().forget
    assert record.forgotten
    assert record.stop_reason == "forgotten"
    assert record.forget_accuracy == 0.0
    assert record.steps == len(result.history) >= 4, "too short a run to interrupt"
    assert record.before.forget_accuracy == 100.0
    assert record.already_misclassified == 0
    assert record.verdict.startswith("Forgotten")
    predicted = result.classifier(images.batch(slice(None))).argmax(1)
    assert bool((predicted != images.labels).all())
    test = split().test
    right = (result.classifier(test.batch(slice(None))).argmax(1) == test.labels).float().mean()
    assert record.test_accuracy == pytest.approx(100 * float(right))
    assert {path.name for path in (folder / "run").iterdir()} == {
        "config.yaml",
        "record.json",
        "history.jsonl",
        "anchors.safetensors",
        "model.safetensors",
        "config.json",
    }


def test_costs_are_counted(whole):
    phases = {phase.name: phase for phase in whole[1].record.phases}
    assert set(phases) == {"evaluate before", "probes", "unlearn", "evaluate after"}
    measured = 3 + 60 + 100
    assert phases["evaluate before"].forward_images == phases["evaluate after"].forward_images == measured
    assert phases["probes"].forward_images == phases["probes"].backward_images == 3 * 3 * 4
    steps, probes = whole[1].record.steps, 9
    # A step sends its forget images and probes both ways; the importance does so for every probe once.
    sizes = [(4, 4, 1)[step % 3] + (2, 1)[step % 2] for step in range(steps)]
    assert phases["unlearn"].backward_images == sum(sizes) + probes
    assert phases["unlearn"].forward_images > phases["unlearn"].backward_images


def test_the_record_is_complete(whole):
    record, forget = whole[1].record, split()
    assert record.method == "structguard"
    assert record.preset == "paper"
    assert record.seed == 0
    assert record.settings["lr"] == 0.003
    assert record.settings["probes"]["epsilon"] == 1.0
    assert record.hashes.model_before == digits_model("resnet10").fingerprint()
    assert record.hashes.model_after == whole[1].classifier.fingerprint() != record.hashes.model_before
    assert record.hashes.forget_set == forget.forget.fingerprint()
    assert record.hashes.test_set == forget.test.fingerprint()
    assert record.hashes.retain_set == forget.retain.fingerprint()
    assert record.hashes.anchors == anchors().fingerprint()
    assert record.hashes.probes
    assert record.versions["torch"]


@pytest.mark.parametrize("kind", ["small", "resnet10"])
def test_who_names_nothing_gets_the_default_preset(kind):
    """On small grey images as well, and with the use of the model kept."""
    record = unlearn(digits_model(kind), split(), anchors=anchors(), device="cpu").record
    assert (record.method, record.preset) == ("structguard", "default")
    usual = StructGuard.configure("default").for_images(len(split().forget))
    assert record.settings == usual.settings.model_dump(mode="json")
    assert record.forgotten
    assert record.test_accuracy > 80


def test_the_model_given_is_not_changed(tmp_path):
    model = digits_model("resnet10").clone().train().requires_grad_(True)
    before = model.fingerprint()
    run(tmp_path, model=model)
    assert model.fingerprint() == before
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_in_memory_gives_what_a_folder_gives(whole, tmp_path):
    result = run(tmp_path)
    assert result.record.digest() == whole[1].record.digest()
    assert result.history == whole[1].history
    assert result.classifier.fingerprint() == whole[1].classifier.fingerprint()
    pixels = split().test.batch(slice(None))
    assert torch.equal(result.classifier(pixels), whole[1].classifier(pixels))


def test_takes_pairs_of_pixels_and_labels(whole, tmp_path):
    sets_of = {name: getattr(split(), name) for name in ("forget", "test", "retain")}
    pairs = {name: (images.batch(slice(None)), images.labels) for name, images in sets_of.items()}
    result = run(tmp_path, **pairs)
    assert result.classifier.fingerprint() == whole[1].classifier.fingerprint()
    assert result.record.after == whole[1].record.after
    lonely = run(tmp_path, forget=pairs["forget"])
    assert lonely.record.test_accuracy is None
    assert lonely.record.retain_accuracy is None
    assert lonely.record.forgotten


def test_a_configured_method_is_taken(whole, tmp_path):
    result = run(tmp_path, method=StructGuard.configure("paper", SETTINGS), settings=None)
    assert result.classifier.fingerprint() == whole[1].classifier.fingerprint()
    with pytest.raises(ConfigError, match="both ways"):
        run(tmp_path, method=StructGuard.configure(), settings=SETTINGS)


def test_another_seed_gives_another_model(whole, tmp_path):
    assert run(tmp_path, seed=1).classifier.fingerprint() != whole[1].classifier.fingerprint()


def test_rows_of_anchors_are_found_by_name(whole, tmp_path):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = Anchors(anchors().matrix[order], tuple(NAMES[row] for row in order))
    assert run(tmp_path, anchors=shuffled).record.digest() == whole[1].record.digest()
    # Negative control: rows without names are taken in their own order.
    moved = Anchors(anchors().matrix[order])
    assert run(tmp_path, anchors=moved).classifier.fingerprint() != whole[1].classifier.fingerprint()


# -- run folders -----------------------------------------------------------------------------------------------


def test_two_folders_hold_the_same_bytes(whole, tmp_path):
    run(tmp_path / "cache", out=tmp_path / "run")
    names = {"config.yaml", "history.jsonl", "model.safetensors", "config.json"}
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (whole[0] / "run" / name).read_bytes(), name


def test_the_same_call_again_does_no_work(whole, tmp_path):
    folder, result = whole
    before = {path: path.read_bytes() for path in (folder / "run").iterdir()}
    told = []
    again = run(tmp_path / "no cache", out=folder / "run", progress=lambda *args, **_: told.append(args))
    assert not told
    assert not (tmp_path / "no cache").exists()
    assert again.record == result.record
    assert again.history == result.history
    assert again.classifier.fingerprint() == result.classifier.fingerprint()
    assert {path: path.read_bytes() for path in (folder / "run").iterdir()} == before


def interrupt(phase: str, at: int) -> Any:
    """A progress callback that presses Ctrl-C."""

    def progress(now: str, done: int, total: int, **_: float) -> None:
        if now == phase and done == at:
            signal.raise_signal(signal.SIGINT)

    return progress


@pytest.mark.parametrize(
    ("phase", "at"),
    [
        ("evaluate before", 0),
        ("evaluate before", 163),
        ("probes", 0),
        ("probes", 3),
        ("probes", 9),
        ("unlearn", 1),
        ("unlearn", 2),
        ("unlearn", 4),
        ("evaluate after", 0),
        ("evaluate after", 163),
    ],
)
def test_interrupted_and_resumed_is_as_if_nothing_had_happened(whole, tmp_path, phase, at):
    call = {"out": tmp_path / "run", "probe_chunk": 3}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache", progress=interrupt(phase, at), **call)
    assert not (tmp_path / "run" / "record.json").exists()
    result = run(tmp_path / "cache", **call)
    uncut = run(tmp_path / "cache 2", out=tmp_path / "run 2", probe_chunk=3)
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "run 2")
    assert result.record.digest() == uncut.record.digest()
    assert result.history == uncut.history
    assert not (tmp_path / "run" / "state").exists()


def test_interrupted_again_and_again(whole, tmp_path):
    steps = whole[1].record.steps
    for at in range(1, steps):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cache", out=tmp_path / "run", progress=interrupt("unlearn", at))
    result = run(tmp_path / "cache", out=tmp_path / "run")
    assert model_bytes(tmp_path / "run") == model_bytes(whole[0] / "run")
    assert result.history == whole[1].history


def test_a_damaged_state_starts_the_steps_again(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache", out=tmp_path / "run", progress=interrupt("unlearn", 3))
    state = tmp_path / "run" / "state" / "job.pt"
    state.write_bytes(state.read_bytes()[:-100])
    told = []
    run(
        tmp_path / "cache",
        out=tmp_path / "run",
        progress=lambda phase, done, *_, **__: told.append((phase, done)),
    )
    assert ("unlearn", 1) in told
    assert model_bytes(tmp_path / "run") == model_bytes(whole[0] / "run")


def changed_forget() -> ForgetSplit:
    return ForgetSplit(forget=known().subset([5, 6]), test=split().test, retain=split().retain)


DIFFERENT: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "settings.lr": {"settings": SETTINGS | {"lr": 0.02}},
    "method": {"method": "neggrad", "settings": {}},
    "hashes.forget_set": {"forget": changed_forget},
    "hashes.test_set": {"forget": lambda: ForgetSplit(forget=split().forget, retain=split().retain)},
    "hashes.retain_set": {"forget": lambda: ForgetSplit(forget=split().forget, test=split().test)},
    "hashes.model": {"model": lambda: digits_model("small")},
    "hashes.anchors": {"anchors": Anchors(torch.eye(10, 12).roll(1, 0), NAMES)},
    "request.note": {"request": {"note": "x"}},
    "retain_sample": {"retain_sample": 5},
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_another_request_on_the_same_folder_is_refused(whole, tmp_path, difference):
    call = {name: value() if callable(value) else value for name, value in DIFFERENT[difference].items()}
    before = model_bytes(whole[0] / "run")
    with pytest.raises(RunFolderError, match="another request") as caught:
        run(tmp_path, out=whole[0] / "run", **call)
    if difference != "method":
        assert difference in str(caught.value)
    assert model_bytes(whole[0] / "run") == before


def test_another_normalisation_is_another_request(whole, tmp_path):
    from stakes.models import Classifier

    model = digits_model("resnet10")
    other = Classifier.from_network(model.to_network(), class_names=NAMES, input_size=(1, 8, 8))
    assert other.fingerprint() == model.fingerprint()
    with pytest.raises(RunFolderError, match=r"hashes\.model_config"):
        run(tmp_path, out=whole[0] / "run", model=other)


def test_device_and_pace_may_change_between_calls(whole, tmp_path):
    again = run(
        tmp_path, out=whole[0] / "run", eval_batch=7, checkpoint_seconds=1, probe_chunk=5, device="auto"
    )
    assert again.record == whole[1].record


def test_a_damaged_result_is_not_handed_out(whole, tmp_path):
    shutil.copytree(whole[0] / "run", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError):
        run(tmp_path, out=tmp_path / "run")


SCRIPT = """
import sys, torch
from stakes import load_checkpoint
model = load_checkpoint(sys.argv[1])
torch.set_num_threads(1)
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


def test_a_fresh_process_gives_the_same_logits(whole, tmp_path):
    pixels = split().test.batch(slice(None))
    torch.save(pixels, tmp_path / "pixels.pt")
    paths = [str(whole[0] / "run"), str(tmp_path / "pixels.pt"), str(tmp_path / "logits.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = whole[1].classifier(pixels)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), wanted)


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


def test_the_answers_of_a_reference_are_the_aim_of_a_model_that_forgot_before(whole, tmp_path):
    first = digits_model("resnet10")
    forgetful, second = whole[1].classifier, ForgetSplit(sets()[0].subset(range(40, 44)))
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


def test_the_model_itself_as_reference_changes_nothing(whole, tmp_path):
    again = run(tmp_path, reference=digits_model("resnet10"))
    assert again.record.hashes.model_after == whole[1].record.hashes.model_after


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


# -- what cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"method": "magic"}, ConfigError, r"structguard.*'magic'"),
        ({"preset": "huge"}, ConfigError, r"authors.*paper.*'huge'"),
        ({"settings": {"learning": 1}}, ConfigError, r"'learning'.*lr"),
        ({"settings": {"lr": -1}}, ConfigError, "lr"),
        ({"sed": 1}, ConfigError, "sed"),
        ({"device": "abacus"}, ConfigError, "device"),
        ({"anchors": Anchors(torch.eye(3), ("ant", "bee", "cow"))}, AnchorError, "'0'"),
        ({"anchors": Anchors(torch.eye(9, 12))}, AnchorError, "10 rows"),
        ({"test": sets()[1]}, DataError, "both ways"),
        ({"forget": (torch.rand(2, 1, 8, 8), [0, 10])}, DataError, "label of image 1"),
        ({"forget": (torch.rand(2, 1, 8, 8), [0])}, DataError, "labels"),
        ({"forget": (255 * torch.ones(2, 1, 8, 8), [0, 1])}, DataError, "divide by 255"),
        ({"forget": (torch.rand(2, 1, 10, 10), [0, 1])}, DataError, r"image size.*\(1, 8, 8\).*with_size"),
        ({"forget": (torch.rand(2, 3, 8, 8), [0, 1])}, DataError, "image size"),
        ({"forget": [torch.rand(2, 1, 8, 8)]}, DataError, "pair of pixels and labels"),
    ],
)
def test_bad_calls_are_refused_before_any_work(tmp_path, call, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "cache", out=tmp_path / "run", **call)
    assert not list(tmp_path.iterdir())


def test_other_classes_are_refused(tmp_path):
    reordered = ImageSet.from_tensors(torch.rand(1, 1, 8, 8), [0], tuple(reversed(NAMES)))
    with pytest.raises(DataError, match="Names and order"):
        run(tmp_path, forget=reordered)
    with pytest.raises(DataError, match="one image or more"):
        run(tmp_path, forget=known().subset([]))
    with pytest.raises(DataError, match=r"class_names=\[\.\.\.\]"):
        run(tmp_path, model=Small(), forget=(torch.rand(1, 1, 8, 8), [0]))


def test_a_method_that_trains_on_retained_images_needs_them(tmp_path):
    with pytest.raises(DataError, match="retain set"):
        run(tmp_path, method="unsir", settings={}, forget=ForgetSplit(forget=split().forget))


# -- endings ---------------------------------------------------------------------------------------------------


def mislabelled(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a label that the model does not give them."""
    images = known().subset(range(3, 3 + count))
    return images.batch(slice(None)), (images.labels + 1) % 10


def test_images_misclassified_before_are_counted(tmp_path):
    right, wrong = split().forget, mislabelled(2)
    pixels = torch.cat([right.batch(slice(None)), wrong[0]])
    result = run(
        tmp_path, forget=(pixels, torch.cat([right.labels, wrong[1]])), method="neggrad", settings={}
    )
    assert result.record.already_misclassified == 2
    assert result.record.before.forget_accuracy == 60.0


@pytest.mark.parametrize("method", ["structguard", "neggrad"])
def test_all_misclassified_before(tmp_path, method):
    settings = SETTINGS if method == "structguard" else {}
    result = run(
        tmp_path / "c", forget=mislabelled(3), method=method, settings=settings, out=tmp_path / "run"
    )
    record = result.record
    assert record.stop_reason == "already forgotten"
    assert record.forgotten
    assert (record.steps, record.already_misclassified, result.history) == (0, 3, [])
    assert record.hashes.model_after == record.hashes.model_before
    assert result.classifier.fingerprint() == digits_model("resnet10").fingerprint()


def test_the_step_limit_is_no_error_and_no_success(tmp_path):
    gentle = SETTINGS | {"lr": 1e-6, "max_steps": 5}
    result = run(tmp_path / "cache", out=tmp_path / "run", settings=gentle)
    record = result.record
    assert (record.stop_reason, record.forgotten, record.steps) == ("step limit", False, 5)
    assert (
        record.verdict
        == "NOT forgotten: 3 of 3 images to forget are still recognised after 5 steps (step limit)."
    )
    saved = json.loads((tmp_path / "run" / "record.json").read_text())
    assert saved["forgotten"] is False


@pytest.mark.parametrize("at", [1, 5])
def test_interrupted_before_the_step_limit(tmp_path, at):
    gentle = SETTINGS | {"lr": 1e-6, "max_steps": 5}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", out=tmp_path / "cut", settings=gentle, progress=interrupt("unlearn", at))
    run(tmp_path / "c", out=tmp_path / "cut", settings=gentle)
    run(tmp_path / "c", out=tmp_path / "uncut", settings=gentle)
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "uncut")


@pytest.mark.parametrize("method", ["structguard", "neggrad"])
@pytest.mark.parametrize("lr", [1e10, 1e30, 1e38])
def test_divergence_is_an_error_never_a_success(tmp_path, method, lr):
    settings = (SETTINGS if method == "structguard" else {"max_steps": 50}) | {"lr": lr, "momentum": 0.0}
    # Two labels, so that no single class which a ruined model may answer misses both by luck.
    forget = known().subset([0, 1, 2])
    with pytest.raises(NumericalError) as caught:
        run(
            tmp_path / "c",
            forget=forget,
            method=method,
            settings=settings,
            out=tmp_path / "run",
            checkpoint_seconds=1e-9,
        )
    assert caught.value.exit_code == 6
    assert not (tmp_path / "run" / "record.json").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    state = torch.utils._pytree.tree_flatten(_state(tmp_path / "run"))[0]
    assert all(bool(torch.isfinite(v).all()) for v in state if isinstance(v, torch.Tensor)), (
        "a ruined state was kept"
    )


def _state(folder: Path) -> Any:
    from stakes.runs import RunFolder

    return RunFolder(folder).load() or {}


def test_twins_among_the_retained_images_are_told(tmp_path):
    """An image retained under the same pixels and label cannot be kept while its twin is forgotten."""
    train, _ = sets()
    rows = known().subset(range(2))
    pixels = torch.cat([rows.batch([0, 0, 1]), train.batch(slice(100, 110))])
    labels = torch.cat([rows.labels[[0, 0, 1]], train.labels[100:110]])
    retain = ImageSet.from_tensors(pixels, labels, NAMES)
    short = {"settings": SETTINGS | {"max_steps": 1}}
    (note,) = run(tmp_path, forget=ForgetSplit(forget=rows, retain=retain), **short).record.notes
    assert note.startswith("3 retained images have the same pixels and label as an image to forget")
    (note,) = run(
        tmp_path, forget=ForgetSplit(forget=rows, retain=retain.subset([2, 5])), **short
    ).record.notes
    assert note.startswith("1 retained image has the same pixels and label")
    assert run(tmp_path, **short).record.notes == ()


def test_a_model_that_only_guesses_is_told_of(tmp_path):
    model = digits_model("resnet10").clone()
    model.class_names = NAMES
    model.head.weight.data.copy_(model.head.weight.roll(1, dims=0).clone())
    model.head.bias.data.copy_(model.head.bias.roll(1, dims=0).clone())
    record = run(tmp_path, model=model, preset="default", settings={}, anchors=None).record
    assert record.steps == 0
    assert record.verdict.startswith("Nothing was unlearned: all")
    assert "no better than guessing" in record.notes[0]
    assert not run(tmp_path, method="before", settings={}).record.notes


def test_gradients_are_recorded_whatever_the_caller_does_without(whole, tmp_path):
    with torch.no_grad():
        again = run(tmp_path)
    assert again.record.hashes.model_after == whole[1].record.hashes.model_after
