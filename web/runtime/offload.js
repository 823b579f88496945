/**
 * @file Rows of keys and values between host memory and the GPU: there through a ring of mapped
 * buffers, and back through another one.
 */

/**
 * Where the rows of a head begin: on the GPU, and in host memory.
 * @typedef {{buffer: GPUBuffer, offset: number, at: number}} Head
 */
/**
 * Bytes of each head's rows, counted from where these begin; multiples of 4.
 * @typedef {[start: number, length: number][]} Runs
 */
/** @typedef {{buffer: GPUBuffer, offset: number, at: number, staged: number, length: number}} Piece */

/** Buffers of one size that are used in turn, each once its last use is over. */
class Ring {
  /** @param {GPUBuffer[]} buffers */
  constructor(buffers) {
    this.buffers = buffers;
    /** @type {Promise<unknown>[]} */
    this.free = buffers.map(() => Promise.resolve());
    this.next = 0;
  }

  get size() {
    return this.buffers[0].size;
  }

  /** @returns {Promise<[GPUBuffer, (over: Promise<unknown>) => void]>} one, and who says until when */
  async take() {
    const index = this.next;
    this.next = (index + 1) % this.buffers.length;
    await this.free[index];
    const lend = (/** @type {Promise<unknown>} */ over) => {
      over.catch(() => {}); // whoever would use it next is told
      this.free[index] = over;
    };
    return [this.buffers[index], lend];
  }
}

class Offload {
  /**
   * @param {GPUDevice} device
   * @param {GPUBuffer[]} up mapped for writing
   * @param {GPUBuffer[]} down to be mapped for reading
   */
  constructor(device, up, down) {
    this.device = device;
    this.up = new Ring(up);
    this.down = new Ring(down);
    /** @type {Map<Uint8Array, Promise<unknown>>} that what was queued to come back is there */
    this.landed = new Map();
  }

  /**
   * @param {Uint8Array} data host memory
   * @param {Head[]} heads
   * @param {Runs} runs
   * @returns {Promise<void>} that all of it is queued
   */
  async bring(data, heads, runs) {
    await this.landed.get(data);
    for (const { pieces, size } of loads(heads, runs, this.up.size)) {
      const [staging, lend] = await this.up.take();
      const mapped = new Uint8Array(staging.getMappedRange(0, size));
      const encoder = this.device.createCommandEncoder();
      for (const { buffer, offset, at, staged, length } of pieces) {
        mapped.set(data.subarray(at, at + length), staged);
        encoder.copyBufferToBuffer(staging, staged, buffer, offset, length);
      }
      staging.unmap();
      this.device.queue.submit([encoder.finish()]);
      lend(staging.mapAsync(GPUMapMode.WRITE));
    }
  }

  /**
   * @param {Uint8Array} data host memory, to which the rows come some time later
   * @param {Head[]} heads
   * @param {Runs} runs
   * @returns {Promise<void>} that all of it is queued
   */
  async keep(data, heads, runs) {
    const all = [this.landed.get(data)];
    for (const { pieces, size } of loads(heads, runs, this.down.size)) {
      const [reader, lend] = await this.down.take();
      const encoder = this.device.createCommandEncoder();
      for (const { buffer, offset, staged, length } of pieces)
        encoder.copyBufferToBuffer(buffer, offset, reader, staged, length);
      this.device.queue.submit([encoder.finish()]);
      const over = land(reader, pieces, size, data);
      lend(over);
      all.push(over);
    }
    const landed = Promise.all(all);
    landed.catch(() => {}); // whoever needs the rows is told
    this.landed.set(data, landed);
  }

  /** @returns {Promise<void>} that all has come back */
  async settled() {
    await Promise.all(this.landed.values());
  }
}

/**
 * @param {GPUBuffer} reader
 * @param {Piece[]} pieces
 * @param {number} size of all
 * @param {Uint8Array} data
 */
async function land(reader, pieces, size, data) {
  await reader.mapAsync(GPUMapMode.READ, 0, size);
  const mapped = new Uint8Array(reader.getMappedRange(0, size));
  for (const { at, staged, length } of pieces)
    data.set(mapped.subarray(staged, staged + length), at);
  reader.unmap();
}

/**
 * @param {Head[]} heads
 * @param {Runs} runs
 * @param {number} most bytes of a buffer
 * @returns {Generator<{pieces: Piece[], size: number}>} what goes through one buffer
 */
function* loads(heads, runs, most) {
  /** @type {Piece[]} */
  let pieces = [];
  let size = 0;
  for (const { buffer, offset, at } of heads)
    for (const [start, end] of runs.map(([from, length]) => [from, from + length]))
      for (let place = start; place < end;) {
        const length = Math.min(end - place, most - size);
        pieces.push({ buffer, offset: offset + place, at: at + place, staged: size, length });
        size += length;
        place += length;
        if (size === most) {
          yield { pieces, size };
          pieces = [];
          size = 0;
        }
      }
  if (size > 0) yield { pieces, size };
}

/**
 * @param {GPUDevice} device
 * @param {GPUBuffer[]} up
 * @param {GPUBuffer[]} down
 */
export const offload = (device, up, down) => new Offload(device, up, down);
