import { button, byId, count, h } from "./dom.js";
import { type DroppedFile, fromPicker } from "./files.js";
import type { Gallery } from "./gallery.js";

/** The panel of the visitor's own gallery: an invitation while it is empty, a line of facts afterwards. */
export class YoursPanel {
  readonly #panel = byId("yours", HTMLElement);
  readonly #take: (files: DroppedFile[]) => void;
  readonly #clear: () => void;
  readonly #promise: () => string;

  constructor(take: (files: DroppedFile[]) => void, clear: () => void, promise: () => string) {
    this.#take = take;
    this.#clear = clear;
    this.#promise = promise;
  }

  /** Shows what fits the gallery's content; nothing for the bundled galleries. */
  render(gallery: Gallery): void {
    this.#panel.hidden = gallery.plan.name !== "yours";
    if (this.#panel.hidden) {
      return;
    }
    const empty = gallery.pictures.size === 0;
    this.#panel.classList.toggle("empty", empty);
    const choose = button("Choose pictures", () => this.#pick(false), { class: "primary" });
    const folder = button("Choose a folder", () => this.#pick(true));
    const promise = h("p", { class: "promise" }, this.#promise());
    if (empty) {
      this.#panel.replaceChildren(
        h("h2", {}, "Search your own pictures"),
        h("p", {}, "Drop pictures or whole folders anywhere on this page."),
        h("div", { class: "actions" }, choose, folder),
        promise,
        this.#skipped(gallery),
      );
      return;
    }
    this.#panel.replaceChildren(
      promise,
      h(
        "div",
        { class: "actions" },
        choose,
        folder,
        button("Forget all", this.#clear, { class: "quiet" }),
      ),
      this.#skipped(gallery),
    );
  }

  #skipped({ skipped }: Gallery): Node {
    if (skipped.length === 0) {
      return document.createDocumentFragment();
    }
    return h(
      "details",
      { class: "skipped" },
      h("summary", {}, `${count(skipped.length, "file")} could not be read`),
      h("ul", {}, ...skipped.map(({ path, error }) => h("li", {}, `${path}: ${error.message}`))),
    );
  }

  #pick(folder: boolean): void {
    const input = h("input", {
      type: "file",
      multiple: true,
      accept: "image/*",
      webkitdirectory: folder,
    });
    input.addEventListener("change", () => this.#take(fromPicker(input.files ?? [])));
    input.click();
  }
}
