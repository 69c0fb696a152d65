"""A key comes from the environment, and goes into no file, message, log or traceback."""

from __future__ import annotations

import io
import logging
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stakes.anchors import build_anchors
from stakes.anchors.llm import llm_attributes
from stakes.cli import app
from stakes.config import MethodSettings, RunSettings
from stakes.errors import StakesError

KEY = "sk-never-to-be-seen-0123456789"
ANSWERS = {
    "refused": (401, b'{"error": {"message": "Incorrect API key: %s"}}' % KEY.encode()),
    "broken": (500, KEY.encode()),
    "garbage": (200, b"<html>" + KEY.encode()),
    "echo": (
        200,
        b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, '
        b'"finish_reason": "stop", "message": {"role": "assistant", "content": "- %s\\n- fur"}}]}'
        % KEY.encode(),
    ),
}


@pytest.fixture(params=sorted(ANSWERS))
def endpoint(request, monkeypatch) -> Iterator[str]:
    """A server that fails in one of the ways that servers do, and throws the key back."""
    status, body = ANSWERS[request.param]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{KEY}@127.0.0.1:{server.server_port}/v1?k={KEY}")
    yield request.param
    server.shutdown()
    server.server_close()
    thread.join()


def files_with_key(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that any library logs, however quiet it should be."""
    kept = io.StringIO()
    handler = logging.StreamHandler(kept)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield kept
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_failing_endpoint_gives_nothing_away(endpoint, log, tmp_path):
    with pytest.raises(StakesError) as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path, max_retries=0)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert KEY not in str(caught.value)
    assert KEY not in log.getvalue()
    assert not files_with_key(tmp_path)


def test_the_command_gives_nothing_away(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    words = ["anchors", "--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "a.safetensors")]
    done = CliRunner().invoke(app, [*words, "--llm", "m"])
    assert isinstance(done.exception, StakesError)
    assert KEY not in done.output
    assert KEY not in "".join(traceback.format_exception(done.exception))
    assert not files_with_key(tmp_path)


def test_a_run_keeps_no_key(tmp_path, monkeypatch):
    import tinydigits
    from stakes.api import unlearn

    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, KEY)
    unlearn(
        tinydigits.digits_model("resnet10"),
        tinydigits.split(2),
        anchors=tinydigits.anchors(),
        device="cpu",
        preset="paper",
        settings=tinydigits.FEW_PROBES | {"max_steps": 1},
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    from stakes.report.page import write_page

    write_page(tmp_path / "run")
    assert not files_with_key(tmp_path)


@pytest.mark.parametrize("kind", [MethodSettings, RunSettings])
def test_no_setting_holds_a_key(kind):
    assert not [
        name for name in kind.model_fields if any(word in name for word in ("key", "token", "secret"))
    ]


def test_without_a_key_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(StakesError, match="OPENAI_API_KEY"):
        build_anchors(["cat", "dog"], llm="m")
