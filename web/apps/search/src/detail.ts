import { Description } from "./description.js";
import { button, byId, h, link } from "./dom.js";
import type { Captioners } from "./models.js";
import type { Credit, Picture } from "./pictures.js";

const LICENSES: Record<string, string> = {
  "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
  "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
  "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
  "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
  "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
  "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
};

/** What the dialog asks of the page. */
export interface DetailActions {
  /** The picture `step` places further in the order that is shown. */
  neighbour(path: string, step: 1 | -1): string | undefined;
  lookUp(path: string): { picture: Picture; score?: number | undefined } | undefined;
  findSimilar(picture: Picture): void;
  closed(path: string): void;
  /** The models that describe pictures. */
  captioners: Captioners;
  /** Whether to say who wrote a description: there is a server besides this device. */
  tellsWho: boolean;
}

/** A picture by itself, with its names, its maker, its licence and what a model says of it. */
export class Detail {
  readonly #dialog = byId("detail", HTMLDialogElement);
  readonly #actions: DetailActions;
  #path = "";
  #description: Description | undefined;

  constructor(actions: DetailActions) {
    this.#actions = actions;
    this.#dialog.addEventListener("close", () => {
      this.#description?.stop();
      actions.closed(this.#path);
    });
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) {
        this.#dialog.close();
      }
    });
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        event.preventDefault();
        this.#step(event.key === "ArrowRight" ? 1 : -1);
      }
    });
  }

  /** Opens on a picture. */
  show(path: string): void {
    const found = this.#actions.lookUp(path);
    if (!found) {
      return;
    }
    this.#path = path;
    const { picture, score } = found;
    this.#description?.stop();
    const description = new Description(this.#actions.captioners, picture, this.#actions.tellsWho);
    this.#description = description;
    const facts = h(
      "dl",
      {},
      ...(picture.names ?? []).flatMap(nameRow),
      ...creditRows(picture.credit),
    );
    if (score !== undefined) {
      facts.append(h("dt", {}, "Similarity"), h("dd", { class: "figures" }, score.toFixed(4)));
    }
    const frame = h("div", { class: "plate" }, h("img", { src: picture.src, alt: picture.alt }));
    frame.dataset.kind = picture.names ? "emoji" : "photo";
    this.#dialog.replaceChildren(
      h(
        "article",
        {},
        frame,
        h(
          "div",
          { class: "words" },
          h("h2", { id: "detail-title", tabindex: "-1" }, picture.title),
          picture.alt !== picture.title && !picture.names && h("p", { class: "alt" }, picture.alt),
          facts,
          description.element,
          h(
            "div",
            { class: "actions" },
            button(
              "More like this",
              () => {
                this.#dialog.close();
                this.#actions.findSimilar(picture);
              },
              { class: "primary" },
            ),
            description.button,
            button("←", () => this.#step(-1), { class: "step", "aria-label": "Previous picture" }),
            button("→", () => this.#step(1), { class: "step", "aria-label": "Next picture" }),
          ),
        ),
        button("×", () => this.#dialog.close(), { class: "close", "aria-label": "Close" }),
      ),
    );
    if (!this.#dialog.open) {
      this.#dialog.showModal();
    }
    byId("detail-title", HTMLHeadingElement).focus();
  }

  #step(step: 1 | -1): void {
    const next = this.#actions.neighbour(this.#path, step);
    if (next !== undefined) {
      this.show(next);
    }
  }
}

function nameRow({
  language,
  code,
  name,
}: {
  language: string;
  code: string;
  name: string;
}): Node[] {
  return [h("dt", {}, language), h("dd", { lang: code }, name)];
}

function creditRows(credit: Credit | undefined): Node[] {
  if (!credit) {
    return [];
  }
  const { author, license, source, origin } = credit;
  const rows: Node[] = [];
  if (author) {
    rows.push(h("dt", {}, "By"), h("dd", {}, author));
  }
  if (license) {
    const address = LICENSES[license];
    rows.push(h("dt", {}, "Licence"), h("dd", {}, address ? link(address, license) : license));
  }
  if (origin && /^https?:/.test(origin)) {
    rows.push(h("dt", {}, "Origin"), h("dd", {}, link(origin, new URL(origin).host)));
  }
  if (source) {
    rows.push(h("dt", {}, "Taken from"), h("dd", {}, source));
  }
  return rows;
}
