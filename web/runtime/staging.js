/** @file A ring of mapped buffers, through which arrays of megabytes reach the GPU. */

/** Copies go through one buffer after another; each is mapped again once the GPU has read it. */
class StagingRing {
  /**
   * @param {GPUDevice} device
   * @param {GPUBuffer[]} buffers of one size, mapped for writing
   */
  constructor(device, buffers) {
    this.device = device;
    this.buffers = buffers;
    /** @type {Promise<unknown>[]} of each buffer: that it is mapped, and nobody's */
    this.free = buffers.map(() => Promise.resolve());
    this.next = 0;
  }

  /**
   * @param {GPUBuffer} target
   * @param {number} offset
   * @param {Uint8Array} data
   * @returns {Promise<void>} that all of it is queued
   */
  async upload(target, offset, data) {
    const { size } = this.buffers[0];
    for (let at = 0; at < data.length; at += size) {
      await this.copy(target, offset + at, data.subarray(at, at + size));
    }
  }

  /**
   * @param {GPUBuffer} target
   * @param {number} offset
   * @param {Uint8Array} part no longer than a buffer
   * @returns {Promise<void>}
   */
  copy(target, offset, part) {
    const index = this.next;
    this.next = (index + 1) % this.buffers.length;
    const buffer = this.buffers[index];
    const queued = this.free[index].then(() => {
      new Uint8Array(buffer.getMappedRange(0, part.length)).set(part);
      buffer.unmap();
      const encoder = this.device.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer, 0, target, offset, part.length);
      this.device.queue.submit([encoder.finish()]);
    });
    this.free[index] = queued.then(() => buffer.mapAsync(GPUMapMode.WRITE));
    this.free[index].catch(() => {}); // whoever would use the buffer next is told
    return queued;
  }
}

/**
 * @param {GPUDevice} device
 * @param {GPUBuffer[]} buffers
 */
export const stagingRing = (device, buffers) => new StagingRing(device, buffers);
