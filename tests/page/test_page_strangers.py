"""What strangers wrote, as names and messages show it; and what the page's policy lets run."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

NAMES = """async ([how, text]) => {
  const names = await import("/app/names.js");
  return how === "fileName" ? names.fileName(text, "json") : names[how](text);
}"""
LONG = """async (part) => {
  const { nameOf, messageOf } = await import("/app/names.js");
  const text = part.repeat(1_000_000);
  const runs = [0, 1, 2].map(() => {
    const began = performance.now();
    return [nameOf(text).length, messageOf(text).length, performance.now() - began];
  });
  return runs.sort((one, other) => one[2] - other[2])[0]; // the quickest: the machine may be busy
}"""
HASH = "0123456789abcdef" * 4
# Text -> what is shown of it. Escapes: what cannot be seen should be seen here.
SHOWN = {
    "Tiny Chat": "Tiny Chat",
    "invoice\u202egpj.gguf": "invoicegpj.gguf",
    "a\u202ab\u202bc\u202cd\u202de": "abcde",
    "a\u2066b\u2067c\u2068d\u2069e": "abcde",
    "a\u200eb\u200fc\u061cd": "abcd",
    "pay\u200bpal\ufeff\u2060\u00ad": "paypal",
    "line\none\r\n\ttwo\u2028three": "line one two three",
    "nul\0bell\x07del\x7fc1\x9b": "nulbelldelc1",
    "tag\U000e0041\U000e007f": "tag",
    "x\u200dy\u200c": "xy",
    "می\u200cخواهم": "می\u200cخواهم",  # Persian needs this one
    "👩\u200d💻": "👩\u200d💻",
    "Z" + "\u0301" * 50: "Z" + "\u0301" * 4,
    "\ud800lone": "lone",
    "  \u3164 ": "",
    "שלום world": "שלום world",
    "👩\u200d💻" * 100: "👩\u200d💻" * 79 + "…",
    "long " * 100: ("long " * 16).strip() + "…",
}


@pytest.mark.parametrize("text", SHOWN, ids=range(len(SHOWN)))
def test_names(plain_page: Page, text: str) -> None:
    name = plain_page.evaluate(NAMES, ["nameOf", text])
    assert name == SHOWN[text]


@pytest.mark.parametrize("part", ["a", "\u202e", "\u0301", "\u200d", "0", " "], ids=range(6))
def test_names_of_a_megabyte_are_quick(plain_page: Page, part: str) -> None:
    name, message, took = plain_page.evaluate(LONG, part)
    assert name <= 80
    assert message <= 601
    assert took < 1000


def test_messages_are_sentences_without_hashes(plain_page: Page) -> None:
    said = plain_page.evaluate(NAMES, ["messageOf", f"{HASH} is\u202e wrong:\nget it again"])
    assert said == "0123456789ab… is wrong. Get it again."
    assert plain_page.evaluate(NAMES, ["messageOf", "try again."]) == "Try again."
    url = "https://example.org/model.gguf answered 404"
    assert plain_page.evaluate(NAMES, ["messageOf", url]) == f"{url}."
    sentences = {
        "no model is loaded: load one first": "No model is loaded. Load one first.",
        "config.json is not there; check it": "config.json is not there. Check it.",
        "a.gguf: bits = 9: convert it": "a.gguf: bits = 9: convert it.",
        "it is full; delete a model: Tiny takes 8": "It is full. Delete a model: Tiny takes 8.",
        "it (X: no; y) is gone; try again": "It (X: no; y) is gone. Try again.",
        "prompt_ids: none": "prompt_ids: none.",
        "": "",
    }
    told = {text: plain_page.evaluate(NAMES, ["messageOf", text]) for text in sentences}
    assert told == sentences


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("a/b\\c:d*e?f", "a-b-c-d-e-f.json"),
        ("../../etc/passwd", "etc-passwd.json"),
        ("\u202e\u200b", "conversation.json"),
        ("x" * 500, "x" * 59 + ".json"),
        ("日本語 title", "日本語-title.json"),
    ],
)
def test_names_of_files(plain_page: Page, title: str, file: str) -> None:
    assert plain_page.evaluate(NAMES, ["fileName", title]) == file


REFUSED = [
    'document.body.innerHTML = "<b>x</b>"',
    'document.body.insertAdjacentHTML("beforeend", "<b>x</b>")',
    'document.createElement("iframe").srcdoc = "<b>x</b>"',
    'document.createElement("script").src = "/app/main.js"',
    'new DOMParser().parseFromString("<b>x</b>", "text/html")',
    'new Worker("/worker.js")',
    'navigator.serviceWorker.register("/sw.js")',
    'trustedTypes.createPolicy("other", {createHTML: (html) => html})',
    'trustedTypes.createPolicy("default", {createHTML: (html) => html})',
    'setTimeout("1")',
]


@pytest.mark.parametrize("code", REFUSED)
def test_texts_become_no_code(plain_page: Page, code: str) -> None:
    attempt = f"async () => {{ try {{ await ({code}); }} catch (e) {{ return e.name; }} }}"
    assert plain_page.evaluate(attempt) == "TypeError"


def test_only_our_own_workers(plain_page: Page) -> None:
    attempt = """async (path) => {
      const { workerURL } = await import("/runtime/trusted.js");
      try { return String(workerURL(path)); } catch (error) { return error.name; }
    }"""
    own = plain_page.evaluate(attempt, "../worker.js")
    assert own.endswith("/worker.js")
    for other in ("../app/main.js", "../worker.js?x", "https://example.org/worker.js", "blob:x"):
        assert plain_page.evaluate(attempt, other) == "TypeError"


def test_the_policy_of_an_answer(plain_page: Page) -> None:
    answer = plain_page.request.get(plain_page.url)
    policy = answer.headers["content-security-policy"].split("; ")
    assert "worker-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "trusted-types doppler dompurify" in policy
