"""Attributes from a language model, against a small server on this machine."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stakes.anchors import build_anchors, llm_attributes
from stakes.anchors.llm import parse_answer, question
from stakes.errors import AnchorError, MissingExtraError, NetworkError

KEY = "sk-very-secret-0123456789"
GOOD = "Sure:\n- striped fur of {n}\n- long tail\n- whiskers\n"


class Server:
    """Answers chat requests; ``reply`` maps the number of the request and its question to (status, text)."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[int, str], tuple[int, Any]] = lambda _, ask: (200, GOOD.format(n=hash(ask)))
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    count = len(outer.requests)
                status, text = outer.reply(count, body["messages"][0]["content"])
                choice = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
                raw = (
                    text if isinstance(text, bytes) else json.dumps({"id": "1", "choices": [choice]}).encode()
                )
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def _everything_in(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.rglob("*") if file.is_file())


def test_each_class_is_asked_for_once_and_answers_are_parsed(server: Server, tmp_path: Path) -> None:
    found = llm_attributes(["maple_tree", "cat"], "model-x", cache_dir=tmp_path)
    assert list(found.by_class) == ["maple_tree", "cat"]
    assert found.by_class["cat"][1:] == ("long tail", "whiskers")
    assert found.source == f"llm model-x at {server.url}"
    assert len(server.requests) == 2
    asked = {body["messages"][0]["content"] for body in server.requests}
    assert asked == {question("maple_tree"), question("cat")}
    assert '"maple tree"' in question("maple_tree")
    assert {body["model"] for body in server.requests} == {"model-x"}
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_second_call_asks_nothing_not_even_for_a_key(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path) == first
    assert len(server.requests) == 2


def test_other_models_and_endpoints_and_classes_are_asked_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    llm_attributes(["cat", "newt"], "m", cache_dir=tmp_path)
    assert len(server.requests) == 3
    llm_attributes(["cat", "dog"], "n", cache_dir=tmp_path)
    assert len(server.requests) == 5
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/other")
    llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    assert len(server.requests) == 7


def test_a_damaged_cache_file_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    first = llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 2
    files[0].write_text(files[0].read_text()[:20])
    files[1].write_text(json.dumps({"class": "x", "attributes": [""]}))
    assert llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path) == first
    assert len(server.requests) == 4


def test_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.reply = lambda count, ask: (500 if count <= 2 else 200, GOOD.format(n=hash(ask)))
    llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    assert len(server.requests) == 4


def test_lasting_server_errors_end_and_finished_classes_are_kept(server: Server, tmp_path: Path) -> None:
    def reply(_: int, ask: str) -> tuple[int, Any]:
        return (503, b"{}") if '"dog"' in ask else (200, GOOD.format(n=1))

    server.reply = reply
    with pytest.raises(NetworkError) as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path, max_retries=1)
    for word in ("503", "--attributes", "bundled"):
        assert word in str(caught.value)
    assert sum('"dog"' in body["messages"][0]["content"] for body in server.requests) == 2
    assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot help with that.",
        "- one thing only",
        "- \n- \n",
        None,
        7,
        b"<html>proxy login</html>",
        b"{}",
        b'{"choices": []}',
        b"null",
        "- " + "x" * 400 + "\n- y",
        f"- the key is {KEY}\n- long tail",
    ],
)
def test_nonsense_is_refused_and_never_cached(server: Server, tmp_path: Path, answer: Any) -> None:
    server.reply = lambda count, ask: (200, answer)
    with pytest.raises(NetworkError) as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    message = str(caught.value)
    assert "--attributes" in message
    assert "bundled" in message
    assert KEY not in message
    assert not list(tmp_path.rglob("*.json"))


def test_a_refused_key_is_said_and_not_shown(server: Server, tmp_path: Path) -> None:
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    server.reply = lambda count, ask: (401, echo)
    with pytest.raises(NetworkError, match="accepted key") as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    error: BaseException | None = caught.value
    while error is not None:  # nor in what a traceback would print
        assert KEY not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_two_classes_with_one_answer_are_refused(server: Server, tmp_path: Path) -> None:
    server.reply = lambda count, ask: (200, "- same\n- thing")
    with pytest.raises(AnchorError, match="same list"):
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)


def test_the_key_is_in_no_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("127", f"user:{KEY}@127"))
    found = llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    text = _everything_in(tmp_path)
    assert "long tail" in text
    assert KEY not in text
    assert KEY not in found.source


def test_nobody_there_is_a_network_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(NetworkError) as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path, max_retries=0)
    for word in ("127.0.0.1:9", "connection", "--attributes", "bundled"):
        assert word in str(caught.value)


@pytest.mark.parametrize("key", [None, "", "  "])
def test_no_key_names_the_other_ways(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(AnchorError) as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    for word in ("OPENAI_API_KEY", "--attributes", "bundled"):
        assert word in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize(
    ("name", "value"), [("OPENAI_API_KEY", "sk-é\nsecret"), ("OPENAI_BASE_URL", "ftp://x")]
)
def test_a_bad_environment_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(AnchorError, match=name) as caught:
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)
    assert "secret" not in str(caught.value)


def test_without_the_library_the_extra_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openai":
            raise ImportError("No module named 'openai'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"stakes\[llm\]"):
        llm_attributes(["cat", "dog"], "m", cache_dir=tmp_path)


def test_anchors_of_a_language_model_carry_no_key(server: Server, tmp_path: Path, minilm: Any) -> None:
    server.reply = lambda count, ask: (
        200,
        "- green skin\n- legs" if '"frog"' in ask else "- red fur\n- tail",
    )
    anchors = build_anchors(["frog", "fox"], llm="m", encoder=minilm, cache_dir=tmp_path)
    assert json.loads(anchors.provenance["descriptions"]) == {
        "frog": "green skin; legs",
        "fox": "red fur; tail",
    }
    assert anchors.provenance["attribute_source"].startswith("llm m at http://127.0.0.1")
    assert KEY not in json.dumps(dict(anchors.provenance))


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("- a b\n- c", ("a b", "c")),
        ("* a\n* c", ("a", "c")),
        ("• a\n• c", ("a", "c")),
        ("1. a\n2) c", ("a", "c")),
        ("A: here:\n\n  - **a**: b.\n  - `c`;\n\nHope this helps!", ("a: b", "c")),
        ("- a\n- A\n- c", ("a", "c")),
        ("- a\r\n- c\r\n", ("a", "c")),
        ('```json\n["a", "c"]\n```', ("a", "c")),
        ("<think>\n- wrong\n- bad\n</think>\n- a\n- c", ("a", "c")),
        ("- four-limbed - small\n- c", ("four-limbed - small", "c")),
        ("\n".join(f"- a{i}" for i in range(20)), tuple(f"a{i}" for i in range(12))),
    ],
)
def test_answers_are_parsed(text: str, attributes: tuple[str, ...]) -> None:
    assert parse_answer(text) == attributes


@pytest.mark.parametrize("text", ["", "no list", "- a", "[1, 2]", "[[[", "- 12\n- 34", "<think>- a\n- b"])
def test_answers_without_a_list_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="attributes"):
        parse_answer(text)
