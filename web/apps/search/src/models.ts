import {
  type Captioner,
  type DualTower,
  type LoadOptions,
  type LoadProgress,
  loadCaptioner,
  loadDualTower,
  type Offload,
} from "lenslet";

type Device = NonNullable<LoadOptions["device"]>;
type Listener = (progress: LoadProgress) => void;

interface Loading<Model> {
  model: Promise<Model>;
  listeners: Set<Listener>;
  last?: LoadProgress;
}

/** The page's models of one kind, each loaded once however many parts of the page use it. */
export class Models<Model> {
  readonly #load: (name: string, onProgress: Listener) => Promise<Model>;
  readonly #loading = new Map<string, Loading<Model>>();

  constructor(load: (name: string, onProgress: Listener) => Promise<Model>) {
    this.#load = load;
  }

  /** The model of that name. One that failed is tried anew at the next call. */
  get(name: string, listener: Listener): Promise<Model> {
    const known = this.#loading.get(name);
    if (known) {
      known.listeners.add(listener);
      if (known.last) {
        listener(known.last);
      }
      return known.model;
    }
    const listeners = new Set([listener]);
    const model = this.#load(name, (progress) => {
      loading.last = progress;
      for (const each of listeners) {
        each(progress);
      }
    });
    const loading: Loading<Model> = { model, listeners };
    this.#loading.set(name, loading);
    model.catch(() => this.#loading.delete(name));
    return model;
  }
}

/** The page's dual towers. */
export type Towers = Models<DualTower>;
export const towersOn = (device: Device, offload?: Offload): Towers =>
  new Models((name, onProgress) =>
    loadDualTower(name, { device, onProgress, ...(offload && { offload }) }),
  );

/** The page's captioners. */
export type Captioners = Models<Captioner>;
export const captionersOn = (device: Device, offload?: Offload): Captioners =>
  new Models((name, onProgress) =>
    loadCaptioner(name, { device, onProgress, ...(offload && { offload }) }),
  );

/** What loading is doing, in words. */
export function inWords({ stage, loadedBytes, totalBytes }: LoadProgress): string {
  if (stage === "download") {
    return totalBytes > 0
      ? `Fetching the model: ${megabytes(loadedBytes)} of ${megabytes(totalBytes)} MB`
      : "Fetching the model";
  }
  return stage === "compile" ? "Warming up" : "Preparing the model";
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
