"""Proof of forgetting: attacks on an unlearned model, each with its number and its limit."""
