from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinynets import NAMES, SIZE, shake, tiny_transformers
from torch import nn

from stakes.errors import CheckpointError, ConfigError, ModelError, NetworkError, OutputError
from stakes.models import Projector, build_network, load_checkpoint, save_checkpoint

OURS = {"class_names": list(NAMES), "input_size": list(SIZE)}


def own() -> nn.Module:
    return shake(build_network("resnet10", num_classes=3, width=4))


def write(folder: Path, network: nn.Module | None = None, *, suffix: str = ".safetensors", **changes) -> Path:
    """A checkpoint of a small ResNet as someone else might write it."""
    folder.mkdir(exist_ok=True)
    state = (network or own()).state_dict()
    if suffix == ".safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / f"model{suffix}")
    config = {"architecture": "resnet10", "width": 4, "num_classes": 3, **OURS} | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize("kind", ["own", "resnet", "vit", "vit sdpa", "convnext"])
@pytest.mark.parametrize("projected", [False, True])
def test_round_trip_is_bit_equal(kind, projected, classify, pixels, tmp_path):
    name, _, attention = kind.partition(" ")
    model = classify(own() if kind == "own" else tiny_transformers(name, attention or "eager"))
    if projected:
        model.projector = Projector(model.feature_width, 5)
    save_checkpoint(model, tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]
    for path in (tmp_path / "a" / "b", tmp_path / "a" / "b" / "model.safetensors"):
        again = load_checkpoint(path)
        assert not again.training
        assert torch.equal(again(pixels), model(pixels))
        assert again.fingerprint() == model.fingerprint()
        assert again.config == model.config
        assert repr(again) == repr(model)
    save_checkpoint(again, tmp_path / "second")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "a" / "b" / file).read_bytes()


def test_a_fresh_process_gives_the_same_bits(classify, pixels, tmp_path):
    model = classify(own())
    save_checkpoint(model, tmp_path / "run")
    torch.save(pixels, tmp_path / "pixels.pt")
    code = (
        "import sys, torch; from pathlib import Path; from stakes.models import load_checkpoint\n"
        "p = Path(sys.argv[1])\n"
        "torch.set_num_threads(int(sys.argv[2]))\n"
        "torch.save(load_checkpoint(p / 'run')(torch.load(p / 'pixels.pt')).detach(), p / 'logits.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(torch.get_num_threads())], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), model(pixels))


def test_saved_names_and_types_are_plain(classify, tmp_path):
    network = own()
    save_checkpoint(classify(network), tmp_path / "run")
    state = load_file(tmp_path / "run" / "model.safetensors")
    own().load_state_dict(state)  # the original network takes them as they are
    assert state.keys() == network.state_dict().keys()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["mean"] == [0.4, 0.5, 0.6]  # as given, not as rounded to float32


def test_transformers_reads_what_we_save(classify, pixels, tmp_path):
    from transformers import AutoModelForImageClassification

    model = classify(tiny_transformers("resnet"))
    save_checkpoint(model, tmp_path / "run")
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    assert torch.equal(theirs((pixels - model.mean) / model.std).logits, model(pixels))


@pytest.mark.parametrize("kind", ["resnet", "vit", "convnext"])
def test_reads_what_transformers_saves(kind, pixels, tmp_path):
    network = tiny_transformers(kind)
    network.save_pretrained(tmp_path)
    preprocessor = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    preprocessor["size"] = {"height": 16, "width": 16}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    model = load_checkpoint(tmp_path)
    assert model.class_names == NAMES
    assert model.input_size == (3, 16, 16)
    mean, std = (torch.tensor(preprocessor[k]).view(1, 3, 1, 1) for k in ("image_mean", "image_std"))
    torch.testing.assert_close(model(pixels), network((pixels - mean) / std).logits)


@pytest.mark.parametrize(
    ("preprocessor", "size"),
    [
        ({"size": 20}, (3, 20, 20)),
        ({"size": {"shortest_edge": 18}}, (3, 18, 18)),
        (
            {"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": {"height": 12, "width": 14}},
            (3, 12, 14),
        ),
        ({"do_normalize": False, "image_mean": [9, 9, 9]}, (3, 224, 224)),
    ],
)
def test_sizes_of_preprocessors(preprocessor, size, tmp_path):
    tiny_transformers("resnet").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    model = load_checkpoint(tmp_path)
    assert model.input_size == size
    assert model.normalisation == ((0, 0, 0), (1, 1, 1))


def test_missing_preprocessor_is_said(tmp_path):
    tiny_transformers("convnext").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="without normalisation"):
        assert load_checkpoint(tmp_path).input_size == (3, 16, 16)


def test_config_never_runs_code(tmp_path):
    tiny_transformers("resnet").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"}
    config["attn_implementation"] = "someone/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="unknown architecture"):
        load_checkpoint(write(tmp_path / "ours", architecture="evil:M"))


def test_unknown_transformers_type(tmp_path):
    folder = write(tmp_path, architecture=None, model_type="no-such", id2label={"0": "a", "1": "b"})
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no-such"):
        load_checkpoint(folder)


def test_half_precision_and_left_out_counters(tmp_path, pixels):
    network = own()
    folder = write(tmp_path)
    state = {k: v.half() if v.dim() > 1 else v for k, v in network.state_dict().items() if "tracked" not in k}
    save_file(state, folder / "model.safetensors")
    model = load_checkpoint(folder)
    network.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model(pixels), network.eval()(pixels))


def test_unknown_keys_of_config_are_kept(tmp_path):
    model = load_checkpoint(write(tmp_path, resize="bilinear"))
    assert model.config["resize"] == "bilinear"


def test_parts_of_a_large_checkpoint(tmp_path):
    folder = write(tmp_path)
    whole = load_checkpoint(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": list(state)[::2], "b.safetensors": list(state)[1::2]}
    for file, names in halves.items():
        save_file({k: state[k] for k in names}, folder / file)
    index = {"weight_map": {k: file for file, names in halves.items() for k in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_checkpoint(folder).fingerprint() == whole.fingerprint()
    index["weight_map"]["fc.bias"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="beside the index"):
        load_checkpoint(folder)


def test_factory_for_the_users_own_network(classify, pixels, tmp_path):
    def factory() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))

    model = classify(factory())
    save_checkpoint(model, tmp_path / "run")
    with pytest.raises(CheckpointError, match="factory="):
        load_checkpoint(tmp_path / "run")
    read = load_checkpoint(tmp_path / "run", factory=factory)
    assert torch.equal(read(pixels), model(pixels))
    assert read.architecture is None, "as before it was saved: nothing but the factory knows how to build it"
    assert read.config == model.config


# What bad input gets.


def test_nothing_there(tmp_path):
    for path in (tmp_path / "no", tmp_path / "no.safetensors", "weights/no.safetensors"):
        with pytest.raises(CheckpointError, match="nothing there"):
            load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no weight file"):
        load_checkpoint(tmp_path)


def test_several_candidates(tmp_path):
    folder = write(tmp_path)
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    load_checkpoint(folder)
    (folder / "two.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"one\.safetensors, two\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_bad_config(text, tmp_path):
    folder = write(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="class_names and input_size"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": None}, "class_names"),
        ({"input_size": [16, 16]}, "input_size"),
        ({"class_names": ["a", "b"]}, "expected 3, which num_classes says, got 2"),
        ({"class_names": ["a", "b"], "num_classes": None}, r"fc\.weight \(3, 32\) instead of \(2, 32\)"),
        ({"class_names": ["a", "b", "a"]}, "more than once"),
        ({"architecture": None}, "architecture"),
        ({"width": 8}, r"of another shape: conv1\.weight"),
        ({"stem": "patch"}, "stem"),
        ({"mean": [0.5], "std": [0.5]}, "normalisation"),
        ({"mean": [123.0, 116, 103], "std": [58.0, 57, 57]}, "divide both by 255"),
        ({"projector": {"width": 32, "hidden": 8}}, r"missing: fc1\.weight"),
        ({"input_size": [3, 16, 16], "head": "conv1"}, "'conv1' is not a linear layer"),
    ],
)
def test_config_that_does_not_fit(changes, message, tmp_path):
    with pytest.raises((ModelError, ConfigError), match=message):
        load_checkpoint(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:5], lambda b: b"", lambda b: b"\xff" * 64 + b]
)
def test_truncated_or_corrupt(damage, tmp_path):
    file = write(tmp_path) / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        load_checkpoint(tmp_path)


def test_wrong_tensors_are_named(tmp_path):
    file = write(tmp_path) / "model.safetensors"
    state = load_file(file)
    state["fc.extra"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(4)
    for name in [k for k in state if k.startswith("layer4") and "tracked" not in k]:
        del state[name]
    save_file(state, file)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file)
    message = str(caught.value)
    assert "missing: layer4.0.conv1.weight" in message
    assert "and 11 more" in message
    assert "unexpected: fc.extra" in message
    assert "fc.bias (4,) instead of (3,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_weights_are_named(value, tmp_path):
    network = own()
    with torch.no_grad():
        network.layer2[0].bn1.weight[1] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity in layer2\.0\.bn1\.weight"):
        load_checkpoint(write(tmp_path, network))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickles_need_leave(suffix, tmp_path, pixels):
    folder = write(tmp_path, suffix=suffix)
    for path in (folder, folder / f"model{suffix}"):
        with pytest.raises(CheckpointError, match="--allow-pickle"):
            load_checkpoint(path)
        assert torch.equal(load_checkpoint(path, allow_pickle=True)(pixels), own().eval()(pixels))


def test_nested_and_parallel_pickles(tmp_path, pixels):
    folder = write(tmp_path, suffix=".pt")
    state = {f"module.{k}": v for k, v in own().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "model.pt")
    assert torch.equal(load_checkpoint(folder, allow_pickle=True)(pixels), own().eval()(pixels))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_pickles_never_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path, suffix=".pt")
    for content in ({"fc.weight": Evil()}, own(), [1, 2]):
        torch.save(content, folder / "model.pt")
        with pytest.raises(CheckpointError, match="tensors"):
            load_checkpoint(folder, allow_pickle=True)
    (folder / "model.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["LocalEntryNotFoundError", "OfflineModeIsEnabled", "HFValidationError"])
def test_hub_without_a_network(kind, monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*_args, **_kwargs):
        raise getattr(errors, kind)("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(NetworkError, match=r"someone/net is neither .* cannot reach the hub"):
        load_checkpoint("someone/net")


def test_hub_gives_a_folder(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_a, **_k: str(write(tmp_path)))
    assert load_checkpoint("someone/net").class_names == NAMES


def test_what_cannot_be_saved(classify, tmp_path):
    model = classify(own())
    model.projector = nn.Linear(model.feature_width, model.feature_width)
    with pytest.raises(CheckpointError, match="got Linear"):
        save_checkpoint(model, tmp_path / "run")
    model.projector = None
    with pytest.raises(CheckpointError, match="expected float32"):
        save_checkpoint(model.double(), tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_checkpoint(model.float(), tmp_path / "file" / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_other_files_of_a_folder_are_left(classify, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    save_checkpoint(classify(own()), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "record.json"]


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "images", "accuracy"), [("cifar10", 2000, 89.15), ("faces10", 1000, 93.90)])
def test_accuracy_of_real_checkpoints(name, images, accuracy, shared):
    from stakes.data import open_source
    from stakes.metrics.accuracy import accuracy as percent
    from stakes.metrics.accuracy import predict

    model = load_checkpoint(shared / "checkpoints" / f"{name}-resnet18")
    test = open_source(shared / "data" / name, size=model.input_size).test
    assert test is not None
    assert test.class_names == model.class_names
    some = test.subset(slice(0, images))
    measured = percent(predict(model, some), some.labels)
    assert abs(measured - accuracy) <= 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_names_of_wrappers_are_no_names_of_layers(prefix, suffix, pixels, tmp_path):
    """Of ``nn.DataParallel`` and ``torch.compile``."""
    plain = load_checkpoint(write(tmp_path / "plain"))
    folder = write(tmp_path / "wrapped", suffix=suffix)
    state = {f"{prefix}{name}": value for name, value in own().state_dict().items()}
    if suffix == ".pt":
        torch.save(state, folder / "model.pt")
    else:
        save_file(state, folder / "model.safetensors")
    model = load_checkpoint(folder, allow_pickle=True)
    assert torch.equal(model(pixels), plain(pixels))


def test_a_wrapper_of_the_users_own_keeps_its_names(pixels, tmp_path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = own()

        def forward(self, x):
            return self.module(x)

    folder = write(tmp_path / "own", Wrapped(), architecture=None)
    assert load_checkpoint(folder, factory=Wrapped)(pixels).shape == (4, 3)
