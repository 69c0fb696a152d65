"""Attributes written by a language model behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import logging
import os
import re
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stakes.anchors.attributes import (
    OTHER_WAYS,
    Attributes,
    check_attributes,
    check_class_names,
    clean_attributes,
)
from stakes.errors import AnchorError, MissingExtraError, NetworkError
from stakes.files import digest_json, write_json

DEFAULT_URL = "https://api.openai.com/v1"
FEWEST, MOST = 2, 12
SEVERAL = 4  # requests under way at once

PROMPT = """\
Q: Which visible features help to recognise a zebra in a photograph?
A: A zebra in a photograph can be recognised by:
- black and white stripes over the whole body
- short upright mane
- horse-like shape with a rounded belly
- long face with a dark muzzle
- thin tail with a tuft at the end
- dry grassland around it

Q: Which visible features help to recognise an umbrella in a photograph?
A: An umbrella in a photograph can be recognised by:
- wide dome of stretched fabric
- thin metal ribs meeting in the centre
- long straight shaft
- curved handle
- held above a person's head in the rain

Q: Which visible features help to recognise the class "{class_name}" in a photograph?
A: (5 to 8 short lines, each starting with "- ", texture, shape, parts and context only)
"""


def llm_attributes(
    class_names: Sequence[str],
    model: str,
    *,
    cache_dir: str | Path | None = None,
    max_retries: int = 4,
    timeout: float = 60.0,
) -> Attributes:
    """Ask a language model for the attributes of each class.

    One class-aware question a class: two worked examples and then the class. The key comes from the
    environment variable ``OPENAI_API_KEY`` alone, the endpoint from ``OPENAI_BASE_URL`` (default OpenAI's).
    Answers are kept on disk under a hash of model, endpoint, question and class, so that a second call asks
    nothing and an interrupted one goes on where it stopped. The key is never written or shown. Only class
    names leave the machine, never an image.

    Args:
        class_names: at least two, different.
        model: the model's name at the endpoint.
        cache_dir: where answers are kept; the user's cache folder by default.
        max_retries: how often a request that failed for a passing reason (no connection, busy, server error)
            is sent again, after growing pauses.
        timeout: seconds for one request.

    Raises:
        AnchorError: no key.
        MissingExtraError: the library ``openai`` is not installed.
        NetworkError: the endpoint cannot be reached, refuses, or answers without usable attributes.

    Source:
        Menon & Vondrick, Visual Classification via Description from Large Language Models (ICLR 2023), whose
        form of question the paper (section 3.1) uses; the wording here is our own. A model may describe a
        class wrongly: read the attributes before you rely on them.

    Example:
        >>> llm_attributes(["cat", "dog"], "gpt-4o")  # doctest: +SKIP
    """
    names = check_class_names(class_names)
    if not model.strip():
        raise AnchorError("language model", expected="its name at the endpoint", got="an empty one")
    folder = _cache_folder(cache_dir)
    url = (os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).strip().rstrip("/")
    answers = {name: _cached(_cache_file(folder, model, url, name)) for name in names}
    waiting = [name for name, answer in answers.items() if answer is None]
    if waiting:
        with _unlogged(), _client(url, max_retries, timeout) as client, ThreadPoolExecutor(SEVERAL) as pool:
            jobs = {name: pool.submit(_fetch, client, folder, model, url, name) for name in waiting}
            try:
                for name, job in jobs.items():
                    answers[name] = job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    found = {name: answer for name, answer in answers.items() if answer is not None}
    checked = check_attributes(found, names, origin=f"answers of {model}")
    return Attributes(types.MappingProxyType(dict(checked.by_class)), f"llm {model} at {_public(url)}")


def question(class_name: str) -> str:
    """The question for one class.

    Underscores are read as spaces.

    Example:
        >>> '"maple tree"' in question("maple_tree")
        True
    """
    return PROMPT.replace("{class_name}", " ".join(class_name.replace("_", " ").split()))


def parse_answer(text: str) -> tuple[str, ...]:
    """The attributes in a model's answer.

    Takes lines that start with ``-``, ``*``, ``•`` or a number; without any, a JSON list of strings. Leaves
    out reasoning between ``<think>`` marks, code fences, bold marks, full stops, repeats, empty lines, and
    everything from the thirteenth on.

    Raises:
        ValueError: fewer than two attributes.

    Example:
        >>> parse_answer("Sure!\\n- **striped** fur.\\n* long tail")
        ('striped fur', 'long tail')
    """
    text = re.sub(r"<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL | re.IGNORECASE)
    lines = [
        match.group(1) for match in re.finditer(r"^\s*(?:[-*•–—‣▪]|\d{1,2}[.)])\s+(.*)$", text, re.MULTILINE)
    ]
    kept: dict[str, str] = {}
    for line in lines or _json_list(text):
        plain = re.sub(r"\*\*|__|`", "", line).strip().rstrip(".;,").strip()
        plain = " ".join(plain.split())
        if plain and any(letter.isalpha() for letter in plain):
            kept.setdefault(plain.casefold(), plain)
    if len(kept) < FEWEST:
        raise ValueError(f"{len(kept)} attributes")
    return tuple(kept.values())[:MOST]


def _json_list(text: str) -> list[str]:
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return []
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return []
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _fetch(client: Any, folder: Path, model: str, url: str, class_name: str) -> tuple[str, ...]:
    text = _ask(client, model, url, class_name)
    try:
        attributes = clean_attributes(class_name, parse_answer(text))
    except (ValueError, AnchorError) as error:
        raise _bad_answer(model, class_name, text) from error
    record = {
        "model": model,
        "endpoint": _public(url),
        "class": class_name,
        "question": question(class_name),
        "attributes": list(attributes),
    }
    if _has_key(json.dumps(record)):
        raise _bad_answer(model, class_name, "")
    write_json(_cache_file(folder, model, url, class_name), record)
    return attributes


def _ask(client: Any, model: str, url: str, class_name: str) -> str:
    import openai

    try:
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question(class_name)}]
        )
    # The chain is cut with `from None`: the library's errors carry the request, and with it the key.
    except openai.AuthenticationError:
        raise NetworkError(
            f"endpoint {_public(url)}", expected="an accepted key", got="a refusal", fix=_other_ways()
        ) from None
    except openai.APIStatusError as error:
        raise NetworkError(
            f"language model {model!r} at {_public(url)}",
            expected="an answer",
            got=f"HTTP status {error.status_code}",
            fix=f"Check the model's name and the endpoint. {_other_ways()}",
        ) from None
    except openai.APITimeoutError:
        raise NetworkError(
            f"endpoint {_public(url)}", expected="an answer in time", got="none", fix=_other_ways()
        ) from None
    except openai.APIConnectionError:
        raise NetworkError(
            f"endpoint {_public(url)}", expected="a connection", got="none", fix=_other_ways()
        ) from None
    except (openai.OpenAIError, ValueError, TypeError):
        raise _bad_answer(model, class_name, "") from None
    try:
        text = reply.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        text = None
    if not isinstance(text, str) or not text.strip():
        raise _bad_answer(model, class_name, "")
    return text


def _bad_answer(model: str, class_name: str, text: str) -> NetworkError:
    shown = " ".join(text.split())[:80]
    got = f"{shown!r}" if shown and not _has_key(text) else "nothing usable"
    return NetworkError(
        f"answer of {model!r} for class {class_name!r}",
        expected="a list of 5 to 8 short attributes",
        got=got,
        fix=f"Try again or try another model. {_other_ways()}",
    )


def _client(url: str, max_retries: int, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "attributes from a language model",
            expected="the library openai",
            got="none installed",
            fix=f"Run `pip install 'stakes[llm]'`. {_other_ways()}",
        ) from error
    key = _key()
    if not key:
        raise AnchorError(
            "attributes from a language model",
            expected="a key in the environment variable OPENAI_API_KEY",
            got="none",
            fix=f"Set it (any word for a local server that asks for none). {_other_ways()}",
        )
    if not (key.isascii() and key.isprintable()):
        raise AnchorError("OPENAI_API_KEY", expected="plain printable characters", got="others")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise AnchorError("OPENAI_BASE_URL", expected="an http or https address", got=_public(url))
    return openai.OpenAI(api_key=key, base_url=url, max_retries=max_retries, timeout=timeout)


@contextmanager
def _unlogged() -> Iterator[None]:
    """HTTP clients log addresses, and an address may hold a password."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _other_ways() -> str:
    return f"Or {OTHER_WAYS['bundled']}, or {OTHER_WAYS['file']}."


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


def _has_key(text: str) -> bool:
    return bool(_key()) and len(_key()) >= 8 and _key() in text


def _public(url: str) -> str:
    """An address without user, password and query, which may hold secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(not an address)"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _cache_folder(cache_dir: str | Path | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "attributes"
    import platformdirs

    return platformdirs.user_cache_path("stakes") / "attributes"


def _cache_file(folder: Path, model: str, url: str, class_name: str) -> Path:
    name = digest_json(
        {"model": model, "url": _public(url), "prompt": question(class_name), "class": class_name}
    )
    return folder / f"{name}.json"


def _cached(file: Path) -> tuple[str, ...] | None:
    """The attributes kept in ``file``; None where it is absent or damaged: then they are asked for again."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return clean_attributes(value["class"], value["attributes"])
    except (OSError, ValueError, KeyError, TypeError, AnchorError):
        return None
