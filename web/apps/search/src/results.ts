import { byId, h } from "./dom.js";
import type { Picture } from "./pictures.js";

/** A picture in the order in which it is to be shown. */
export interface Shown {
  picture: Picture;
  /** Cosine similarity to the query; absent when there is none. */
  score?: number | undefined;
}

interface Tile {
  item: HTMLLIElement;
  face: HTMLButtonElement;
  bar: HTMLElement;
  scoreText: HTMLElement;
}

/** More tiles than this do not glide to their new places, they are there. */
const MOST_MOVING = 120;

/** The grid: tiles are kept and moved, so that pictures do not flash while one types. */
export class Results {
  readonly list = byId("results", HTMLUListElement);
  readonly #tiles = new Map<string, Tile>();
  readonly #open: (path: string) => void;
  #order: string[] = [];
  #current: string | undefined;

  constructor(open: (path: string) => void) {
    this.#open = open;
    this.list.addEventListener("keydown", (event) => this.#onKey(event));
    this.list.addEventListener("focusin", (event) => {
      const path = (event.target as HTMLElement).closest("li")?.dataset.path;
      if (path !== undefined) {
        this.#setCurrent(path);
      }
    });
  }

  /** Paths as they are shown, best first. */
  get order(): readonly string[] {
    return this.#order;
  }

  /** Shows these pictures and no others. */
  show(shown: readonly Shown[]): void {
    const before = this.#positions();
    const best = Math.max(...shown.map(({ score }) => score ?? 0), 1e-6);
    const focused = this.list.contains(document.activeElement);
    this.#order = shown.map(({ picture }) => picture.path);
    const items = shown.map(({ picture, score }) => {
      const tile = this.#tile(picture);
      if (score === undefined) {
        delete tile.item.dataset.score;
        tile.scoreText.textContent = "";
      } else {
        tile.item.dataset.score = score.toFixed(4);
        tile.scoreText.textContent = score.toFixed(2);
        tile.bar.style.setProperty("--share", String(Math.max(0, score / best)));
      }
      return tile.item;
    });
    this.list.classList.toggle(
      "ranked",
      shown.some(({ score }) => score !== undefined),
    );
    this.list.replaceChildren(...items);
    this.#setCurrent(
      this.#current !== undefined && this.#order.includes(this.#current)
        ? this.#current
        : this.#order[0],
    );
    if (focused && this.#current !== undefined) {
      this.focus(this.#current);
    }
    this.#glide(before);
  }

  /** Drops tiles of pictures that no longer exist. */
  forget(keep: (path: string) => boolean): void {
    for (const path of this.#tiles.keys()) {
      if (!keep(path)) {
        this.#tiles.delete(path);
      }
    }
  }

  /** Starts anew for another gallery. */
  reset(kind: string): void {
    this.#tiles.clear();
    this.#order = [];
    this.#current = undefined;
    this.list.dataset.kind = kind;
    this.list.replaceChildren();
  }

  /** Tiles come into colour as the model gets to know their pictures. */
  markIndexed(has: (path: string) => boolean): void {
    for (const [path, { item }] of this.#tiles) {
      item.classList.toggle("undeveloped", !has(path));
    }
  }

  /** Moves the focus to a tile, or to the first. */
  focus(path = this.#order[0]): void {
    if (path !== undefined) {
      this.#tiles.get(path)?.face.focus();
    }
  }

  #setCurrent(path: string | undefined): void {
    if (this.#current !== undefined) {
      this.#tiles.get(this.#current)?.face.setAttribute("tabindex", "-1");
    }
    this.#current = path;
    if (path !== undefined) {
      this.#tiles.get(path)?.face.setAttribute("tabindex", "0");
    }
  }

  #tile(picture: Picture): Tile {
    const known = this.#tiles.get(picture.path);
    if (known) {
      return known;
    }
    const image = h("img", {
      src: picture.src,
      alt: picture.alt,
      loading: "lazy",
      decoding: "async",
    });
    const bar = h("span", { class: "bar-fill" });
    const scoreText = h("span", { class: "score" });
    const face = h(
      "button",
      { type: "button", tabindex: "-1" },
      h("span", { class: "frame" }, image),
      h("span", { class: "caption" }, h("span", { class: "title" }, picture.title), scoreText),
      h("span", { class: "similarity", "aria-hidden": "true" }, bar),
    );
    face.addEventListener("click", () => this.#open(picture.path));
    const item = h("li", { "data-path": picture.path, class: "undeveloped" }, face);
    const setAspect = (aspect: number): void =>
      item.style.setProperty("--aspect", aspect.toFixed(4));
    if (picture.aspect) {
      setAspect(clampAspect(picture.aspect));
    } else {
      image.addEventListener("load", () =>
        setAspect(clampAspect(image.naturalWidth / (image.naturalHeight || 1))),
      );
    }
    image.addEventListener("error", () => item.classList.add("broken"));
    const tile = { item, face, bar, scoreText };
    this.#tiles.set(picture.path, tile);
    return tile;
  }

  /** Arrow keys: along the rank sideways, to the nearest tile above or below. */
  #onKey(event: KeyboardEvent): void {
    if (this.#current === undefined || event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    const at = this.#order.indexOf(this.#current);
    const moves: Record<string, (() => string | undefined) | undefined> = {
      ArrowRight: () => this.#order[at + 1],
      ArrowLeft: () => this.#order[at - 1],
      ArrowDown: () => this.#vertical(at, 1),
      ArrowUp: () => this.#vertical(at, -1),
      Home: () => this.#order[0],
      End: () => this.#order.at(-1),
    };
    const target = moves[event.key]?.();
    if (target !== undefined) {
      event.preventDefault();
      this.focus(target);
    } else if (event.key === "ArrowUp" || event.key === "Escape") {
      event.preventDefault();
      byId("query", HTMLInputElement).focus();
    }
  }

  #vertical(at: number, direction: 1 | -1): string | undefined {
    const boxes = this.#order.map((path) => this.#tiles.get(path)?.item.getBoundingClientRect());
    const from = boxes[at];
    if (!from) {
      return undefined;
    }
    const centre = from.left + from.width / 2;
    let best: { path: string; row: number; distance: number } | undefined;
    boxes.forEach((box, i) => {
      const path = this.#order[i];
      const row = box ? (box.top - from.top) * direction : 0;
      if (!box || path === undefined || row < 8) {
        return;
      }
      const distance = Math.abs(box.left + box.width / 2 - centre);
      if (!best || row < best.row - 8 || (row < best.row + 8 && distance < best.distance)) {
        best = { path, row, distance };
      }
    });
    return best?.path;
  }

  #positions(): Map<string, DOMRect> | undefined {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still || this.#order.length === 0 || this.#order.length > MOST_MOVING) {
      return undefined;
    }
    return new Map(
      this.#order.flatMap((path) => {
        const item = this.#tiles.get(path)?.item;
        return item ? [[path, item.getBoundingClientRect()] as const] : [];
      }),
    );
  }

  #glide(before: Map<string, DOMRect> | undefined): void {
    if (!before || this.#order.length > MOST_MOVING) {
      return;
    }
    const after = this.#positions();
    for (const path of this.#order) {
      const item = this.#tiles.get(path)?.item;
      const from = before.get(path);
      const to = after?.get(path);
      if (!item || !to) {
        continue;
      }
      if (!from) {
        item.animate({ opacity: [0, 1] }, { duration: 180, easing: "ease-out" });
      } else if (Math.abs(from.left - to.left) > 1 || Math.abs(from.top - to.top) > 1) {
        item.animate(
          {
            transform: [`translate(${from.left - to.left}px, ${from.top - to.top}px)`, "none"],
          },
          { duration: 260, easing: "cubic-bezier(0.2, 0.7, 0.2, 1)" },
        );
      }
    }
  }
}

/** Panoramas and towers would leave a row with one picture. */
const clampAspect = (aspect: number): number => Math.min(Math.max(aspect, 0.6), 2.2);
