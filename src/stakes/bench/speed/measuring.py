"""The evaluation at the end of a run, on some of its images."""

from __future__ import annotations

from stakes.bench.speed.bare import Pass
from stakes.bench.speed.ground import EVALUATION, Extent, Ground, Sample
from stakes.data.forget import ForgetSplit
from stakes.evaluator import Evaluator


class EvaluationSlice:
    """Measures the model on the first images of the largest set, and scales to test, retain and forget images."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        split, batch = ground.split, ground.run.eval_batch
        retain = split.retain
        if retain is not None and ground.run.retain_sample is not None:
            retain = retain.subset(range(min(ground.run.retain_sample, len(retain))))
        sets = [one for one in (split.test, retain, split.forget) if one is not None]
        self.whole = sum(len(one) for one in sets)
        largest = max(sets, key=len)
        self.images = largest.subset(range(min(len(largest), max(batch, ground.speed.most_passes))))

    def sample(self) -> Sample:
        """One round; images are decoded in the one that warms up."""
        ground, count, batch = self.ground, len(self.images), self.ground.run.eval_batch
        model = ground.original.clone()
        start = ground.watch.now()
        Evaluator(batch, ground.device).figures(model, ForgetSplit(self.images), EVALUATION)
        seconds = ground.watch.now() - start
        bare = ground.bare.seconds([Pass(min(batch, count - at)) for at in range(0, count, batch)])
        scale = self.whole / count
        extent = Extent.of(self.whole, 0, count, self.whole, "images")
        return Sample(scale * seconds, scale * bare, extent)
