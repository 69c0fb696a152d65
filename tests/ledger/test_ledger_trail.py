"""What leaves the ledger: hashes and figures, and nobody's name."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from ledgerkit import ROWS, Amnesiac, ask, carry_out, new_ledger, solve, source

from stakes.errors import ConfigError
from stakes.ledger import Ledger, LedgerError, audit_trail, export_request, verify_ledger
from stakes.ledger.audited import findings
from stakes.ledger.requester import hashed, key_check, read_key
from stakes.ledger.store import link
from stakes.records import Record
from stakes.report.section import Section

WHO, NOTE = "Ann@Example.org", "for Ann"


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    """Two requests, the second of which brought the first back."""
    ask(ledger, ROWS[0], requester=WHO, note=NOTE)
    ask(ledger, ROWS[1])
    assert carry_out(ledger, solve(Amnesiac)).done
    verify_ledger(ledger, data=source())
    return ledger


def test_the_trail_of_a_request(told: Ledger, tmp_path: Path) -> None:
    files = export_request(told, 1, tmp_path / "one.json")
    trail = json.loads(files[0].read_text())
    assert trail == audit_trail(told, 1)
    request = told.view().requests[1]
    assert trail["images"] == list(request.images)
    assert trail["status"] == "done"
    own, other = trail["batches"]
    assert [run["run"] for run in own["runs"]] == [1]
    assert own["runs"][0]["before"]["forget_accuracy"] == 100.0
    assert own["runs"][0]["after"]["forget_accuracy"] == 0.0
    # The repairs of another request's batch that forgot this one again belong to its story.
    assert [(run["run"], run["forgets_requests"]) for run in other["runs"]] == [(3, [1]), (4, [1, 2])]
    assert [(check["run"], check["recognised"]) for check in trail["checks"]] == [
        (1, 0),
        (2, 2),
        (3, 0),
        (4, 0),
        (None, 0),
    ]
    page = files[1].read_text()
    for part in (
        "# Request 1",
        "100.00 % → 0.00 %",
        "2 of 2",
        "verification",
        trail["chain"]["head"],
        "does not show",
    ):
        assert part in page


def test_what_an_audit_found_is_in_the_trail(told: Ledger, tmp_path: Path) -> None:
    def audits() -> dict[int, list[dict[str, str]]]:
        return {
            run["run"]: run["audit"] for batch in audit_trail(told, 1)["batches"] for run in batch["runs"]
        }

    assert audits() == {1: [], 3: [], 4: []}
    assert "Not audited" in export_request(told, 1, tmp_path / "before.json")[1].read_text()
    finding = Section(
        name="changes", title="Changes", sentence="Two of three.", limit="Not a search.", numbers={"x": 1}
    )
    finding.save(told.run(3))
    finding.model_copy(update={"name": "streisand"}).save(told.run(3))
    assert audits() == {
        1: [],
        3: [{"attack": "changes", "finding": "Two of three.", "limit": "Not a search."}],
        4: [],
    }
    page = export_request(told, 1, tmp_path / "after.json")[1].read_text()
    assert "- run 3, changes: Two of three. *Limit: Not a search.*" in page
    assert "Not audited" not in page
    assert verify_ledger(told, data=source()).ok


def test_an_audit_of_another_model_is_not_in_the_trail(told: Ledger) -> None:
    Section(name="changes", title="Changes", sentence="All.", limit="None.", numbers={"x": 1}).save(
        told.run(3)
    )
    record = told.run(3) / "record.json"
    record.write_text(record.read_text().replace(Record.load(record).hashes.model_after, "0" * 64))
    assert findings(told, 3, "0" * 64)
    assert not [
        run["audit"] for batch in audit_trail(told, 1)["batches"] for run in batch["runs"] if run["audit"]
    ]


def test_the_events_of_a_trail_can_be_recomputed(told: Ledger) -> None:
    from stakes.files import digest

    chain = audit_trail(told, 2)["chain"]
    for event in chain["events"]:
        inner = digest(event["previous"], str(event["seq"]), event["at"], event["kind"], event["body"])
        assert inner == event["hash"]
    assert link("", 1, "t", "k", "b") == digest("", "1", "t", "k", digest("b"))
    assert chain["length"] == len(told.store.events())


def test_nobody_is_named(told: Ledger, tmp_path: Path) -> None:
    files = export_request(told, 1, tmp_path / "one")
    assert files[0].name == "one.json"
    request = told.view().requests[1].asked.body
    assert request.requester
    for text in (path.read_text() for path in files):
        for secret in (WHO, WHO.lower(), "Ann", NOTE, request.requester, request.spec):
            assert secret not in text
    for path in told.path.rglob("*"):
        if path.is_file():
            assert WHO.lower().encode() not in path.read_bytes().lower(), path


def test_refusals(told: Ledger, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"request 9: expected 1 to 2"):
        export_request(told, 9, tmp_path / "x.json")
    with pytest.raises(ConfigError, match=r"\.json"):
        export_request(told, 1, tmp_path / "x.md")


# -- who asked -------------------------------------------------------------------------------------------------


def test_one_requester_is_one_hash_in_one_ledger(ledger: Ledger, tmp_path: Path) -> None:
    ask(ledger, ROWS[0], requester=WHO)
    ask(ledger, ROWS[1], requester=f"  {WHO.lower()}\n")
    ask(ledger, ROWS[2], requester="bob@example.org")
    first, second, third = (one.asked.body.requester for one in ledger.view().requests.values())
    assert first == second != third
    # Not a plain hash, which could be found by trying addresses, and another in every ledger.
    assert first not in {hashlib.sha256(name.encode()).hexdigest() for name in (WHO, WHO.lower())}
    other = new_ledger(tmp_path / "other")
    ask(other, ROWS[0], requester=WHO)
    assert other.view().requests[1].asked.body.requester != first


def test_the_key_is_private_and_checked(ledger: Ledger) -> None:
    check = ledger.view().created.body.key_check
    if os.name == "posix":
        assert stat.S_IMODE(ledger.key.stat().st_mode) == 0o600
        ledger.key.chmod(0o644)
        with pytest.raises(LedgerError, match="chmod 600"):
            ask(ledger, ROWS[0], requester=WHO)
        ledger.key.chmod(0o600)
    assert key_check(read_key(ledger.key, check)) == check
    ledger.key.write_text("00" * 32)
    with pytest.raises(LedgerError, match="got another"):
        ask(ledger, ROWS[0], requester=WHO)
    ledger.key.unlink()
    with pytest.raises(LedgerError, match=r"ledger\.key"):
        ask(ledger, ROWS[0], requester=WHO)
    assert ask(ledger, ROWS[0]).number == 1, "whoever does not name anyone needs no key"
    with pytest.raises(ConfigError, match="nothing"):
        hashed("  ", b"k")
