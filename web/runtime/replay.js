/** @file Plays recorded lists of dispatches: one call from Python, a whole token's commands. */

/**
 * @typedef {object} Recording
 * @property {Int32Array} dispatches four a dispatch: index of its pipeline, then x, y, z workgroups
 * @property {GPUComputePipeline[]} pipelines
 * @property {GPUBindGroup[]} groups one a dispatch
 */

/**
 * Encodes recordings one after another into one compute pass and submits it.
 * @param {GPUDevice} device
 * @param {Recording[]} recordings
 */
export function replay(device, ...recordings) {
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const recording of recordings) play(pass, recording);
  pass.end();
  device.queue.submit([encoder.finish()]);
}

/**
 * Runs a recording with a pass for every dispatch; the device needs "timestamp-query".
 * @param {GPUDevice} device
 * @param {Recording} recording
 * @returns {Promise<Float64Array>} microseconds of GPU time of each dispatch
 */
export async function timed(device, recording) {
  const count = recording.groups.length;
  const times = new Float64Array(count);
  for (let start = 0; start < count; start += MOST_TIMED) {
    const end = Math.min(start + MOST_TIMED, count);
    times.set(await timedPart(device, recording, start, end), start);
  }
  return times;
}

const MOST_TIMED = 2048; // a query set holds two timestamps for each

/**
 * @param {GPUDevice} device
 * @param {Recording} recording
 * @param {number} start
 * @param {number} end
 */
async function timedPart(device, recording, start, end) {
  const bytes = 16 * (end - start);
  const querySet = device.createQuerySet({ type: "timestamp", count: 2 * (end - start) });
  const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const resolved = device.createBuffer({ size: bytes, usage: QUERY_RESOLVE | COPY_SRC });
  const reader = device.createBuffer({ size: bytes, usage: COPY_DST | MAP_READ });
  const encoder = device.createCommandEncoder();
  for (let i = start; i < end; i++) {
    const at = 2 * (i - start);
    const timestampWrites = {
      querySet,
      beginningOfPassWriteIndex: at,
      endOfPassWriteIndex: at + 1,
    };
    const pass = encoder.beginComputePass({ timestampWrites });
    playOne(pass, recording, i);
    pass.end();
  }
  encoder.resolveQuerySet(querySet, 0, 2 * (end - start), resolved, 0);
  encoder.copyBufferToBuffer(resolved, 0, reader, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await reader.mapAsync(GPUMapMode.READ);
  const stamps = new BigUint64Array(reader.getMappedRange());
  const times = Float64Array.from({ length: end - start }, (_, i) => {
    return Number(stamps[2 * i + 1] - stamps[2 * i]) / 1000;
  });
  for (const used of [querySet, resolved, reader]) used.destroy();
  return times;
}

/**
 * @param {GPUComputePassEncoder} pass
 * @param {Recording} recording
 */
function play(pass, recording) {
  for (let i = 0; i < recording.groups.length; i++) playOne(pass, recording, i);
}

/**
 * @param {GPUComputePassEncoder} pass
 * @param {Recording} recording
 * @param {number} i which dispatch
 */
function playOne(pass, { dispatches, pipelines, groups }, i) {
  pass.setPipeline(pipelines[dispatches[4 * i]]);
  pass.setBindGroup(0, groups[i]);
  pass.dispatchWorkgroups(dispatches[4 * i + 1], dispatches[4 * i + 2], dispatches[4 * i + 3]);
}
