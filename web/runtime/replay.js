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
 * One recording that plays several; it is good as long as they are.
 * @param {Recording[]} recordings
 * @returns {Recording}
 */
export function join(...recordings) {
  const pipelines = [...new Set(recordings.flatMap((recording) => recording.pipelines))];
  const dispatches = recordings.flatMap(({ dispatches, pipelines: own }) =>
    Array.from(dispatches, (word, i) => (i % 4 ? word : pipelines.indexOf(own[word]))),
  );
  const groups = recordings.flatMap((recording) => recording.groups);
  return { dispatches: Int32Array.from(dispatches), pipelines, groups };
}

/**
 * Some of a recording's dispatches, one behind the other; good as long as that is.
 * @param {Recording} recording
 * @param {number} first
 * @param {number} end
 * @returns {Recording}
 */
export function part({ dispatches, pipelines, groups }, first, end) {
  return {
    dispatches: dispatches.subarray(4 * first, 4 * end),
    pipelines,
    groups: groups.slice(first, end),
  };
}

/**
 * Runs lists of recordings with a pass for each list; the device needs "timestamp-query".
 * @param {GPUDevice} device
 * @param {Recording[][]} lists
 * @returns {Promise<Float64Array>} microseconds of GPU time of each pass
 */
export async function timed(device, lists) {
  const count = 2 * lists.length;
  const querySet = device.createQuerySet({ type: "timestamp", count });
  const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const resolved = device.createBuffer({ size: 8 * count, usage: QUERY_RESOLVE | COPY_SRC });
  const reader = device.createBuffer({ size: 8 * count, usage: COPY_DST | MAP_READ });
  const encoder = device.createCommandEncoder();
  lists.forEach((recordings, i) => {
    const timestampWrites = {
      querySet,
      beginningOfPassWriteIndex: 2 * i,
      endOfPassWriteIndex: 2 * i + 1,
    };
    const pass = encoder.beginComputePass({ timestampWrites });
    for (const recording of recordings) play(pass, recording);
    pass.end();
  });
  encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
  encoder.copyBufferToBuffer(resolved, 0, reader, 0, 8 * count);
  device.queue.submit([encoder.finish()]);
  await reader.mapAsync(GPUMapMode.READ);
  const stamps = new BigUint64Array(reader.getMappedRange());
  const times = Float64Array.from(lists, (_, i) => {
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
  const { dispatches, pipelines, groups } = recording;
  for (let i = 0; i < groups.length; i++) {
    pass.setPipeline(pipelines[dispatches[4 * i]]);
    pass.setBindGroup(0, groups[i]);
    pass.dispatchWorkgroups(dispatches[4 * i + 1], dispatches[4 * i + 2], dispatches[4 * i + 3]);
  }
}
