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
 * @param {GPUComputePassEncoder} pass
 * @param {Recording} recording
 */
function play(pass, { dispatches, pipelines, groups }) {
  for (let i = 0; i < groups.length; i++) {
    pass.setPipeline(pipelines[dispatches[4 * i]]);
    pass.setBindGroup(0, groups[i]);
    pass.dispatchWorkgroups(dispatches[4 * i + 1], dispatches[4 * i + 2], dispatches[4 * i + 3]);
  }
}
