import { type DualTower, ImageIndex, type SkippedImage } from "lenslet";
import { inWords, type Towers } from "./models.js";
import type { Picture } from "./pictures.js";

/** The names that scripts know the galleries by. */
export const GALLERIES = ["photos", "emoji", "yours"] as const;
export type GalleryName = (typeof GALLERIES)[number];

/** Where a gallery stands. */
export type GalleryState = "loading" | "indexing" | "ready" | "error";

/**
 * What changed: which pictures there are, what the gallery is doing, or only how far it has come (many times
 * a second).
 */
export type Change = "pictures" | "state" | "progress";

/** How a gallery is made up. */
export interface GalleryPlan {
  name: GalleryName;
  model: string;
  /** What one entry is called. */
  noun: string;
  placeholder: string;
  examples: string[];
  /** How many hits a search shows. */
  k: number;
  /** The pictures it starts with. */
  load(): Promise<Picture[]>;
}

/** A set of pictures, their index and how far it has come. */
export class Gallery {
  readonly plan: GalleryPlan;
  readonly pictures = new Map<string, Picture>();
  /** Paths that the index holds. */
  readonly indexed = new Set<string>();
  state: GalleryState = "loading";
  error: unknown;
  /** 0 to 1 through loading or indexing, and what that is in words. */
  progress = { value: 0, text: "" };
  skipped: SkippedImage[] = [];
  tower: DualTower | undefined;
  index: ImageIndex | undefined;
  started = false;

  readonly #towers: Towers;
  readonly #changed: (gallery: Gallery, what: Change) => void;
  #work: Promise<void> = Promise.resolve();

  constructor(
    plan: GalleryPlan,
    towers: Towers,
    changed: (gallery: Gallery, what: Change) => void,
  ) {
    this.plan = plan;
    this.#towers = towers;
    this.#changed = changed;
  }

  /** Loads pictures and model and indexes what is new. Also the way to try again after an error. */
  start(): Promise<void> {
    this.started = true;
    this.error = undefined;
    return this.#enqueue(async () => {
      this.#become("loading", 0, "Fetching the model");
      const [pictures, tower] = await Promise.all([
        this.plan.load().then((list) => {
          this.#take(list);
          return list;
        }),
        this.#towers.get(this.plan.model, (progress) => {
          if (this.state === "loading") {
            this.#become("loading", progress.value, inWords(progress));
          }
        }),
      ]);
      this.tower = tower;
      this.index = await ImageIndex.open(`lenslet-search/${this.plan.name}`, tower, {
        onMismatch: "clear",
      });
      await this.#forgetOthers(pictures);
      await this.#fill(pictures);
    });
  }

  /** Adds pictures of the visitor's own. */
  add(pictures: Picture[]): Promise<void> {
    this.#take(pictures);
    return this.#enqueue(async () => {
      if (this.index) {
        await this.#fill(pictures);
      }
    });
  }

  /** Forgets all pictures and what the index knew of them. */
  async clear(): Promise<void> {
    for (const { src } of this.pictures.values()) {
      if (src.startsWith("blob:")) {
        URL.revokeObjectURL(src);
      }
    }
    this.pictures.clear();
    this.indexed.clear();
    this.skipped = [];
    this.#changed(this, "pictures");
    await this.#enqueue(async () => this.index?.clear());
  }

  #enqueue(work: () => Promise<void>): Promise<void> {
    this.#work = this.#work.then(work).catch((error: unknown) => {
      this.error = error;
      this.#become("error", 0, "");
    });
    return this.#work;
  }

  #take(pictures: readonly Picture[]): void {
    for (const picture of pictures) {
      this.pictures.set(picture.path, picture);
    }
    this.#changed(this, "pictures");
  }

  /** Bundled galleries are whole lists: what is no longer among them leaves the index. */
  async #forgetOthers(pictures: readonly Picture[]): Promise<void> {
    if (!this.index || this.plan.name === "yours") {
      return;
    }
    const current = new Set(pictures.map(({ path }) => path));
    const gone = (await this.index.paths()).filter((path) => !current.has(path));
    if (gone.length > 0) {
      await this.index.remove(gone);
    }
  }

  async #fill(pictures: readonly Picture[]): Promise<void> {
    if (!this.index) {
      return;
    }
    this.#become("indexing", 0, "Looking at the pictures");
    const report = await this.index.add(
      pictures.map(({ item }) => item),
      {
        onProgress: ({ done, total, path }) => {
          if (path !== undefined) {
            this.indexed.add(path);
          }
          const value = total > 0 ? done / total : 1;
          this.#become(
            "indexing",
            value,
            `Looking at picture ${Math.min(done + 1, total)} of ${total}`,
          );
        },
      },
    );
    for (const { path } of pictures) {
      this.indexed.add(path);
    }
    this.skipped = [...this.skipped, ...report.skipped];
    for (const { path } of report.skipped) {
      this.pictures.delete(path);
    }
    if (report.skipped.length > 0) {
      this.#changed(this, "pictures");
    }
    this.#become("ready", 1, "");
  }

  #become(state: GalleryState, value: number, text: string): void {
    const change = this.state === state && state !== "ready" ? "progress" : "state";
    this.state = state;
    this.progress = { value, text };
    this.#changed(this, change);
  }
}
