/**
 * The entry point of Lenslet's Web Worker. `loadDualTower` starts it; there is nothing here to import.
 */

import { WorkerHost } from "./host.js";
import type { FromWorker, ToWorker } from "./protocol.js";

/** The global scope of a dedicated worker; the DOM typings describe a window instead. */
interface WorkerScope {
  postMessage(message: FromWorker, transfer: Transferable[]): void;
  addEventListener(type: "message", listener: (event: MessageEvent<ToWorker>) => void): void;
}

const scope = globalThis as unknown as WorkerScope;
const host = new WorkerHost((message, transfer) => scope.postMessage(message, transfer));
scope.addEventListener("message", (event) => host.receive(event.data));
