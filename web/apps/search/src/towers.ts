import { type DualTower, type LoadOptions, type LoadProgress, loadDualTower } from "lenslet";

type Listener = (progress: LoadProgress) => void;

interface Loading {
  tower: Promise<DualTower>;
  listeners: Set<Listener>;
  last?: LoadProgress;
}

/** The page's models, each loaded once however many galleries use it. */
export class Towers {
  readonly #device: NonNullable<LoadOptions["device"]>;
  readonly #loading = new Map<string, Loading>();

  constructor(device: NonNullable<LoadOptions["device"]>) {
    this.#device = device;
  }

  /** The tower of that name. One that failed is tried anew at the next call. */
  get(model: string, listener: Listener): Promise<DualTower> {
    const known = this.#loading.get(model);
    if (known) {
      known.listeners.add(listener);
      if (known.last) {
        listener(known.last);
      }
      return known.tower;
    }
    const listeners = new Set([listener]);
    const tower = loadDualTower(model, {
      device: this.#device,
      onProgress: (progress) => {
        loading.last = progress;
        for (const each of listeners) {
          each(progress);
        }
      },
    });
    const loading: Loading = { tower, listeners };
    this.#loading.set(model, loading);
    tower.catch(() => this.#loading.delete(model));
    return tower;
  }
}
