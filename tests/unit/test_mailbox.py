"""Questions from one worker to another: each gets its own answer, however late."""

from __future__ import annotations

import json
import subprocess

from doppler.command.server import WEB

MAILBOX = (WEB / "runtime" / "mailbox.js").as_uri()
ASK = """
import { Worker } from "node:worker_threads";
import { Mailbox } from "%(mailbox)s";
const answering = `
  const { workerData } = await import("node:worker_threads");
  const { Mailbox } = await import("%(mailbox)s");
  new Mailbox(workerData).serve({
    echo: (value) => value,
    late: (value) => {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
      return value;
    },
    fail: () => { throw new Error("no"); },
    endless: () => "x".repeat(300 << 20),
  });`;
const box = new Mailbox();
const source = new URL("data:text/javascript," + encodeURIComponent(answering));
const worker = new Worker(source, { workerData: box.memory });
const seen = [];
const ask = (...question) => {
  try { seen.push(box.ask(...question)); } catch (error) { seen.push(error.message); }
};
%(questions)s
console.log(JSON.stringify(seen));
worker.terminate();
"""


def asked(questions: str) -> list[object]:
    code = ASK % {"mailbox": MAILBOX, "questions": questions}
    node = ["node", "--input-type=module", "-e", code]
    done = subprocess.run(node, capture_output=True, text=True, timeout=60, check=True)
    seen: list[object] = json.loads(done.stdout)
    return seen


def test_a_late_answer_is_not_given_to_the_next_question() -> None:
    seen = asked(
        """
        ask("echo", ["a"]);
        box.patience = 100;
        ask("late", ["b"]);
        box.patience = 30000;
        ask("echo", ["c"]);
        ask("echo", ["d".repeat(1 << 20)]);
        """
    )
    told = "late was not answered within 0.1 s; load the model again"
    assert seen == ["a", told, "c", "d" * (1 << 20)]


def test_who_never_answers_is_told_each_time() -> None:
    seen = asked(
        """
        ask("echo", ["a"]);
        await worker.terminate();
        box.patience = 50;
        ask("echo", ["b"]);
        ask("echo", ["c"]);
        """
    )
    late = "was not answered within 0.05 s; load the model again"
    assert seen == ["a", f"echo {late}", f"echo cannot be asked: an earlier question {late}"]


def test_what_fails_is_told_and_the_next_is_answered() -> None:
    seen = asked("""ask("fail", []); ask("endless", []); ask("echo", ["a"]);""")
    assert seen[0] == "Error: no"
    assert str(seen[1]).startswith("endless: its answer is too long")
    assert seen[2] == "a"
