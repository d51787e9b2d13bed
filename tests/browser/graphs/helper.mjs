// A worker that shares the memory of Lenslet's module and helps with products.

let exports;

addEventListener("message", async ({ data }) => {
  if (data.glue) {
    exports = await import(data.glue);
    await exports.default({ module_or_path: data.module, memory: data.memory });
    postMessage("ready");
  } else {
    exports.serveAsHelper(data.serve);
  }
});
