"""Chromium, for the tests of pages: keys, waiting, downloads, and what everyone must be able to use."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

CONTRAST = """() => {
  const parsed = (text) => {
    const numbers = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    return text.startsWith("color(srgb") ? [...numbers.slice(0, 3).map((one) => 255 * one), numbers[3] ?? 1] : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255).map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)).reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!text || node.closest("noscript, svg, option, [disabled], .unseen, #toast") || !node.checkVisibility()) continue;
    let behind = node, ground = null;
    while (behind && !ground) {
      const colour = parsed(getComputedStyle(behind).backgroundColor);
      if (colour[3] === 1) ground = colour;
      behind = behind.parentElement;
    }
    const [a, b] = [light(parsed(getComputedStyle(node).color)), light(ground)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push([node.className || node.tagName, node.textContent.slice(0, 20), (a + 0.05) / (b + 0.05)]);
  }
  return low;
}"""  # noqa: E501
CONTROLS = {"button", "checkbox", "combobox", "gridcell", "link", "listbox", "option", "radio", "searchbox", "slider",
            "textbox", "dialog", "grid", "region", "progressbar", "img", "image"}  # fmt: skip


def nameless(page: Any) -> list[str]:
    """Controls that assistive technology could not call by a name."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes
             if not node["ignored"] and node["role"]["value"] in CONTROLS]  # fmt: skip
    assert roles
    return [role for role, name in roles if not name]


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's, or Playwright's own; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright to drive a browser")
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, CHROMIUMS)), driver.chromium.executable_path)
        if not os.path.exists(found):
            pytest.skip("no Chromium: `playwright install chromium` gets one")
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


def low_contrast(page: Any) -> list[Any]:
    """Visible text that stands out too little: class, text, ratio."""
    return page.evaluate(CONTRAST)


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def downloaded(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.locator(button).click()
    target = folder / started.value.suggested_filename
    started.value.save_as(target)
    return target


def until(page: Any, expression: str) -> None:
    """Wait for it to be true. Playwright's own way to is evaluated in the page, whose policy forbids that."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")
