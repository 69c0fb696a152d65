"""Proof of forgetting: attacks on an unlearned model, each with its number and its limit."""

from stakes.audit.changes import CHANGES, forget_accuracy_under_changes
from stakes.audit.references import load_reference, train_references
from stakes.audit.runner import AuditReport, audit
from stakes.audit.sections import ATTACKS
from stakes.audit.settings import AuditSettings

__all__ = [
    "ATTACKS",
    "CHANGES",
    "AuditReport",
    "AuditSettings",
    "audit",
    "forget_accuracy_under_changes",
    "load_reference",
    "train_references",
]
