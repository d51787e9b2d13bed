import { type Answered, Offload, type Reason } from "lenslet";
import { byId } from "./dom.js";

/** What the visitor lets the page do. */
const MODES = ["local", "auto", "server"] as const;
type Mode = (typeof MODES)[number];

/** Why the other side did not answer, where that is worth a word. */
const WORDS: Partial<Record<Reason, string>> = {
  memory: "too little memory here",
  local_failed: "the model does not run here",
  offline: "no network",
  other_model: "the server has another model",
  unsupported: "the server cannot do this",
  server_unreachable: "the server cannot be reached",
  server_timeout: "the server is too slow",
  server_overloaded: "the server is busy",
  server_unavailable: "the server is not ready",
  server_refused: "the server wants another key",
  server_no_model: "the server has no such model",
  server_rejected: "the server refused it",
  server_failed: "the server failed",
};

/** Who answered, in words. */
export function byWhom({ answeredBy, reason }: Answered): string {
  const who = answeredBy === "server" ? "the server" : "this device";
  const why = WORDS[reason];
  return why ? `${who} (${why})` : who;
}

/**
 * The server that the page was given with `?server=ADDRESS` (and `#key=KEY`, which no server sees), and the control over
 * what it is asked. Without one there is no control, and with one nothing is sent until the visitor says so.
 */
export class ServerControl {
  /** The server, if the page was given one. */
  readonly offload: Offload | undefined;
  /** Its host, to tell people. */
  readonly host: string;
  readonly #slowMs: number;
  readonly #changed: () => void;

  constructor(address: Location | undefined, changed: () => void) {
    const parameters = new URLSearchParams(address?.search);
    const url = parameters.get("server");
    this.#changed = changed;
    // Stands for a device that is slower than this one, to see what the page does then.
    this.#slowMs = Number(parameters.get("localms")) || 0;
    if (address === undefined || url === null) {
      this.host = "";
      return;
    }
    const apiKey = new URLSearchParams(address.hash.slice(1)).get("key");
    const server = new URL(url, address.href);
    this.host = server.host;
    this.offload = new Offload({ url: server, ...(apiKey !== null && { apiKey }) });
    const control = byId("server", HTMLSelectElement);
    byId("server-control", HTMLElement).hidden = false;
    control.title = `Automatic and Server may send searches and pictures to ${this.host}`;
    control.addEventListener("change", () => {
      this.#become(MODES.find((mode) => mode === control.value) ?? "local");
    });
  }

  /** Whether anything may leave the page. */
  get allows(): boolean {
    return this.offload?.privacy === "allow";
  }

  #become(mode: Mode): void {
    const { offload } = this;
    if (offload) {
      offload.quality = mode === "server" ? "full" : "auto";
      offload.privacy = mode === "local" ? "local-only" : "allow";
      if (this.#slowMs > 0) {
        const ms = this.#slowMs;
        offload.expectLocal({ text: ms, image: ms, prompt: ms, token: ms });
      }
      this.#changed();
    }
  }
}

/** What becomes of the visitor's pictures. */
export function promise(server: ServerControl): string {
  return server.allows
    ? `Your pictures may be sent to ${server.host}, as you chose above.`
    : "Your pictures never leave this page.";
}
