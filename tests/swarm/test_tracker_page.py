"""What a page of the server may connect to: its own tracker, and those that the server names."""

from __future__ import annotations

import socket

from playwright.sync_api import Page

from doppler.command.server import policy

OPEN = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onopen = () => { socket.close(); resolve("opened"); };
  socket.onerror = () => resolve("refused");
  document.addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
})"""


def test_a_page_reaches_its_own_tracker_and_no_other(plain_page: Page) -> None:
    own = plain_page.url.replace("http", "ws").replace("models.json", "tracker")
    assert plain_page.evaluate(OPEN, own) == "opened"
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"ws://127.0.0.1:{other.getsockname()[1]}/tracker"
        assert plain_page.evaluate(OPEN, url) == url


def test_other_trackers_are_named() -> None:
    (named,) = (it for it in policy(["wss://tracker.example"]).split("; ") if "connect" in it)
    assert named == "connect-src wss://tracker.example 'self' blob: data: http: https:"
