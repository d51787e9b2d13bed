import { type Device, type LoadOptions, UnsupportedError } from "lenslet";
import { Detail } from "./detail.js";
import { button, byId, count, h, link } from "./dom.js";
import { type DroppedFile, onDrop } from "./files.js";
import { type Change, GALLERIES, Gallery, type GalleryName } from "./gallery.js";
import { captionersOn, towersOn } from "./models.js";
import { ownPicture } from "./pictures.js";
import { PLANS } from "./plans.js";
import { Results, type Shown } from "./results.js";
import { type Answer, isEmpty, type Query, queryKey, Searcher } from "./search.js";
import { byWhom, promise, ServerControl } from "./server.js";
import { YoursPanel } from "./yours.js";

/** Typing rests this long before a search runs. */
const DEBOUNCE_MS = 90;

/** Progress is painted at most this often. */
const PAINT_MS = 150;

/** Without a query, a gallery shows at most this many tiles. */
const MOST_TILES = 600;

/** The page: three galleries, one search field, one grid. */
export class App {
  readonly #root = byId("app", HTMLElement);
  readonly #field = byId("query", HTMLInputElement);
  readonly #status = byId("status", HTMLElement);
  readonly #notice = byId("notice", HTMLElement);
  readonly #galleries: ReadonlyMap<GalleryName, Gallery>;
  readonly #searcher = new Searcher();
  readonly #server: ServerControl;
  readonly #results = new Results((path) => this.#detail.show(path));
  readonly #detail: Detail;
  readonly #yours: YoursPanel;
  #current: Gallery;
  #query: Query = { text: "" };
  #answer: Answer | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #painting: ReturnType<typeof setTimeout> | undefined;

  constructor(device: NonNullable<LoadOptions["device"]>, first: GalleryName, text: string) {
    // Who insists on a device does not want a server.
    const given = device === "auto" ? location : undefined;
    this.#server = new ServerControl(given, () => this.#onServer());
    const { offload } = this.#server;
    const towers = towersOn(device, offload);
    const galleries = PLANS.map(
      (plan) => new Gallery(plan, towers, (...event) => this.#on(...event)),
    );
    this.#galleries = new Map(galleries.map((gallery) => [gallery.plan.name, gallery]));
    this.#current = this.#gallery(first);
    this.#detail = new Detail({
      neighbour: (path, step) => {
        const { order } = this.#results;
        return order[order.indexOf(path) + step];
      },
      lookUp: (path) => {
        const picture = this.#current.pictures.get(path);
        return (
          picture && { picture, score: this.#answer?.hits.find((hit) => hit.path === path)?.score }
        );
      },
      findSimilar: (picture) => {
        this.#field.value = "";
        void this.#ask({ like: picture });
      },
      closed: (path) => this.#results.focus(path),
      captioners: captionersOn(device, offload),
      tellsWho: offload !== undefined,
    });
    this.#yours = new YoursPanel(
      (files) => this.#takeFiles(files),
      () => void this.#gallery("yours").clear(),
      () => promise(this.#server),
    );
    this.#field.value = text;
    this.#query = { text: text.trim() };
    this.#listen();
    this.#open(first);
  }

  #gallery(name: GalleryName): Gallery {
    const gallery = this.#galleries.get(name);
    if (!gallery) {
      throw new Error(`no gallery ${name}`);
    }
    return gallery;
  }

  #listen(): void {
    for (const name of GALLERIES) {
      this.#button(name).addEventListener("click", () => this.#open(name));
    }
    this.#field.addEventListener("input", (event) => {
      if (!(event instanceof InputEvent && event.isComposing)) {
        this.#askSoon();
      }
    });
    this.#field.addEventListener("compositionend", () => this.#askSoon());
    this.#field.addEventListener("keydown", (event) => this.#onFieldKey(event));
    addEventListener("keydown", (event) => {
      const typing =
        event.target instanceof HTMLInputElement || document.querySelector("dialog[open]");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        this.#field.select();
      }
    });
    onDrop(byId("dropzone", HTMLElement), (files) => {
      void files.then((found) => this.#takeFiles(found));
    });
  }

  #onFieldKey(event: KeyboardEvent): void {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#results.focus();
    } else if (event.key === "Enter" && !event.isComposing) {
      clearTimeout(this.#timer);
      void this.#ask({ text: this.#field.value.trim() });
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.#field.value = "";
      void this.#ask({ text: "" });
    }
  }

  #button(name: GalleryName): HTMLButtonElement {
    const found = document.querySelector(`[data-gallery-button="${name}"]`);
    if (!(found instanceof HTMLButtonElement)) {
      throw new Error(`index.html has no button for ${name}`);
    }
    return found;
  }

  /** Switches to a gallery. What is typed stays; its examples and pictures change. */
  #open(name: GalleryName): void {
    this.#searcher.cancel();
    this.#current = this.#gallery(name);
    this.#answer = undefined;
    // What stands in the field, even if typing has not rested yet.
    this.#query = { text: this.#field.value.trim() };
    this.#root.dataset.gallery = name;
    for (const each of GALLERIES) {
      this.#button(each).setAttribute("aria-pressed", String(each === name));
    }
    const { plan } = this.#current;
    this.#field.placeholder = plan.placeholder;
    byId("examples", HTMLElement).replaceChildren(
      ...plan.examples.map((example) =>
        button(example, () => {
          this.#field.value = example;
          void this.#ask({ text: example });
        }),
      ),
    );
    this.#credits();
    this.#results.reset(name === "emoji" ? "emoji" : "photo");
    this.#yours.render(this.#current);
    if (!this.#current.started) {
      void this.#current.start();
    }
    this.#render();
    void this.#ask(this.#query);
  }

  /** The visitor allowed or forbade the server: what the page says of it changes, and the search is repeated. */
  #onServer(): void {
    const { host, allows } = this.#server;
    byId("promise", HTMLElement).textContent = allows
      ? `Searches and pictures may be sent to ${host}.`
      : "Models and pictures run and stay on this device. The page speaks to no server but the one it came from.";
    byId("drop-promise", HTMLElement).textContent = promise(this.#server);
    this.#yours.render(this.#current);
    if (this.#current.state === "ready") {
      void this.#ask(this.#query);
    }
  }

  #takeFiles(files: readonly DroppedFile[]): void {
    const gallery = this.#gallery("yours");
    if (this.#current !== gallery) {
      this.#field.value = "";
      this.#open("yours");
    }
    if (files.length === 0) {
      this.#say("There were no pictures among those files.");
      return;
    }
    void gallery.add(files.map(({ file, path }) => ownPicture(file, path)));
  }

  #on(gallery: Gallery, what: Change): void {
    if (what === "pictures") {
      const { size } = gallery.pictures;
      this.#button(gallery.plan.name)
        .querySelector(".count")
        ?.replaceChildren(size > 0 ? String(size) : "");
    }
    if (gallery !== this.#current) {
      return;
    }
    if (what === "pictures") {
      this.#results.forget((path) => gallery.pictures.has(path));
      this.#yours.render(gallery);
      this.#showResults();
    } else if (what === "state") {
      this.#render();
      if (gallery.state === "ready") {
        this.#yours.render(gallery);
        void this.#ask(this.#query);
      }
    } else {
      // Painting competes with the model for the processor: a few times a second is enough.
      this.#painting ??= setTimeout(() => {
        this.#painting = undefined;
        this.#render();
      }, PAINT_MS);
    }
  }

  #askSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      void this.#ask({ text: this.#field.value.trim() });
    }, DEBOUNCE_MS);
  }

  async #ask(query: Query): Promise<void> {
    clearTimeout(this.#timer);
    this.#query = query;
    if (isEmpty(query)) {
      this.#searcher.cancel();
      this.#answer = undefined;
      this.#showResults();
      return;
    }
    const gallery = this.#current;
    try {
      const answer = await this.#searcher.run(gallery, query);
      if (answer && gallery === this.#current) {
        this.#answer = answer;
        this.#showResults();
      }
    } catch (error) {
      this.#say(`The search failed: ${messageOf(error)}`);
    }
  }

  #showResults(): void {
    const { pictures, indexed } = this.#current;
    const answer = this.#answer;
    const shown: Shown[] = answer
      ? answer.hits.flatMap(({ path, score }) => {
          const picture = pictures.get(path);
          return picture ? [{ picture, score }] : [];
        })
      : [...pictures.values()].slice(0, MOST_TILES).map((picture) => ({ picture }));
    this.#results.show(shown);
    this.#results.markIndexed((path) => indexed.has(path));
    const { dataset } = this.#results.list;
    dataset.query = answer ? queryKey(answer.query) : "";
    dataset.ms = answer ? answer.ms.toFixed(1) : "";
    dataset.answeredBy = answer?.by.answeredBy ?? "";
    dataset.reason = answer?.by.reason ?? "";
    const more = byId("more", HTMLElement);
    more.hidden = answer !== undefined || pictures.size <= MOST_TILES;
    more.textContent = `and ${count(pictures.size - MOST_TILES, "more", "more")}: describe one to find it`;
    this.#renderStatus(shown);
  }

  #render(): void {
    const { state, progress, tower, plan, indexed } = this.#current;
    const waiting = plan.name === "yours" && this.#current.pictures.size === 0;
    this.#root.dataset.state = state;
    const bar = byId("progress", HTMLElement);
    bar.classList.toggle(
      "idle",
      state === "ready" || state === "error" || (waiting && state === "indexing"),
    );
    bar.style.setProperty("--value", String(progress.value));
    bar.setAttribute("aria-valuenow", String(Math.round(progress.value * 100)));
    bar.setAttribute("aria-valuetext", progress.text || "Ready");
    if (tower) {
      this.#showDevice(tower.device, tower.adapter, tower.fallback);
    }
    this.#results.markIndexed((path) => indexed.has(path));
    this.#renderNotice();
    this.#renderStatus();
  }

  #showDevice(device: Device | "server", adapter: string, fallback: string | undefined): void {
    this.#root.dataset.device = device;
    const label = byId("device", HTMLElement);
    label.hidden = false;
    label.textContent =
      device === "wasm" ? "WASM SIMD" : `${device === "webgpu" ? "WebGPU" : "Server"} · ${adapter}`;
    label.title = fallback ? `The GPU was not used: ${fallback}` : "Where the model runs";
  }

  #renderNotice(): void {
    const { state, error } = this.#current;
    this.#notice.hidden = state !== "error";
    if (state !== "error") {
      return;
    }
    const unsupported = error instanceof UnsupportedError;
    this.#notice.replaceChildren(
      h("h2", {}, unsupported ? "This browser cannot run the model" : "The model did not load"),
      h("p", {}, messageOf(error)),
      h(
        "div",
        { class: "actions" },
        !unsupported && button("Try again", () => void this.#current.start(), { class: "primary" }),
      ),
    );
    this.#announce(`${unsupported ? "Not supported" : "Error"}: ${messageOf(error)}`);
  }

  #renderStatus(shown?: readonly Shown[]): void {
    const { state, progress, plan, pictures } = this.#current;
    if (state === "error") {
      this.#status.textContent = "";
      return;
    }
    if (state === "ready" && pictures.size === 0) {
      this.#status.textContent = "";
      return;
    }
    if (state !== "ready") {
      this.#status.textContent = progress.text;
      return;
    }
    const answer = this.#answer;
    if (!answer) {
      this.#status.textContent =
        pictures.size > 0 ? count(pictures.size, plan.noun, plurals(plan.noun)) : "";
      if (shown) {
        this.#announce(this.#status.textContent);
      }
      return;
    }
    const found = `${answer.hits.length} of ${count(pictures.size, plan.noun, plurals(plan.noun))}`;
    this.#status.replaceChildren(
      h("span", {}, "like" in answer.query ? `${found}, like “${answer.query.like.title}”` : found),
      h(
        "span",
        { class: "figures" },
        `${answer.ms < 10 ? answer.ms.toFixed(1) : Math.round(answer.ms)} ms`,
      ),
      this.#server.offload ? h("span", { class: "by" }, `by ${byWhom(answer.by)}`) : "",
    );
    if (shown) {
      const best = shown[0]?.picture.title;
      const asked = "text" in answer.query ? answer.query.text : `like ${answer.query.like.title}`;
      this.#announce(`${found} for ${asked}${best ? `. Best: ${best}` : ""}`);
    }
  }

  /** Says something in place of the status line, aloud too. */
  #say(text: string): void {
    this.#status.textContent = text;
    this.#announce(text);
  }

  #announce(text: string): void {
    byId("announce", HTMLElement).textContent = text;
  }

  #credits(): void {
    const credits = byId("credits", HTMLElement);
    if (this.#current.plan.name === "emoji") {
      credits.replaceChildren(
        "All emojis designed by ",
        link("https://openmoji.org", "OpenMoji"),
        ", the open-source emoji and icon project. License: ",
        link("https://creativecommons.org/licenses/by-sa/4.0/", "CC BY-SA 4.0"),
        ". Model: emoji-clip, MIT.",
      );
      return;
    }
    credits.replaceChildren(
      this.#current.plan.name === "photos"
        ? "Each photograph names its maker and licence: open it to see them. "
        : "",
      "Model: photo-search (EfficientNet-Lite0 and all-MiniLM-L6-v2, Apache-2.0).",
    );
  }
}

const plurals = (noun: string): string => (noun === "emoji" ? "emoji" : `${noun}s`);

const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);
