/** @file What a page may show of a model's swarm. Bytes and bytes a second; peers by their ids. */

/** @import {ModelSwarm} from "./model_swarm.js" */
/** @import {Peer} from "./peer.js" */
/** @import {Layout} from "./port.js" */

/**
 * @param {Peer} peer
 * @param {number} blocks of the model
 */
function peerFacts({ id, wire, cut, sent, conduct }, blocks) {
  let has = 0;
  for (let block = 0; block < blocks; block++) has += Number(wire.peerPieces.get(block));
  return {
    id,
    infohash: cut.infohash,
    shard_bytes: cut.layout?.shards[0].bytes ?? null,
    has, // blocks
    sent, // blocks that were good, over this connection
    bad: conduct.bad,
    down: wire.downloadSpeed(),
    up: wire.uploadSpeed(),
    downloaded: wire.downloaded,
    uploaded: wire.uploaded,
  };
}

/** @param {ModelSwarm} model */
export function factsOf({
  identity,
  geometry,
  layout,
  have,
  scheduler,
  cuts,
  peers,
  origins,
  others,
  forOthers,
  wasted,
  own,
}) {
  const blocks = layout && geometry ? geometry.blocks : 0;
  const copies = layout && scheduler ? scheduler.count().subarray(0, blocks) : new Uint16Array();
  const seen = Array.from(copies, (count, block) => count + Number(have.has(block)));
  const nowhere = seen.flatMap((count, block) => (count ? [] : [block]));
  const fewest = seen.length ? Math.min(...limited(seen)) : 0;
  return {
    identity,
    blocks,
    have: have.size,
    wanted: scheduler?.missing ?? 0,
    peers: peers.list().map((peer) => peerFacts(peer, blocks)),
    cuts: cuts
      .list()
      .flatMap(({ infohash, layout, torrent }) =>
        layout
          ? [{ infohash, shard_bytes: layout.shards[0].bytes, seeding: torrent.wires.length }]
          : [],
      ),
    own: own?.infohash ?? null, // the torrent of the cut as it is stored here, once that is known
    origins: Object.fromEntries(origins), // block -> peer
    others: others.size, // blocks that came over HTTP or from a file
    for_others: forOthers.size, // blocks that came since few have them
    copies: seen, // by block, this page counted
    rarest: { copies: fewest, blocks: seen.filter((count) => count === fewest).length },
    nowhere,
    lost_shards: layout ? shardsOf(nowhere, layout) : [],
    wasted: { ...wasted },
  };
}

/**
 * @param {number[]} blocks in ascending order
 * @param {Layout} layout
 * @returns {string[]} names of the shards that some of them lie in
 */
function shardsOf(blocks, { block_size, shards }) {
  let end = 0;
  let at = 0;
  return shards.flatMap(({ name, bytes }) => {
    end += bytes;
    const before = at;
    while (at < blocks.length && blocks[at] * block_size < end) at += 1;
    return at > before ? [name] : [];
  });
}

/** @param {number[]} counts @returns {number[]} each value once: there are few */
const limited = (counts) => [...new Set(counts)];
