"""What steps bind besides weights: which buffers there are, and how many bytes each takes.

Activations are there twice, for one token and for a batch. The rest is shared by both: the KV
cache, the state, and what sampling needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from doppler.config.layer import LayerShape
from doppler.config.model import ModelConfig
from doppler.gpu.step import View
from doppler.plan.cache import CacheSlice, CacheType, row_bytes
from doppler.sampling import blocks_of, mask_bytes
from doppler.weights.placement import aligned

RING = 256  # sampled ids kept on the GPU (sample.wgsl)
STATE = 32  # bytes of the state (state.wgsl), rounded up
RING_AT = 256  # bytes into the buffer that state and ring share
MOST_AHEAD = RING // 4  # tokens queued at once: two such batches may be unread
HEAD_ROWS = 16  # positions whose logits are computed at once when all are asked for
ROPE_STEP = 64  # positions in the fine rope table (rope.wgsl)
CAPACITY_STEP = 64  # positions by which the cache of a layer with a window grows
LEAST_CHECKPOINTS, MOST_CHECKPOINTS = 4, 6  # copies of the recurrent state
CHECKPOINT_BYTES = 128 << 20  # up to which there are more of them than the least
MOST_SPLITS = 128  # runs into which attention cuts the keys of a token
TILE, CPU_TILE = 64, 16  # slots: what the matmuls of GPUs, and of processors, take at least


@dataclass(frozen=True)
class Widths:
    """Row strides of the activations, in elements: widths rounded up to vec4s."""

    hidden: int
    qkv: int  # of the layer that has most
    ffn: int  # likewise, of a token's rows together; gate_up has twice as many
    convolved: int  # queries, keys and values of Gated DeltaNet
    attended: int
    own: int  # embeddings that a layer has of its own
    all_own: int  # those of all layers
    routes: int  # router's logits, and that of a gate
    used: int  # experts, each with rows of its own in gate_up, gated and downs
    beside: int  # what a dense FFN gives beside experts
    are_whole: bool  # no row ends within a vec4

    @classmethod
    def of(cls, config: ModelConfig) -> Widths:
        shapes, experts = config.shapes, config.experts
        gates = 4 * experts.gated if experts else 0
        return cls(
            hidden=aligned(config.hidden, 4),
            qkv=max(aligned(shape.projected, 4) for shape in shapes),
            ffn=max(max(it.used * aligned(it.ffn, 4), aligned(it.dense, 4)) for it in shapes),
            convolved=config.delta_net.channels if config.delta_net else 0,
            attended=max(shape.mixed for shape in shapes),
            own=config.per_layer,
            all_own=config.per_layer * len(shapes),
            routes=aligned(experts.count, 4) + gates if experts else 0,
            used=experts.used if experts else 0,
            beside=aligned(config.hidden, 4) if experts and experts.beside else 0,
            are_whole=not (config.hidden % 4 or config.ffn % 4),
        )

    def by_name(self) -> dict[str, int]:
        """Elements a token needs in each activation buffer, by name.

        x is the residual stream; decoding leaves it in x_next for the next layer to read. branch is
        what attention or the FFN adds to it, downs an expert's output for each slot, beside that of
        a dense FFN. own are the embeddings that layers have of their own, and own_part what is
        projected for them.
        """
        sizes = {
            "x": self.hidden,
            "x_next": self.hidden,
            "normed": self.hidden,
            "branch": self.hidden,
            "qkv": self.qkv,
            "convolved": self.convolved,
            "attended": self.attended,
            "gate_up": 2 * self.ffn,
            "gated": self.ffn,
            "own": self.all_own,
            "own_part": self.all_own,
            "own_gated": self.own,
            "routes": self.routes,
            "downs": self.used * self.hidden,
            "beside": self.beside,
        }
        return {name: size for name, size in sizes.items() if size}


@dataclass(frozen=True)
class RecurrentState:
    """What a layer keeps that does not attend, as float32, and what is all of it.

    recent: the last inputs of its convolution, [taps - 1, channels], that of position p in row
    p % (taps - 1). matrices: [heads, value_dim, key_dim], where it has some. Before position 0
    all of it counts as zero, whatever it holds.
    """

    recent: View
    matrices: View | None
    whole: View

    @classmethod
    def of(cls, shape: LayerShape, buffer: str) -> RecurrentState:
        """That of a layer of such a shape, in a buffer of its own."""
        recent, matrices = _whole(buffer, 4 * shape.recent), None
        size = recent.size
        if shape.matrices:
            at = aligned(recent.size)
            matrices = View(buffer, at, aligned(4 * shape.matrices, 16))
            size = at + matrices.size
        return cls(recent, matrices, View(buffer, 0, size))


@dataclass(frozen=True)
class MemoryLayout:
    """The buffers of one loaded model besides its weights: bytes and views of each, by name."""

    config: ModelConfig
    context: int  # positions that there can be
    batch: int  # tokens of a batch at most; with 1, prompts are run as tokens
    kv: CacheType  # what keys and values are kept as
    most_bound: int  # bytes that the adapter binds at once
    # Layers whose experts are not all on the GPU: how many of them are, each in a slot.
    slots: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def widths(self) -> Widths:
        """Row strides of the activations."""
        return Widths.of(self.config)

    @cached_property
    def capacities(self) -> tuple[int, ...]:
        """Positions that each layer's cache holds: position p lies at p % capacity.

        0 of a layer that keeps a state instead.
        """
        layers, context, batch = self.config.layers, self.context, self.batch
        # Of a layer that reads another's, those are as many: their windows are the same.
        return tuple(
            capacity_of(layer.window, context, batch) if layer.attends else 0 for layer in layers
        )

    @cached_property
    def of_token(self) -> dict[str, View]:
        """What a plan for one token binds."""
        widths = self.widths.by_name()
        own = {name: _whole(of_a_token(name), 4 * width) for name, width in widths.items()}
        return own | self._shared

    @cached_property
    def of_batch(self) -> dict[str, View]:
        """What a plan for a batch binds."""
        own = {name: _whole(name, size) for name, size in self.batch_activations.items()}
        return own | self._shared

    @cached_property
    def activations(self) -> dict[str, int]:
        """Bytes of a token's own, and of what both plans bind."""
        own = {of_a_token(name): 4 * width for name, width in self.widths.by_name().items()}
        return {name: aligned(size, 16) for name, size in (own | self._shared_bytes()).items()}

    @cached_property
    def batch_activations(self) -> dict[str, int]:
        """Bytes of a batch's own, which may lie in each other's place, and of the logits.

        Those of a token are there too: a batch's activations are done with by then.
        """
        widths = self.widths.by_name() if self.batch > 1 else {}
        own = {name: 4 * self._rows * width for name, width in widths.items()}
        return {**own, "logits": 4 * aligned(self.config.vocab, 4)}  # of one position

    @cached_property
    def cache(self) -> dict[str, int]:
        """Bytes of the keys and values of each layer's slices: rows [heads, its capacity]."""
        layers = enumerate(self.config.layers)
        own = [index for index, layer in layers if layer.attends and layer.shares < 0]
        slices = [it for index in own for it in self.cache_slices(index)]
        return {view.buffer: view.size for it in slices for view in (it.keys, it.values)}

    def cache_slices(self, index: int) -> list[CacheSlice]:
        """The cache that layer `index` reads, cut by heads into as few slices as can be bound."""
        shape, shares = self.config.shape(index), self.config.layers[index].shares
        index = index if shares < 0 else shares
        capacity, heads = self.capacities[index], shape.kv_heads
        row = row_bytes(self.kv, shape.head_dim)
        each = row * capacity
        slices = -(-heads // max(self.most_bound // each, 1))
        at_once = -(-heads // slices)
        found = []
        for head0 in range(0, heads, at_once):
            count = min(at_once, heads - head0)
            which = f"head {head0}" if count == 1 else f"heads {head0} to {head0 + count - 1}"
            name = f"{index}" if slices == 1 else f"{index}, {which}"
            views = (_whole(f"{kind} {name}", count * each) for kind in ("keys", "values"))
            found.append(CacheSlice(head0, count, capacity, row, *views))
        return found

    def cache_rows(self, index: int, first: int, stop: int) -> list[View]:
        """Where layer `index` has what it keeps of positions first .. stop - 1: ranges of bytes.

        They go by slices of heads, then keys before values, heads, positions. There can be no more
        positions than the layer's capacity. A layer that shares another's has that one's rows.
        """
        return [rows for part in self.cache_slices(index) for rows in part.rows(first, stop)]

    @cached_property
    def recurrent(self) -> dict[int, RecurrentState]:
        """The state of each layer that has one, by its index."""
        return self._states("recurrent state")

    @cached_property
    def checkpoints(self) -> list[dict[int, RecurrentState]]:
        """Copies of all that, as it was after some token: as many as there is room for."""
        bytes_ = sum(it.whole.size for it in self.recurrent.values())
        if not bytes_:
            return []
        count = max(min(MOST_CHECKPOINTS, CHECKPOINT_BYTES // bytes_), LEAST_CHECKPOINTS)
        return [self._states(f"checkpoint {slot} of state") for slot in range(count)]

    @cached_property
    def states(self) -> dict[str, int]:
        """Bytes of the recurrent state and of its copies, by buffer."""
        views = [it.whole for of in (self.recurrent, *self.checkpoints) for it in of.values()]
        return {view.buffer: view.size for view in views}

    def _states(self, name: str) -> dict[int, RecurrentState]:
        shapes = enumerate(self.config.shapes)
        return {i: RecurrentState.of(it, f"{name} {i}") for i, it in shapes if it.recent}

    @property
    def rows_of_logits(self) -> View:
        """[HEAD_ROWS, vocab rounded up to a vec4] of several positions: there once asked for."""
        size = 4 * HEAD_ROWS * aligned(self.config.vocab, 4)
        return _whole("logits of all positions", size)

    def normed_rows(self, row: int) -> View:
        """Normed states of HEAD_ROWS positions of a batch, from `row` on."""
        stride = 4 * self.widths.hidden
        return View("normed", row * stride, HEAD_ROWS * stride)

    @property
    def _rows(self) -> int:
        return aligned(self.batch, HEAD_ROWS)

    @cached_property
    def _shared(self) -> dict[str, View]:
        """What both plans bind."""
        sizes = {name: self.activations[name] for name in self._shared_bytes()} | self.cache
        views = {name: _whole(name, size) for name, size in sizes.items()}
        views["state"] = replace(views["control"], size=STATE)
        return {**views, "logits": _whole("logits", self.batch_activations["logits"])}

    def _shared_bytes(self) -> dict[str, int]:
        """Bytes of what both plans bind, but for the cache and the logits."""
        c, blocks = self.config, blocks_of(self.config.vocab)
        positions = ROPE_STEP + -(-self.context // ROPE_STEP)
        angles = [4 * c.rope_dim(index) * positions for index in range(len(c.ropes))]
        return {
            "control": RING_AT + 4 * RING,  # the state, and the ring of sampled ids
            **{rope_table(index): size for index, size in enumerate(angles)},
            "partial_out": 4
            * MOST_SPLITS
            * self.widths.attended,  # of attended, a run of keys each
            "partial_lse": 8 * MOST_SPLITS * c.heads,
            "tokens": 4 * self._rows,
            "seen": mask_bytes(c.vocab),  # a bit a token of the vocabulary
            "mask": mask_bytes(c.vocab),  # the same: which may come next, where rules say so
            "sampling": 32,
            "tops": 4 * blocks,  # largest logit of each block of the vocabulary
            "top ids": 4 * blocks,
            "history": 4 * self.context,  # ids so far
            "verify_row": 4,  # the row of a batch with drafts that is sampled next
            **self._routing(),
        }

    def _routing(self) -> dict[str, int]:
        """Bytes of what says which experts the tokens of a batch use; nothing without experts."""
        experts = self.config.experts
        if experts is None:
            return {}
        slots = self._rows * experts.used
        return {
            "topk_ids": 4 * slots,  # experts, by slot: the first token's, then the second's
            "topk_weights": 4 * slots,  # of a slot in its token's output
            "order": 4 * slots,  # slots by expert
            "tiles": 16 * most_tiles(slots, experts.count, CPU_TILE),  # of `order`, one expert each
            **self._paging(experts.count, slots),
        }

    def _paging(self, experts: int, pairs: int) -> dict[str, int]:
        """Bytes of what says where experts lie that are not all on the GPU (lookup.wgsl)."""
        if not self.slots:
            return {}
        each, layers = aligned(4 * experts), len(self.config.layers)
        return {
            "routed": 4 * pairs,  # experts; topk_ids has their slots
            "expected routes": 4 * self.widths.routes,  # of the next layer's router, for a token
            "expected": 4 * self.widths.used,  # experts
            "expected weights": 4 * self.widths.used,
            "demand": 4 * experts,  # pairs of an expert, of the layer that was run last
            "slot tables": each * layers,
            "uses": 2 * each * layers,
            "pass table": each,
        }

    def slot_table(self, index: int) -> View:
        """Of layer `index`: the slot of each of its experts."""
        size = 4 * self._experts
        return View("slot tables", index * aligned(size), aligned(size, 16))

    @property
    def watched(self) -> tuple[View, View, View]:
        """What is read of a mixture that may be halted: state and ring, demand, uses."""
        shared = self.of_token
        return shared["control"], shared["demand"], shared["uses"]

    def split_uses(self, index: int, words: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """All uses as u32 -> when each expert of layer `index` was used last, and how often."""
        start = self.uses(index).offset // 4
        end = start + 2 * self._experts
        return words[start:end:2], words[start + 1 : end : 2]

    def uses(self, index: int) -> View:
        """Of layer `index`: when each of its experts was used last, and how often."""
        size = 8 * self._experts
        return View("uses", index * 2 * aligned(size // 2), aligned(size, 16))

    @property
    def _experts(self) -> int:
        assert self.config.experts is not None, "only a mixture has slots"
        return self.config.experts.count


def of_a_token(name: str) -> str:
    """The buffer that one token's activations of that name lie in."""
    return f"{name} of a token"


def rope_table(index: int) -> str:
    """The buffer of the table of config.ropes[index]."""
    return f"rope table {index}"


def capacity_of(window: int, context: int, batch: int) -> int:
    """Positions that the cache of a layer with that window (0: none) holds.

    A batch is written before its first token looks back: that one's window must still be there. It
    must be, too, where an answer ended and what was queued behind it has been run.
    """
    if not window:
        return context
    return min(context, aligned(window + max(batch, 2 * MOST_AHEAD), CAPACITY_STEP))


def most_tiles(slots: int, experts: int, size: int) -> int:
    """Tiles into which so many slots are cut at most: all experts' last ones may be short."""
    return slots // size + min(slots, experts)


def _whole(buffer: str, size: int) -> View:
    return View(buffer, 0, aligned(size, 16))
