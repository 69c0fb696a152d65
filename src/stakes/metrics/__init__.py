"""Measures of a classifier: pure functions of tensors and callables."""

from stakes.metrics.accuracy import accuracy, predict

__all__ = ["accuracy", "predict"]
