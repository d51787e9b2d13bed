// The page's end of worker.mjs.

/** A runtime in a worker; one call at a time. */
export class RuntimeWorker {
  #worker;
  #name;

  constructor(name) {
    this.#name = name;
    this.#worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module", name });
  }

  call(message) {
    return new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }) => {
        if (data.error !== undefined) {
          reject(new Error(`${this.#name}: ${data.error}`));
        } else {
          resolve(data.result);
        }
      };
      this.#worker.onerror = (event) => reject(new Error(`${this.#name}: ${event.message}`));
      this.#worker.postMessage(message);
    });
  }
}
