"""Verifying fails loudly, names what came back, and is itself on record."""

from __future__ import annotations

import pytest
from doubles import problem
from ledgerkit import ROWS, ask, asked_and_done, carry_out, kinds, source

from stakes.data.sources import Source
from stakes.ledger import CameBackError, Ledger, LedgerError, Verification, verify_ledger


def verified(ledger: Ledger, **more: object) -> Verification:
    return verify_ledger(ledger, **{"data": source(), "device": "cpu"} | more)  # type: ignore[arg-type]


def test_nothing_asked(ledger: Ledger) -> None:
    found = verified(ledger)
    assert found.ok
    assert found.checked == ()


def test_the_current_model_is_right(ledger: Ledger) -> None:
    asked_and_done(ledger)
    ask(ledger, (9,))
    found = verified(ledger)
    found.require()
    assert (found.ok, found.checked, found.pending) == (True, (1, 2, 3), (4,))
    event = ledger.store.events()[-1]
    assert (event.hash, event.body.kind) == (found.head, "checked")
    assert verified(ledger, head=found.head).ok
    assert verified(ledger, head=found.head[:12]).ok
    with pytest.raises(LedgerError, match="12 characters or more"):
        verified(ledger, head=found.head[:11])


def test_the_original_model_is_refused(ledger: Ledger) -> None:
    asked_and_done(ledger)
    found = verified(ledger, model=problem("linear").model)
    assert set(found.recognised) == {1, 2, 3}
    assert "original model" in found.mismatch
    with pytest.raises(
        CameBackError, match=r"Request 1 came back: 2 of 2 images.*Request 3 came back"
    ) as caught:
        found.require()
    assert caught.value.exit_code == 8
    assert ledger.view().checks[-1].body.recognised == found.recognised


def test_an_earlier_state_is_refused_and_named(ledger: Ledger) -> None:
    asked_and_done(ledger)
    view = ledger.view()
    state = view.adopted[-2]
    found = verified(ledger, model=ledger.states.load(state, view.configs[state]))
    assert set(found.recognised) == {3}
    assert f"earlier state {state[:12]}" in found.mismatch


def test_another_model_is_refused_even_if_it_recognises_nothing(ledger: Ledger) -> None:
    asked_and_done(ledger)
    model = ledger.current(ledger.view())
    model.head.bias.data += 1e-4
    found = verified(ledger, model=model)
    assert not found.recognised
    assert "no state that the ledger knows" in found.mismatch
    assert not found.ok


def test_the_same_weights_with_other_names_are_another_model(ledger: Ledger) -> None:
    """With two classes swapped in its names a model seems to have forgotten them."""
    asked_and_done(ledger)
    model = ledger.current(ledger.view())
    model.class_names = ("bee", "ant", "cow")
    found = verified(ledger, model=model)
    assert "config.json" in found.mismatch
    assert not found.ok


def test_images_from_a_folder_or_nowhere(ledger: Ledger) -> None:
    ask(ledger, ROWS[0])
    carry_out(ledger)
    before = kinds(ledger)
    with pytest.raises(Exception, match="cannot be found"):
        verify_ledger(ledger)
    assert kinds(ledger) == before, "a verification that could not measure is none"
    train = source().train
    assert train is not None
    assert verified(ledger, data=Source(train.subset(ROWS[0]), None, train.class_names, "two")).ok


def test_a_model_of_other_classes_is_told_as_another(ledger: Ledger) -> None:
    asked_and_done(ledger)
    other = ledger.current(ledger.view())
    other.class_names = ("x", "y", "z")
    found = verified(ledger, model=other)
    assert "tells other classes" in found.mismatch
    assert found.checked == ()
    with pytest.raises(CameBackError, match="not the ledger's"):
        found.require()
