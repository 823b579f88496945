"""Answers as they are shown: formulas, colours of code, directions; each in the real module."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from doppler.command.server import WEB

# Shows a text as an answer in a page without an engine; waits for what is drawn later.
SHOW = """async ([texts, wanted]) => {
  const { Prose } = await import("/app/markdown.js");
  const { textOf } = await import("/app/formulas.js");
  window.prose?.element.remove();
  window.prose = new Prose();
  document.body.append(prose.element);
  const seen = [];
  for (const [index, text] of texts.entries()) {
    const growing = index < texts.length - 1;
    prose.render(text, growing);
    if (wanted) {
      while (!prose.element.querySelector(wanted)) await new Promise(requestAnimationFrame);
      wanted = null;
    }
    seen.push({
      text: [...prose.element.children].map(textOf).join("\\n"),
      formulas: [...prose.element.querySelectorAll(".formula.drawn")].map(textOf),
      tex: [...prose.element.querySelectorAll("annotation")].map((note) => note.textContent),
      display: prose.element.querySelectorAll(".katex-display").length,
      wrong: [...prose.element.querySelectorAll(".formula.wrong")].map(textOf),
      code: [...prose.element.querySelectorAll("code:not(.formula)")].map((c) => c.textContent),
      coloured: [...prose.element.querySelectorAll(".hljs-keyword")].map((c) => c.textContent),
      emphasis: [...prose.element.querySelectorAll("em, strong")].map(textOf),
    });
  }
  return seen;
}"""
TIMES = """async (parts) => {
  const { Prose } = await import("/app/markdown.js");
  const once = (part) => {
    const began = performance.now();
    new Prose().render(part.repeat(1000), false);
    return performance.now() - began;
  };
  // The quickest of three: the machine may be busy.
  return parts.map((part) => Math.min(...[0, 1, 2].map(() => once(part))));
}"""
# Contrast of each coloured part of code against the ground of its block, the smallest.
CONTRAST = """(theme) => {
  document.documentElement.dataset.theme = theme;
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
    const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.querySelector("figure.code")).backgroundColor);
  const parts = [...document.querySelectorAll(".hljs [class^=hljs-]")];
  return parts.map((part) => {
    const ink = light(getComputedStyle(part).color);
    return [part.className, (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)];
  });
}"""


@pytest.fixture(scope="module")
def page(plain_page: Page) -> Page:
    """With the styles of answers."""
    for name in ("base", "prose", "formulas", "code"):
        plain_page.add_style_tag(path=WEB / "app" / f"{name}.css")
    return plain_page


def shown(page: Page, *texts: str, wanted: str | None = None) -> list[dict[str, Any]]:
    """What is to be seen of an answer after each of its states."""
    seen: list[dict[str, Any]] = page.evaluate(SHOW, [texts, wanted])
    return seen


FORMULAS = {
    r"where \(x^2\) is": ([r"\(x^2\)"], 0),
    "so $E = mc^2$.": (["$E = mc^2$"], 0),
    "$$\n\\frac{a}{b}\n$$": (["$$\n\\frac{a}{b}\n$$"], 1),
    "so:\n\\[ a_1 * b * c \\]\nthus": ([r"\[ a_1 * b * c \]"], 1),
    "a $$x$$ in a line": (["$$x$$"], 1),
    "$a_1$, $b*c*d$ and *so* on": (["$a_1$", "$b*c*d$"], 0),
    "- in $\\alpha$\n\n| a | b |\n|-|-|\n| $\\beta$ | c |": (["$\\alpha$", "$\\beta$"], 0),
    "> quoted \\(q\\)\n\n# Heading $h$\n\n**bold $b$**": ([r"\(q\)", "$h$", "$b$"], 0),
    "$\\text{costs \\$5}$": (["$\\text{costs \\$5}$"], 0),
    "\\[\na\n\nb\n\\]": (["\\[\na\n\nb\n\\]"], 1),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas(page: Page, text: str) -> None:
    formulas, display = FORMULAS[text]
    (seen,) = shown(page, text, wanted=".katex")
    assert (seen["formulas"], seen["display"]) == (formulas, display)
    assert len(seen["tex"]) == len(formulas)  # as MathML, for those who hear it
    assert seen["wrong"] == []


NO_FORMULAS = [
    "$5 and $10",
    "from $5–$10, or $5-$10, or $5/$6",
    "$5 (or 5$)",
    "US$5 is more than US$ 4",
    "use $HOME or $PATH",
    "in `$x$` and `\\(y\\)`",
    "```\n$$x$$\n\\[y\\]\n```",
    "    $indented$",
    "a \\$escaped\\$ b",
    "$HOME is `a$`",
    "$",
    "$$",
    "$ a $",
    "an array a\\\\[0\\\\]",
    "[link](https://example.org/$a$b)",
]


@pytest.mark.parametrize("text", NO_FORMULAS)
def test_no_formulas(page: Page, text: str) -> None:
    (seen,) = shown(page, text)
    assert (seen["formulas"], seen["wrong"]) == ([], [])


def test_a_wrong_formula_shows_its_source(page: Page) -> None:
    wrong = [r"\(\frac{a}{\)", r"$\nosuchcommand{x}$", r"$\href{https://example.org}{x}$"]
    (seen,) = shown(page, f"good $a$ then {' and '.join(wrong)} end", wanted=".katex")
    assert seen["formulas"][0] == "$a$"
    assert seen["wrong"][:2] == wrong[:2]
    assert page.evaluate("prose.element.querySelectorAll('a, [href]').length") == 0
    (deep,) = shown(page, f"${'{' * 3000}x{'}' * 3000}$ ok")
    assert deep["text"].strip().endswith("$ ok")


def test_half_a_formula_is_text_and_then_a_formula(page: Page) -> None:
    shown(page, "$a$", wanted=".katex")
    whole = r"So \(a_1 * b_2 * c\) and \[ x_1*y*z \] end."
    states = [whole[:end] for end in range(1, len(whole) + 1)]
    seen = shown(page, *states)
    for state, now in zip(states, seen, strict=True):
        assert now["text"].strip() == state.strip()  # nothing vanishes or is emphasised meanwhile
        assert now["emphasis"] == [] == now["wrong"]
    assert seen[-1]["formulas"] == [r"\(a_1 * b_2 * c\)", r"\[ x_1*y*z \]"]


@pytest.mark.parametrize("mark", ["\\( ", "\\[\n\n", "$a ", "$$ a\n\n", "$", "\\[ "])
def test_many_marks_take_no_longer_than_other_text(page: Page, mark: str) -> None:
    plain, marked = page.evaluate(TIMES, ["ab" + mark[2:], mark])
    assert marked < 6 * plain + 500


def test_code_is_coloured_when_it_is_finished(page: Page) -> None:
    code = "```python\ndef f():\n    return 1\n```\n"
    done = shown(page, f"{code}\nmore", wanted=".hljs-keyword")
    assert done[0]["coloured"] == ["def", "return"]
    assert done[0]["code"] == ["def f():\n    return 1\n"]
    growing, finished = shown(page, code[:30], code)
    assert growing["coloured"] == []
    assert finished["code"] == done[0]["code"]
    page.wait_for_selector(".hljs-keyword")
    (unknown,) = shown(page, "```nosuchlanguage\nreturn\n```\n\n```\nreturn\n```")
    assert unknown["coloured"] == []
    (html,) = shown(page, "```html\n<script>alert(1)</script>\n```", wanted=".hljs-tag")
    assert html["code"] == ["<script>alert(1)</script>\n"]
    assert page.evaluate("prose.element.querySelectorAll('script').length") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_of_code_can_be_read(page: Page, theme: str) -> None:
    text = (
        '```python\n# note\n@dec\nclass A(B):\n    """doc"""\n    x = print(1, True)\n```\n\n'
        '```html\n<a href="b">x</a>\n```\n\n```diff\n-a\n+b\n```\n\n```css\n#a .b { c: d(1) }\n```'
        "\n\n```js\nconst f = /a/u; // b\n```\n\n```bash\necho $A\n```\n"
    )
    shown(page, text, wanted=".hljs-regexp")
    found = page.evaluate(CONTRAST, theme)
    assert len(found) > 20
    assert [(name, ratio) for name, ratio in found if ratio < 4.5] == []


def test_each_block_has_its_own_direction(page: Page) -> None:
    shown(page, "# שלום\n\nHello\n\n- مرحبا\n- one\n\n| a | b |\n|-|-|\n| سلام | c |\n\n> שלום `a`")
    find = "(name) => [...prose.element.querySelectorAll(name)].map((e) => e.matches(':dir(rtl)'))"
    assert page.evaluate(find, "h1") == [True]
    assert page.evaluate(find, ".block > p") == [False]
    assert page.evaluate(find, "li") == [True, False]
    assert page.evaluate(find, "td") == [True, False]
    assert page.evaluate(find, "blockquote p") == [True]
    assert page.evaluate(find, "code") == [False]


# Shows each text as one that is whole; what is seen of it, and how long it took.
SHOW_EACH = """async (texts) => {
  const { Prose } = await import("/app/markdown.js");
  return texts.map((text) => {
    const prose = new Prose();
    const began = performance.now();
    prose.render(text, false);
    return [prose.element.textContent, performance.now() - began];
  });
}"""
HARD = {
    "a word of underscores": "_a" * 40_000,
    "words of underscores": "_a_a_a " * 10_000,
    "stars": "*a " * 20_000,
    "tildes": "~a" * 20_000,
    "a list 1,000 deep": "\n".join(f"{'  ' * depth}- a" for depth in range(1000)),
    "a quote 5,000 deep": ">" * 5000 + "a",
    "quotes in lists": "> - " * 2000 + "a",
    "numbers": "1. " * 3000 + "a",
    "brackets": "[a](" * 5000,
    "an address": "a.b@" * 10_000,
}


def test_no_text_takes_longer_than_its_length_allows(page: Page) -> None:
    shown = page.evaluate(SHOW_EACH, list(HARD.values()))
    for name, (text, milliseconds) in zip(HARD, shown, strict=True):
        assert "a" in text, name
        assert milliseconds < 5000, name  # some 0.1 s; a minute before


def test_emphasis_and_lists_within_bounds_are_as_before(page: Page) -> None:
    nested = "\n".join(f"{'  ' * depth}- a{depth} **b**" for depth in range(12))
    long = "_word_ " * 1000 + "snake_case_name"
    seen = page.evaluate(SHOW, [[nested, long], None])
    assert len(seen[0]["emphasis"]) == 12
    assert len(seen[1]["emphasis"]) == 1000
    assert "snake_case_name" in seen[1]["text"]
