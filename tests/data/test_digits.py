from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from stakes.data import open_source


def test_split_is_stratified_complete_and_the_same_each_time() -> None:
    source, again = open_source("digits"), open_source("digits")
    assert source.train is not None
    assert source.test is not None
    assert again.train is not None
    assert (len(source.train), len(source.test)) == (1437, 360)
    assert source.class_names == tuple("0123456789")
    assert source.train.fingerprint() == again.train.fingerprint()
    found = load_digits()
    whole = np.bincount(found.target)
    part = source.test.labels.bincount().numpy()
    assert np.abs(part - whole * 0.2).max() <= 1
    together = torch.cat([source.train.batch(slice(None)), source.test.batch(slice(None))])[:, 0].double()
    assert float((together.sum() - found.images.sum() / 16).abs()) < 0.001 * together.numel()


def test_values_span_the_unit_range_and_size_is_followed() -> None:
    train = open_source("digits").train
    assert train is not None
    assert train.size == (1, 8, 8)
    pixels = train.batch(slice(None))
    assert (float(pixels.min()), float(pixels.max()), len(pixels.unique())) == (0, 1, 17)
    large = open_source("digits", size=(3, 16, 16)).train
    assert large is not None
    assert large.batch([0]).shape == (1, 3, 16, 16)
