"""Which cuts of a model a page joins of those that it hears of: the module itself, in Node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

SWARM = Path(__file__).parents[2] / "web" / "swarm"
CODE = """
import { Cuts } from "%s/cuts.js";

const torrent = () => ({ on() {}, destroy() {}, ready: false, wires: [] });
const host = { client: { add: torrent }, trackers: [], happening() {} };
const cuts = new Cuts("0".repeat(64), host, { read() {}, onWire() {}, onReady() {}, onFalse() {} });
const hear = (names, peer) => cuts.hear([...names].map((name) => ({ infohash: name })), peer);
for (const peer of ["one", "two"]) hear("abcd", peer);
for (const cut of cuts.list()) cuts.refuse(cut, "is of another model's bytes");
for (const peer of ["one", "two"]) hear("abcd", peer);
hear("e", "three");
console.log(JSON.stringify(cuts.list().map(({ infohash }) => infohash)));
"""


def test_torrents_that_were_refused_take_no_place_of_others() -> None:
    """Those who are in them go on telling of them, and may be more than those of a true one."""
    node = ["node", "--input-type=module", "-e", CODE % SWARM.as_uri()]
    done = subprocess.run(node, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == ["e"]
