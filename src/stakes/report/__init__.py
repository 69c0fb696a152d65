"""Renders records; computes nothing."""
