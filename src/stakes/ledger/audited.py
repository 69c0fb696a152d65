"""What `stakes audit` found in the runs of a ledger."""

from __future__ import annotations

from stakes.ledger.folder import Ledger
from stakes.records import Record
from stakes.report.arrangement import audit_of, is_attack
from stakes.report.section import sections


def findings(ledger: Ledger, run: int, model: str | None) -> list[dict[str, str]]:
    """Each attack on the model that a run left, with its finding and its limit; none where nobody audited it.

    Args:
        model: hash of the model that the ledger says the run left; a folder that holds another counts for nothing.

    Raises:
        RunFolderError: a section cannot be read.
    """
    folder = ledger.run(run)
    record = folder / "record.json"
    if model is None or not record.is_file() or Record.load(record).hashes.model_after != model:
        return []
    return [
        {"attack": section.name, "finding": section.sentence, "limit": section.limit}
        for section in audit_of(sections(folder))
        if is_attack(section.name)
    ]
