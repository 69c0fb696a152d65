"""Hooks of the documentation site: what mkdocs cannot see by itself.

Pages beside ``docs/`` (README, experiments, changes), a page for each public module, one for the public face, one for
the commands, and a navigation of whatever pages there are. Links that leave ``docs/`` lead to a copy inside the site; a
link to nothing is left for mkdocs to complain about.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
BESIDE = {  # in the repository: in the site
    "README.md": "index.md",
    "experiments/README.md": "experiments/index.md",
    "experiments/LOG.md": "experiments/log.md",
    "CHANGELOG.md": "changes.md",
}
FIRST = ("quickstart", "method", "attributes")
LAST = ("adding-a-method", "decisions")
_LINK = re.compile(r"(?<!`)(!?\[[^\]]*\]\()([^)\s]+)(\))")
_ELSEWHERE = re.compile(r"^(?:[a-z]+:|#|/)")


_SECTIONS = (
    (re.compile(r"^(\s*)Example:$", re.MULTILINE), r"\1Examples:"),
    (re.compile(r"^(\s*)Class attributes:$", re.MULTILINE), r"\1Attributes:"),
)


class Headings(griffe.Extension):
    """Section headings of our docstrings as griffe spells them; it would show an ``Example:`` as prose."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the headings of one docstring."""
        if obj.docstring:
            for ours, theirs in _SECTIONS:
                obj.docstring.value = ours.sub(theirs, obj.docstring.value)


def public_modules() -> list[str]:
    """Dotted names of the modules that have a page: those without an underscore and with something to show."""
    found = []
    for path in sorted((SOURCE / "stakes").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if len(parts) > 1 and not any(part.startswith("_") for part in parts) and public_names(path):
            found.append(".".join(parts))
    return found


def public_names(path: Path) -> list[str]:
    """Classes and functions that a file defines and does not hide."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Navigation: the pages there are, in a readable order."""
    pages = [path.stem for path in sorted((ROOT / "docs").glob("*.md"))]
    middle = [page for page in pages if page not in FIRST + LAST]
    guide = [page for page in (*FIRST, *middle, *LAST) if page in pages]
    config.nav = [
        {"stakes": "index.md"},
        {"Guide": [f"{page}.md" for page in guide]},
        {"Experiments": ["experiments/index.md", "experiments/log.md"]},
        {"Commands": "commands.md"},
        {"Reference": _reference()},
        {"Changes": "changes.md"},
    ]
    return config


def _reference() -> list[Any]:
    """The public face, then modules, those of a package under its name."""
    shown: list[Any] = [{"import stakes": "reference/stakes.md"}]
    packages: dict[str, list[Any]] = {}
    for name in public_modules():
        package = name.split(".")[1]
        inside = (SOURCE / "stakes" / package).is_dir()
        (packages.setdefault(package, []) if inside else shown).append({name: f"reference/{name}.md"})
    return shown + [{f"stakes.{package}": pages} for package, pages in packages.items()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages beside ``docs/`` and those that are made."""
    for uri, content in _made():
        files.append(File.generated(config, uri, content=content))
    return files


def _made() -> Iterator[tuple[str, str | bytes]]:
    for path, uri in BESIDE.items():
        yield uri, (ROOT / path).read_text(encoding="utf-8")
    yield "commands.md", commands_page()
    yield "reference/stakes.md", _face()
    for name in public_modules():
        yield (
            f"reference/{name}.md",
            f"# `{name}`\n\n::: {name}\n    options:\n      show_root_heading: false\n",
        )
    places = [*(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), *BESIDE]
    linked = {file for place in places for file in _linked_files(place)}
    for file in sorted(linked):
        yield f"files/{file}", (ROOT / file).read_bytes()


def _linked_files(place: str) -> Iterator[str]:
    """Files of the repository, outside the site, that a page links to."""
    for _, target, _ in _LINK.findall((ROOT / place).read_text(encoding="utf-8")):
        file = _in_repository(place, target)
        if file and file not in BESIDE and not file.startswith("docs/") and (ROOT / file).is_file():
            yield file


def _face() -> str:
    import stakes

    parts = [f"::: stakes.{name}" for name in stakes.__all__ if name != "__version__"]
    return "# `import stakes`\n\n`stakes.__version__` is the version as text.\n\n" + "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links of the repository to their places in the site."""
    uri = page.file.src_uri
    place = next((path for path, there in BESIDE.items() if there == uri), f"docs/{uri}")
    if uri.startswith("reference/") or not (ROOT / place).is_file():
        return markdown

    def lead(match: re.Match[str]) -> str:
        opening, target, closing = match.groups()
        file = _in_repository(place, target)
        if file is None:
            return match.group()
        if (ROOT / file).is_dir():  # the site has no listing of folders
            return opening.strip("![(").removesuffix("]")
        anchor = target.partition("#")[2]
        if file in BESIDE:
            there = BESIDE[file]
        elif file.startswith("docs/"):
            there = file.removeprefix("docs/")
        else:
            there = f"files/{file}"
        relative = posixpath.relpath(there, posixpath.dirname(uri) or ".")
        return f"{opening}{relative}{'#' + anchor if anchor else ''}{closing}"

    return _LINK.sub(lead, markdown)


def _in_repository(place: str, target: str) -> str | None:
    """The file or folder a link of a page leads to, as a path in the repository; None where it leads elsewhere."""
    if _ELSEWHERE.match(target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target.partition("#")[0]))


def commands_page() -> str:
    """The command line, from what ``--help`` says."""
    from typer.main import get_command

    from stakes.cli import app

    lines = ["# Commands", "", "Each command takes `--help`.", ""]
    for name, command in _leaves("stakes", get_command(app)):
        lines += [f"## {name}", "", _cell(command.help or ""), "", "| | |", "|---|---|"]
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            says = parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.name).upper()
            help_text = getattr(parameter, "help", "") or ""
            lines.append(f"| `{says}`{' (needed)' if parameter.required else ''} | {_cell(help_text)} |")
        lines.append("")
    return "\n".join(lines)


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, child in sorted(inner.items()):
        yield from _leaves(f"{name} {word}", child)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
