"""Choosing settings without a test image: the same number of trials for every method, judged on probes."""
