"""An engine that ends or hangs: the page says so, every call ends, and a restart mends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from app_page import App, watched
from visited import Visited

PATIENCE = ("PATIENCE_MS = 30_000", "PATIENCE_MS = 4_000")
# Runs Python in the worker without waiting for it.
START = """(code) => {
  import("/vendor/comlink.js").then(({ wrap }) => wrap(window.engineWorker).run(code));
}"""
# A call that the page never sees the end of, unless someone ends it.
PENDING = """() => {
  window.ended = null;
  doppler.call("storage").catch((error) => (window.ended = error.name));
}"""
CRASH = "import ctypes; ctypes.CFUNCTYPE(None)(123456789)()"  # a call into nowhere

BUSY = """
import time
end = time.time() + 7
while time.time() < end: pass
"""


@pytest.fixture(scope="module")
def opened(
    visited: Visited,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    """The page with tiny-chat loaded; silence is told after four seconds."""
    with (
        watched(tiny_models, tmp_path_factory.mktemp("server"), visited.port) as server,
        visited.opened() as context,
    ):
        server.replaced["/app/heartbeat.js"] = PATIENCE
        app = App(context.pages[0], server.url).open()
        app.page.evaluate(
            "addEventListener('securitypolicyviolation', (e) => (window.violation = e.blockedURI))"
        )
        app.get("tiny-chat")
        app.set(greedy=True)
        yield app
        assert app.page.evaluate("window.violation") is None


@pytest.fixture
def writing(opened: App) -> tuple[App, Locator]:
    """An answer that is being written, and would be for long."""
    opened.set(max_tokens="4000")
    opened.new_chat()
    message = opened.say("tell me all")
    expect(message.get_by_test_id("message-text")).not_to_be_empty()
    return opened, message


def restart_and_answer_again(
    app: App, message: Locator, button: str = "Answer again", where: Locator | None = None
) -> None:
    app.set(max_tokens="8")
    (where or app.errors).get_by_role("button", name="Restart the engine").click()
    expect(message.get_by_role("button", name=button)).to_be_visible()
    app.expect_loaded()
    expect(message.get_by_test_id("message-text")).not_to_be_empty()  # what was written stays
    message.get_by_role("button", name=button).click()
    assert len(app.finished(app.answers.last).split()) == 8


def test_an_engine_that_is_gone(writing: tuple[App, Locator]) -> None:
    app, message = writing
    app.page.evaluate(PENDING)
    app.page.evaluate("engineWorker.terminate()")
    expect(app.errors).to_contain_text("The engine has stopped")
    expect(app.page.get_by_test_id("model-button")).to_contain_text("Choose a model")
    problem = message.get_by_test_id("message-error")
    expect(problem).to_contain_text("The engine has stopped")
    assert (
        app.page.evaluate("doppler.call('storage').catch((error) => error.name)") == "EngineError"
    )
    restart_and_answer_again(app, message)


def test_python_that_crashed(writing: tuple[App, Locator]) -> None:
    app, message = writing
    app.page.evaluate(START, CRASH)
    expect(app.errors).to_contain_text("The engine has stopped")
    expect(app.errors).to_contain_text("Python ended: ")
    restart_and_answer_again(app, message, where=message)  # its own button loads the model too


def test_an_engine_that_hangs(writing: tuple[App, Locator]) -> None:
    app, message = writing
    app.page.evaluate(START, "while True: pass")
    app.page.evaluate(PENDING)
    expect(app.errors).to_contain_text("The engine does not answer")
    expect(app.errors).to_contain_text("for 4 seconds")
    app.errors.get_by_role("button", name="Wait").click()
    expect(app.errors).to_be_empty()
    expect(app.errors).to_contain_text("for 8 seconds")
    assert app.page.evaluate("window.ended") is None
    restart_and_answer_again(app, message, "Regenerate")
    assert app.page.evaluate("window.ended") == "Restarted"


def test_an_engine_that_was_only_busy(opened: App) -> None:
    opened.set(max_tokens="8")
    opened.page.evaluate(START, BUSY)
    expect(opened.errors).to_contain_text("The engine does not answer")
    expect(opened.errors).to_be_empty()
    opened.new_chat()
    assert len(opened.answer("hello").split()) == 8
