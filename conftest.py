"""Examples are run: docstrings and pages as they stand, commands as far as the command line understands them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sybil import Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent


def check_commands(example: Example) -> None:
    """Every ``stakes`` command is one, with options that it takes; targets of make and files of ours exist."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:&&|\|\||\|)\s", line):
            # What a shell would put in is unknown; a number is taken wherever a word is.
            words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in shlex.split(part, comments=True)]
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words:
                _check(words)


def _check(words: list[str]) -> None:
    name = Path(words[0]).name
    if name == "stakes":
        _check_stakes(words[1:])
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        assert not unknown, f"no such target: {unknown}"
    elif name in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"no such file: {words[1]}"


def _check_stakes(words: list[str]) -> None:
    from typer.main import get_command

    from stakes.cli import app

    command: Any = get_command(app)
    path = "stakes"
    while hasattr(command, "commands") and words and words[0] in command.commands:
        path += f" {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    assert not hasattr(command, "commands") or words[:1] == ["--help"], f"no such command: {path} {words[:1]}"
    if "--help" not in words and "…" not in words:
        command.make_context(path, list(words))


def check_json(example: Example) -> None:
    """It is JSON."""
    json.loads(example.parsed)


def check_yaml(example: Example) -> None:
    """It is YAML."""
    yaml.safe_load(example.parsed)


def in_a_page(namespace: dict[str, Any]) -> None:
    """What the pages speak of as theirs: a small model, and images of it to forget."""
    import torch

    import stakes

    torch.manual_seed(0)
    names = ("cat", "dog", "frog")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    pixels, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    images = stakes.ImageSet.from_tensors(pixels, labels, names)
    namespace |= {
        "stakes": stakes,
        "torch": torch,
        "network": network,
        "pixels": pixels,
        "labels": labels,
        "class_names": names,
        "names": names,
        "forget": images,
        "model": stakes.as_classifier(network, images),
    }


@pytest.fixture(scope="module")
def somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A page's code writes into a folder that is thrown away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(tmp_path_factory.mktemp("page"))
        yield


PAGES = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser(language="bash", evaluator=check_commands),
        CodeBlockParser(language="json", evaluator=check_json),
        CodeBlockParser(language="yaml", evaluator=check_yaml),
        SkipParser(),
    ],
    patterns=["docs/*.md", "README.md", "experiments/README.md"],
    setup=in_a_page,
    fixtures=["somewhere_else"],
)
DOCSTRINGS = Sybil(
    parsers=[DocTestParser()],
    patterns=["src/stakes/**/*.py"],
    document_types={".py": PythonDocStringDocument},
    fixtures=["somewhere_else"],
)
pytest_collect_file = (PAGES + DOCSTRINGS).pytest()
