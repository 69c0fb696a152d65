"""The documentation site: no warning, every page and every public name in it."""

from __future__ import annotations

import logging
import re
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stakes

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs", reason="extra 'docs' is not installed")


@pytest.fixture(scope="module")
def hooks(load_script: Any) -> ModuleType:
    return load_script(ROOT / "tools" / "docs_site.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    out = tmp_path_factory.mktemp("site")
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear = Ear(logging.WARNING)
    logging.getLogger("mkdocs").addHandler(ear)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        try:
            config: Any = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=False)
            config.plugins.run_event("startup", command="build", dirty=False)
            build(config)
        finally:
            logging.getLogger("mkdocs").removeHandler(ear)
    assert heard == [], "\n".join(heard)
    return out


@pytest.fixture(scope="module")
def inventory(site: Path) -> set[str]:
    """Every name that has a place on some page."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}


def test_every_public_name_has_its_place(inventory: set[str], hooks: ModuleType, site: Path) -> None:
    wanted = {f"stakes.{name}" for name in stakes.__all__ if name != "__version__"}
    for module in hooks.public_modules():
        path = ROOT / "src" / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        wanted |= {f"{module}.{name}" for name in hooks.public_names(path)}
    assert len(wanted) > 200
    assert wanted - inventory == set()
    assert "stakes.__version__" in (site / "reference" / "stakes.html").read_text()


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
        assert f'href="{page.stem}.html"' in start, page.name


def test_every_command_is_told(site: Path) -> None:
    from typer.main import get_command

    from stakes.cli import app

    text = (site / "commands.html").read_text()
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f">stakes {name}" in text


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"""(?:src=|<link[^>]+href=)["']?(?:https?:)?//""", text), page


def test_a_link_to_nothing_is_a_warning(hooks: ModuleType) -> None:
    class Page:
        class file:
            src_uri = "quickstart.md"

    lead = hooks.on_page_markdown
    assert lead("[a](../CHANGELOG.md#x)", Page, {}, {}) == "[a](changes.md#x)"
    assert lead("[a](../mkdocs.yml)", Page, {}, {}) == "[a](files/mkdocs.yml)"
    assert lead("[the `src`](../src)", Page, {}, {}) == "the `src`"
    assert lead("[a](https://x.org/y)", Page, {}, {}) == "[a](https://x.org/y)"
    assert lead("[a](../no-such.md)", Page, {}, {}) == "[a](files/no-such.md)", (
        "and no such file is in the site"
    )
