"""Counts of what the page's worker asks of WebGPU, kept outside the product: its own calls are
wrapped from here, in the browser that this machine drives.
"""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

WATCH = """() => {
  if (self.webgpuCounts) return;
  const counts = (self.webgpuCounts = {
    submits: 0, dispatches: 0, buffers: 0, destroyed: 0, bind_groups: 0, maps: 0, bytes_read: 0,
    writes: 0,
  });
  const watch = (prototype, name, note) => {
    const original = prototype[name];
    prototype[name] = function (...args) {
      note.apply(this, args);
      return original.apply(this, args);
    };
  };
  watch(GPUQueue.prototype, "submit", () => counts.submits++);
  watch(GPUQueue.prototype, "writeBuffer", () => counts.writes++);
  watch(GPUComputePassEncoder.prototype, "dispatchWorkgroups", () => counts.dispatches++);
  watch(GPUDevice.prototype, "createBuffer", () => counts.buffers++);
  watch(GPUDevice.prototype, "createBindGroup", () => counts.bind_groups++);
  watch(GPUBuffer.prototype, "destroy", () => counts.destroyed++);
  watch(GPUBuffer.prototype, "mapAsync", function (mode, offset = 0, size = this.size - offset) {
    counts.maps++;
    counts.bytes_read += size;
  });
}"""
COUNTS = "() => ({ ...self.webgpuCounts })"


class Counters:
    """Running counts of one page's worker, from the moment that this is made."""

    def __init__(self, page: Page) -> None:
        self._worker = next(w for w in page.workers if w.url.endswith("/worker.js"))
        self._worker.evaluate(WATCH)

    def now(self) -> dict[str, int]:
        """`submits`, `dispatches`, `writes` (to buffers by the host), `buffers` and `bind_groups`
        made, buffers `destroyed`, `maps`, and `bytes_read` through them.
        """
        counts: dict[str, int] = self._worker.evaluate(COUNTS)
        return counts


def per_token(before: dict[str, int], after: dict[str, int], tokens: int) -> dict[str, Any]:
    """What `tokens` more tokens took, divided by them."""
    return {name: round((after[name] - before[name]) / tokens, 4) for name in before}
