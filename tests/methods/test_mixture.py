from __future__ import annotations

import torch
from linear import names

from stakes.data.images import ImageSet
from stakes.methods.mixture import Mixture, Pixels


def test_any_batch_is_in_the_order_asked_for(generator: torch.Generator) -> None:
    images = ImageSet.from_tensors(torch.rand((3, 1, 2, 2), generator=generator), [0, 1, 2], names(3))
    free = Pixels(torch.randn((4, 1, 2, 2), generator=generator) * 5, torch.tensor([2, 2, 0, 1]))
    mixture = Mixture(images, free, images)
    pixels = torch.cat([images.batch(slice(None)), free.pixels, images.batch(slice(None))])
    labels = torch.cat([images.labels, free.labels, images.labels])
    assert len(mixture) == 10
    for indices in (torch.randperm(10, generator=generator), torch.tensor([9, 0, 3, 3]), torch.tensor([5])):
        got, names_of, part = mixture.batch(indices)
        assert torch.equal(got, pixels[indices])
        assert torch.equal(names_of, labels[indices])
        assert torch.equal(part, torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])[indices])
