"""NaN and infinity: the run stops, says where, keeps the last good state, and hands no ruined model out."""

from __future__ import annotations

import faultkit
import pytest
import torch

from stakes.config import MethodSettings, ProbeSettings
from stakes.errors import NumericalError
from stakes.methods import Method
from stakes.probe_store import ProbeStore
from stakes.runs import RunFolder


class Spoilt(Method[MethodSettings]):
    """Three harmless steps, then the damage that a test wants."""

    name, settings_type = "spoilt", MethodSettings
    stops_when_forgotten = False
    where = "loss"

    def run(self, job):
        for step in job.steps(per_epoch=1):
            loss = 1.0
            if step < 3:
                job.model.head.bias.data.add_(0.001)
            elif self.where == "loss":
                loss = float("nan")
            elif self.where == "weight":
                job.model.head.weight.data[0, 0] = float("inf")
            else:
                next(b for n, b in job.model.named_buffers() if n.endswith("running_var"))[0] = float("inf")
            yield {"loss": loss}


def spoilt(where: str, steps: int = 6) -> Method:
    made = Spoilt(MethodSettings(max_steps=steps))
    made.where = where
    return made


@pytest.mark.parametrize(
    ("where", "said"),
    [("loss", "step 4: loss is nan"), ("weight", "step 4: weight head.weight"), ("buffer", "running_var")],
)
@pytest.mark.parametrize("steps", [4, 6])
def test_the_last_good_state_is_kept(tmp_path, where, said, steps):
    call = {"method": spoilt(where, steps), "settings": None}
    with pytest.raises(NumericalError, match=said) as caught:
        faultkit.run(tmp_path, **call)
    assert "saved before is kept" in str(caught.value)
    assert caught.value.exit_code == 6
    kept = RunFolder(tmp_path / "run").load()
    assert kept["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in kept["head"].values())
    assert all(
        bool(torch.isfinite(value).all()) for value in kept["body"].values() if value.is_floating_point()
    )
    assert not (tmp_path / "run" / "record.json").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_good_one_passes(tmp_path):
    assert faultkit.run(tmp_path, method=spoilt("none", 3), settings=None).record.steps == 3


def test_no_ruined_probe_reaches_the_cache(tmp_path):
    ruined = faultkit.model().clone()
    ruined.head.bias.data.fill_(float("inf"))
    with pytest.raises(NumericalError, match="probes: expected finite pixels"):
        ProbeStore(tmp_path).build(ruined, faultkit.split().forget, ProbeSettings(per_image=1, iterations=2))
    assert not list(tmp_path.rglob("*.safetensors"))
