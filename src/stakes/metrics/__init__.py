"""Measures of a classifier: pure functions of tensors and callables."""

from stakes.metrics.accuracy import accuracy, predict
from stakes.metrics.shift import statistics_shift

__all__ = ["accuracy", "predict", "statistics_shift"]
