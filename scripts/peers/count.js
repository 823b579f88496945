/**
 * Counts what a page and all its workers ask of WebGPU, the same way for every engine. Put before
 * the page's own scripts; it puts itself before the scripts of workers that are made from blobs,
 * and the server puts it before those that have an address.
 *
 * `gpuCounts()` in the page sums over it and its workers: bytes of buffers that are held now,
 * submits so far, and the adapter of the device.
 */
(function count() {
  if (self.gpuCounts || !self.GPUDevice) return;
  const own = { bytes: 0, submits: 0, adapter: "" };
  const sizes = new WeakMap();
  const forget = (size) => (own.bytes -= size);
  const collected = new FinalizationRegistry(forget); // a buffer may be dropped and not destroyed

  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    const { vendor = "", architecture = "" } = this.adapterInfo ?? {};
    own.adapter = `${vendor} ${architecture}`.trim();
    own.bytes += buffer.size;
    sizes.set(buffer, buffer.size);
    collected.register(buffer, buffer.size, buffer);
    return buffer;
  };
  const { destroy } = GPUBuffer.prototype;
  GPUBuffer.prototype.destroy = function () {
    forget(sizes.get(this) ?? 0);
    sizes.delete(this);
    collected.unregister(this);
    return destroy.call(this);
  };
  const { submit } = GPUQueue.prototype;
  GPUQueue.prototype.submit = function (buffers) {
    own.submits += 1;
    return submit.call(this, buffers);
  };

  const source = `(${count})();\n`;
  self.Blob = class extends Blob {
    constructor(parts = [], options = {}) {
      super(options.type === "text/javascript" ? [source, ...parts] : parts, options);
    }
  };

  const channel = new BroadcastChannel("gpu-counts");
  const answers = [];
  channel.onmessage = ({ data }) => {
    if (data === "ask") channel.postMessage(own);
    else answers.push(data);
  };
  self.gpuCounts = async () => {
    answers.length = 0;
    channel.postMessage("ask");
    await new Promise((resolve) => setTimeout(resolve, 500)); // a worker that waits never answers
    const all = [own, ...answers];
    const sum = (key) => all.reduce((total, counts) => total + counts[key], 0);
    return {
      bytes: sum("bytes"),
      submits: sum("submits"),
      adapter: all.map(({ adapter }) => adapter).find(Boolean) ?? null,
    };
  };
})();
