/**
 * One number for the whole of loading.
 */

/** The stages of loading a model, in order. */
export type LoadStage = "download" | "prepare" | "compile" | "ready";

/** How far loading has come. */
export interface LoadProgress {
  /** 0 to 1 over all stages; never goes back. */
  value: number;
  stage: LoadStage;
  /** Bytes that have arrived, from the network or from the cache. */
  loadedBytes: number;
  /** Bytes in all, as far as is known; 0 at first. */
  totalBytes: number;
}

/** Where each stage begins and ends on the scale of 0 to 1, about in proportion to the time it takes. */
const SPANS: Readonly<Record<LoadStage, readonly [from: number, to: number]>> = {
  download: [0, 0.75],
  prepare: [0.75, 0.85],
  compile: [0.85, 1],
  ready: [1, 1],
};

/** Turns the events of downloading, preparing and compiling into one rising value. */
export class LoadMeter {
  readonly #report: (progress: LoadProgress) => void;
  readonly #files = new Map<string, { loaded: number; total: number }>();
  #stage: LoadStage = "download";
  #fraction = 0;
  #value = 0;

  constructor(report: (progress: LoadProgress) => void) {
    this.#report = report;
  }

  /** Announces a file before its first byte, so that the total is known early. */
  expect(file: string, total: number): void {
    const known = this.#files.get(file);
    this.#files.set(file, {
      loaded: known?.loaded ?? 0,
      total: Math.max(total, known?.loaded ?? 0),
    });
  }

  /** `loaded` bytes of a file are here. */
  received(file: string, loaded: number): void {
    const total = Math.max(this.#files.get(file)?.total ?? 0, loaded);
    this.#files.set(file, { loaded, total });
    const bytes = this.#bytes();
    if (this.#stage === "download") {
      this.#fraction = bytes.total > 0 ? bytes.loaded / bytes.total : 0;
    }
    this.#emit();
  }

  /** Enters a stage, `fraction` (0 to 1) of the way through it. */
  enter(stage: LoadStage, fraction = 0): void {
    this.#stage = stage;
    this.#fraction = Math.min(Math.max(fraction, 0), 1);
    this.#emit();
  }

  #bytes(): { loaded: number; total: number } {
    let loaded = 0;
    let total = 0;
    for (const file of this.#files.values()) {
      loaded += file.loaded;
      total += file.total;
    }
    return { loaded, total };
  }

  #emit(): void {
    const [from, to] = SPANS[this.#stage];
    this.#value = Math.max(this.#value, from + (to - from) * this.#fraction);
    const { loaded, total } = this.#bytes();
    this.#report({
      value: this.#value,
      stage: this.#stage,
      loadedBytes: loaded,
      totalBytes: total,
    });
  }
}
