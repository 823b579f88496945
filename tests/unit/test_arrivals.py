"""Files of several torrents, of which one may be false: the module itself, in Node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

SWARM = Path(__file__).parents[2] / "web" / "swarm"
CODE = """
import { Arrivals } from "%(swarm)s/arrivals.js";
import { Geometry } from "%(swarm)s/cut.js";
import { Judge } from "%(swarm)s/judge.js";

// tokenizer.json lies in items 2 and 3.
const geometry = new Geometry({
  block_size: 16, bytes: 24, shards: [], tokenizer: { bytes: 20, stored: false }, manifest_bytes: 4,
});
const [honest, liar] = ["honest", "liar"].map((name) => ({ name, isPiece: async () => true }));
const posted = [], refused = [], wanted = [];
const host = { post: ({ type, name }) => posted.push(`${type} ${name}`) };
const judge = new Judge(geometry, "identity", host, {
  settle: () => {},
  keep: () => {},
  want: (items, urgency) => items.length && wanted.push([items, urgency]),
  refuse: ({ name }, why) => refused.push(`${name}: ${why}`),
});
const begun = () => [...judge.arrivals.begin("tokenizer.json")];
const come = (cut, item) =>
  judge.verify({ item, piece: geometry.pieceOf(item), bytes: new Uint8Array(16), peer: { cut } });
const asks = (cut) => [2, 3].map((item) => judge.arrivals.asks(item, cut));
const told = [];
const tell = () => told.push([...[posted, refused, wanted].map((list) => list.splice(0))]);
%(steps)s
console.log(JSON.stringify(told));
"""


def played(steps: str) -> list[object]:
    code = CODE % {"swarm": SWARM.as_uri(), "steps": steps}
    node = ["node", "--input-type=module", "-e", code]
    done = subprocess.run(node, capture_output=True, text=True, timeout=60, check=True)
    told: list[object] = json.loads(done.stdout)
    return told


def test_who_gave_all_of_a_false_file_is_refused() -> None:
    steps = """
        told.push(begun());
        await come(liar, 2);
        await come(liar, 3);
        judge.blameFile("tokenizer.json");
        tell();
        judge.blameFile("tokenizer.json");  // nothing came since
        tell();
    """
    whole, why = "file tokenizer.json", "liar: its tokenizer.json is not this model's"
    assert played(steps) == [[2, 3], [[whole], [why], [[[2, 3], None]]], [[], [], []]]


def test_who_gave_a_part_of_a_false_file_has_to_give_all_of_it() -> None:
    """Nobody is refused before that, and who gave nothing of it never is."""
    steps = """
        begun();
        await come(honest, 2);
        await come(liar, 3);
        judge.blameFile("tokenizer.json");
        told.push(begun());
        tell();
        await come(honest, 2);
        told.push([asks(honest), asks(liar)]);
        await come(liar, 3);
        await come(liar, 2);
        judge.blameFile("tokenizer.json");
        tell();
        told.push(begun());
        await come(honest, 3);
        await come(honest, 2);
        tell();
    """
    mixed, asked, again, of_liar, rest, of_honest = played(steps)[0:6]
    whole, needless = "file tokenizer.json", [[2, 3], None]
    assert mixed == [2, 3]
    assert asked == [[whole], [], [needless]]
    assert again == [[False, True], [True, True]]
    why = "liar: its tokenizer.json is not this model's"
    assert of_liar == [[whole], [why], [[[2], "now"], [[3], "now"], needless]]
    assert rest == [2, 3]
    assert of_honest == [[whole], [], [[[3], "now"], needless]]
