"""The bundled lists: complete, publishable, and found by name."""

from __future__ import annotations

import pytest

from stakes.anchors import SentenceEncoder, build_anchors, bundled_attributes
from stakes.anchors.attributes import normalise_name
from stakes.anchors.catalogue import _bundled
from stakes.errors import AnchorError

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = CIFAR100_NAMES.split()
FASHION = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
EXPECTED = {
    "digits": [str(digit) for digit in range(10)],
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "fashion_mnist": FASHION,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_class_is_there_and_no_other(name: str) -> None:
    assert list(_bundled()[name]) == EXPECTED[name]
    assert bundled_attributes(EXPECTED[name]).source == f"bundled {name}"


def test_the_names_counted() -> None:
    assert {name: len(classes) for name, classes in EXPECTED.items()} == {
        "digits": 10,
        "cifar10": 10,
        "cifar100": 100,
        "fashion_mnist": 10,
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_lists_are_5_to_8_short_different_attributes(name: str) -> None:
    for label, attributes in _bundled()[name].items():
        assert 5 <= len(attributes) <= 8, label
        assert len({text.casefold() for text in attributes}) == len(attributes), label
        for text in attributes:
            assert 4 <= len(text) <= 60, (label, text)
            assert text == " ".join(text.split()), (label, text)
            assert not text.endswith("."), (label, text)
            assert ";" not in text, (label, text)


@pytest.mark.parametrize("name", EXPECTED)
def test_attributes_do_not_give_the_class_name_away(name: str) -> None:
    for label, attributes in _bundled()[name].items():
        words = {word for text in attributes for word in normalise_name(text).split()}
        if label not in {"can", "orange"}:  # a verb and a colour
            assert normalise_name(label) not in words, label


@pytest.mark.parametrize("name", EXPECTED)
def test_anchors_of_a_list_are_told_apart(name: str, minilm: SentenceEncoder) -> None:
    matrix = build_anchors(EXPECTED[name], encoder=minilm).matrix
    cosines = matrix @ matrix.T
    cosines.fill_diagonal_(-1)
    assert float(cosines.max()) < 0.9


def test_subsets_and_other_spellings_are_found() -> None:
    found = bundled_attributes(["Sweet Pepper", "AQUARIUM_FISH"])
    assert list(found.by_class) == ["Sweet Pepper", "AQUARIUM_FISH"]
    assert bundled_attributes(["T - shirt / top", "ankle_boot"]).source == "bundled fashion_mnist"


def test_unknown_classes_are_named_with_the_ways_out() -> None:
    with pytest.raises(AnchorError) as caught:
        bundled_attributes(["cat", "dog", "airplan", "zyzzyva"])
    message = str(caught.value)
    for word in ("'airplan'", "'zyzzyva'", "'airplane'", "--attributes", "--llm", "cifar10"):
        assert word in message
    assert "'dog'" not in message


def test_classes_of_two_lists_are_refused() -> None:
    with pytest.raises(AnchorError, match="'maple_tree'"):
        bundled_attributes(["cat", "dog", "maple_tree"])


def test_two_spellings_of_one_class_are_refused() -> None:
    with pytest.raises(AnchorError, match="'Cat'"):
        bundled_attributes(["cat", "Cat"])
