import { type Answered, isAbort, type TextStream } from "lenslet";
import { button, h } from "./dom.js";
import { type Captioners, inWords } from "./models.js";
import type { Picture } from "./pictures.js";
import { byWhom } from "./server.js";

/** The captioner that ships with the page. */
const MODEL = "emoji-captioner";

/** What visitors must know of it, wherever it speaks. */
const CAVEAT =
  "From a small model that has seen pictograms only. It speaks fluently and is often wrong.";

/** Where a description stands, for styles and scripts. */
type State = "idle" | "loading" | "writing" | "done" | "error";

/**
 * A picture's description by the captioner: a button, and what comes of it. Only the finished text is read
 * aloud: a screen reader would stumble over the pieces.
 */
export class Description {
  /** Starts, and stops what it started. */
  readonly button = button("Describe", () => this.#toggle(), { "data-describe": "" });
  /** What the button brings forth. */
  readonly element = h("section", { class: "description", "aria-label": "Description" });

  readonly #captioners: Captioners;
  readonly #picture: Picture;
  readonly #tellsWho: boolean;
  readonly #who = h("p", { class: "by" });
  readonly #text = h("p", { class: "said" });
  readonly #progress = h("progress", { max: "1", "aria-label": "Loading the captioner" });
  readonly #status = h("p", { class: "status" });
  readonly #aloud = h("p", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  #running: AbortController | undefined;

  constructor(captioners: Captioners, picture: Picture, tellsWho: boolean) {
    this.#tellsWho = tellsWho;
    this.#captioners = captioners;
    this.#picture = picture;
    this.element.append(
      this.#text,
      this.#progress,
      this.#status,
      this.#who,
      h("p", { class: "caveat" }, CAVEAT),
      this.#aloud,
    );
    this.#become("idle");
  }

  /** Ends what is under way; the picture is no longer shown. */
  stop(): void {
    this.#running?.abort();
    this.#running = undefined;
  }

  #toggle(): void {
    if (this.#running) {
      this.stop();
      this.#become(this.#text.textContent ? "done" : "idle");
      this.#aloud.textContent = "Stopped";
      return;
    }
    const controller = new AbortController();
    this.#running = controller;
    this.#text.textContent = "";
    this.#sayWho([]);
    this.#become("loading", "Fetching the model");
    this.#aloud.textContent = "Describing the picture";
    this.#describe(controller.signal)
      .catch((error: unknown) => {
        if (!controller.signal.aborted && !isAbort(error)) {
          const message = error instanceof Error ? error.message : String(error);
          this.#become("error", `That did not work: ${message}`);
          this.#aloud.textContent = this.#status.textContent;
        }
      })
      .finally(() => {
        if (this.#running === controller) {
          this.#running = undefined;
          this.#label();
        }
      });
  }

  async #describe(signal: AbortSignal): Promise<void> {
    const captioner = await this.#captioners.get(MODEL, (progress) => {
      if (!signal.aborted) {
        this.#progress.value = progress.value;
        this.#status.textContent = inWords(progress);
      }
    });
    signal.throwIfAborted();
    this.#become("writing", "Looking at the picture");
    const { blob } = this.#picture.item;
    const stream: TextStream = captioner.stream(typeof blob === "function" ? await blob() : blob, {
      signal,
    });
    for await (const piece of stream) {
      this.#status.textContent = "";
      this.#text.append(piece);
      this.#sayWho(stream.answers);
    }
    this.#sayWho(stream.answers);
    const text = this.#text.textContent.trim();
    this.#become("done", text ? "" : "The model had nothing to say.");
    this.#aloud.textContent = `Description: ${text || "none"}. ${CAVEAT}`;
  }

  #sayWho(answers: readonly Answered[]): void {
    this.element.dataset.answeredBy = answers.map(({ answeredBy }) => answeredBy).join();
    this.#who.hidden = !this.#tellsWho || answers.length === 0;
    this.#who.textContent = `Written by ${answers.map(byWhom).join(", then by ")}.`;
  }

  #become(state: State, status = ""): void {
    this.element.dataset.state = state;
    this.element.hidden = state === "idle";
    this.#progress.hidden = state !== "loading";
    this.#status.textContent = status;
    this.#label();
  }

  #label(): void {
    this.button.textContent = this.#running
      ? "Stop"
      : this.element.dataset.state === "error"
        ? "Try again"
        : "Describe";
  }
}
