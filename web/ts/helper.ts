/**
 * The entry point of a worker that shares the memory of Lenslet's worker and helps with products.
 * There is nothing here to import.
 */

/** First what to join, then, when all are ready, which helper to be. */
export type ToHelper =
  | { glue: string; module: WebAssembly.Module; memory: WebAssembly.Memory }
  | { serve: number };

/** The helper has joined, or could not. */
export type FromHelper = "ready" | "failed";

/** The glue of the module with threads, as a helper needs it. */
interface HelperGlue {
  default(options: {
    module_or_path: WebAssembly.Module;
    memory: WebAssembly.Memory;
  }): Promise<unknown>;
  /** Does not return. */
  serveAsHelper(index: number): void;
  buryHelper(index: number): void;
}

/** The global scope of a dedicated worker; the DOM typings describe a window instead. */
interface HelperScope {
  postMessage(message: FromHelper): void;
  addEventListener(type: "message", listener: (event: MessageEvent<ToHelper>) => void): void;
}

const scope = globalThis as unknown as HelperScope;
let joined: HelperGlue | undefined;

async function join(message: Extract<ToHelper, { glue: string }>): Promise<void> {
  try {
    const exports = (await import(
      /* webpackIgnore: true */ /* @vite-ignore */ message.glue
    )) as HelperGlue;
    await exports.default({ module_or_path: message.module, memory: message.memory });
    joined = exports;
    scope.postMessage("ready");
  } catch (error) {
    scope.postMessage("failed");
    throw error;
  }
}

scope.addEventListener("message", ({ data }) => {
  if ("glue" in data) {
    void join(data);
    return;
  }
  try {
    joined?.serveAsHelper(data.serve);
  } catch (error) {
    joined?.buryHelper(data.serve);
    throw error;
  }
});
