"""Deletion requests over years: an append-only ledger beside the model that they are carried out on.

>>> from stakes.ledger import add_request, create_ledger, run_requests, verify_ledger
>>> ledger = create_ledger("ledger", "checkpoints/mine", data="my-data")   # doctest: +SKIP
>>> add_request(ledger, "indices:rows.txt", requester="ann@example.org")   # doctest: +SKIP
>>> run_requests(ledger).model                                             # doctest: +SKIP
>>> verify_ledger(ledger).require()                                        # doctest: +SKIP
"""

from __future__ import annotations

from stakes.ledger.add import Added, add_request
from stakes.ledger.errors import CameBackError, LedgerError
from stakes.ledger.folder import Ledger, create_ledger, open_ledger
from stakes.ledger.prune import PruneReport, prune_states
from stakes.ledger.run import RunReport, run_requests
from stakes.ledger.trail import audit_trail, export_request
from stakes.ledger.verify import Verification, verify_ledger
from stakes.ledger.work import BatchReport

__all__ = [
    "Added",
    "BatchReport",
    "CameBackError",
    "Ledger",
    "LedgerError",
    "PruneReport",
    "RunReport",
    "Verification",
    "add_request",
    "audit_trail",
    "create_ledger",
    "export_request",
    "open_ledger",
    "prune_states",
    "run_requests",
    "verify_ledger",
]
