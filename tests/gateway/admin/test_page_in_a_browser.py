"""The page in a real browser: it keeps itself true, runs nothing that comes from outside, and fits a phone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.admin.status import Traffic
from tests.fixtures.browser import Tab, browsing
from tests.fixtures.operated import Served, served, status

__all__ = ["served"]

HOSTILE = "<script>hacked=1</script><img src=x onerror='hacked=1'><svg onload=hacked=1>"


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browsing(tmp_path / "browser") as tab:
        yield tab


async def test_it_follows_what_happens_and_leaves_alone_what_somebody_has_opened(tab: Tab, served: Served) -> None:
    await tab.open(served.url)
    assert await tab.evaluate("document.title") == "serving · Tallygate"
    await tab.evaluate("kept = document.querySelector('summary'); kept.click(); kept.focus()")
    served.node.now = status(
        ready=False, at="2026-01-31T10:31:09+00:00", traffic={"books": Traffic([0.0, 40.0, 12.0, 99.0], [0.0] * 4, 1.5)}
    )
    await tab.until("document.title === 'not ready · Tallygate'")
    assert await tab.evaluate("document.getElementById('live').textContent") == "as of 2026-01-31 10:31:09 UTC"
    assert "99" in await tab.evaluate("document.querySelector('#routes tbody').textContent")
    assert await tab.evaluate("kept.isConnected && kept.parentNode.open && document.activeElement === kept")
    assert tab.complaints == []


async def test_it_says_when_nobody_answers_any_more_and_goes_on_when_somebody_does(tab: Tab, served: Served) -> None:
    await tab.open(served.url)
    served.node.now = None  # type: ignore[assignment]  # which makes the listener answer 500
    await tab.until("document.body.classList.contains('lost')")
    live = "document.getElementById('live')"
    assert await tab.evaluate(f"{live}.textContent") == "no answer, this is as of 2026-01-31 10:31:07 UTC"
    assert await tab.evaluate(f"{live}.getAttribute('role')") == "alert"
    served.node.now = status(at="2026-01-31T10:31:11+00:00")
    await tab.until("!document.body.classList.contains('lost')")
    assert await tab.evaluate(f"{live}.textContent") == "as of 2026-01-31 10:31:11 UTC"


async def test_it_can_be_paused_with_the_keyboard(tab: Tab, served: Served) -> None:
    await tab.open(served.url)
    await tab.evaluate("document.getElementById('pause').focus()")
    for kind in ("keyDown", "keyUp"):
        await tab.command(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    assert await tab.evaluate("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    served.node.now = status(ready=False)
    await asyncio.sleep(2.5)  # longer than it would take
    assert await tab.evaluate("document.title") == "serving · Tallygate"
    await tab.evaluate("document.getElementById('pause').click()")
    await tab.until("document.title === 'not ready · Tallygate'")


async def test_what_comes_from_outside_is_text(tab: Tab, served: Served) -> None:
    served.node.now = status(HOSTILE, HOSTILE)
    await tab.open(served.url)
    served.node.now = status(HOSTILE + "!", HOSTILE + "!", ready=False)
    await tab.until("document.title === 'not ready · Tallygate'")
    assert await tab.evaluate("typeof hacked") == "undefined"
    assert await tab.evaluate("document.querySelector('#routes tbody strong').textContent") == HOSTILE + "!"
    assert tab.complaints == []


async def test_the_browser_holds_to_the_policy(tab: Tab, served: Served) -> None:
    """The control of the test above: a script that did get into the page would not run."""
    await tab.open(served.url)
    script = "s = document.createElement('script'); s.textContent = 'hacked = 1'; document.body.append(s)"
    await tab.evaluate(script)
    assert await tab.evaluate("typeof hacked") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_it_fits(tab: Tab, served: Served, width: int) -> None:
    await tab.resize(width, 800)
    await tab.open(served.url)
    assert await tab.evaluate("document.documentElement.scrollWidth") <= width
    assert await tab.evaluate("document.querySelector('#routes .scrolls').scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read(tab: Tab, served: Served, scheme: str) -> None:
    """The contrast of each text with what is behind it is at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    await tab.prefer(scheme)
    await tab.open(served.url)
    assert await tab.evaluate(_FAINTEST) >= 4.5


_FAINTEST = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let faintest = 21;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [one, other] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
    faintest = Math.min(faintest, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05));
  }
  return faintest;
})()"""
