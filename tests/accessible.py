"""What axe finds wrong with the page as it stands: labels, roles, contrast, order."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Page, ViewportSize

AXE = Path(__file__).parents[1] / "web/node_modules/axe-core/axe.min.js"
VIEWS: tuple[tuple[ViewportSize, Literal["light", "dark"]], ...] = (
    ({"width": 1280, "height": 800}, "light"),  # a desk
    ({"width": 390, "height": 844}, "dark"),  # a phone
)
# What slides or fades is looked at when it has come to rest.
RUN = """async () => {
  await Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})));
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
}"""


def assert_accessible(page: Page) -> None:
    """axe finds nothing, on a desk in light colours and on a phone in dark ones."""
    before = page.viewport_size
    try:
        for size, colours in VIEWS:
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=colours)
            found = _violations(page)
            assert not found, f"{size['width']} wide, {colours}:\n" + "\n".join(found)
    finally:
        page.emulate_media(color_scheme="null")
        if before:
            page.set_viewport_size(before)


def _violations(page: Page) -> list[str]:
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(_axe())
    found: Any = page.evaluate(RUN)
    return [str(one) for one in found]


@cache
def _axe() -> str:
    return AXE.read_text()
