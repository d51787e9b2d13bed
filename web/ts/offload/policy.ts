/**
 * Where a call runs: here, or on the server. Nothing in this file talks to anybody; it is told what was measured and what
 * is at hand, and says what follows.
 */

import { ModelTimes, Way, type WorkMs } from "./times.js";

/** Who gave a result. */
export type AnsweredBy = "local" | "server";

/**
 * Why it was this one. `"faster"` and `"quality_full"` are choices; `"no_server"` and `"local_only"` say that there was none;
 * `"memory"` and `"local_failed"` that the model could not be loaded here; all others what kept the server from answering.
 */
export type Reason =
  | "faster"
  | "quality_full"
  | "no_server"
  | "local_only"
  | "memory"
  | "local_failed"
  | "offline"
  | "other_model"
  | "unsupported"
  | "server_unreachable"
  | "server_timeout"
  | "server_overloaded"
  | "server_unavailable"
  | "server_refused"
  | "server_no_model"
  | "server_rejected"
  | "server_failed";

/** What a result says of its origin. */
export interface Answered {
  answeredBy: AnsweredBy;
  reason: Reason;
}

/** Whether anything may leave this device. */
export type Privacy = "local-only" | "allow";

/** `"full"` prefers the server's model, which may be larger, however fast the local one is. */
export type Quality = "auto" | "full";

/** What takes time: a text or a picture to embed, a prompt to read, a token to write. */
export type Work = "text" | "image" | "prompt" | "token";

/** How much of each a call asks for. */
export type Parts = Readonly<Partial<Record<Work, number>>>;

/** Whether the local model can answer, and if not, why. */
export type LocalState = "ready" | "memory" | "local_failed";

/** What a decision is about. */
export interface Question {
  /** The model, by the server's name. */
  model: string;
  parts: Parts;
  /** What would have to be sent. */
  bytes: number;
  local: LocalState;
  /** Whether the server can answer, and if not, why. */
  server: "ready" | Reason;
}

/** The other side has to be better by so much before work moves there: two that are alike must not flap. */
const MARGIN = 1.25;
const MARGIN_MS = 5;

/** Decides, call by call. */
export class Policy {
  privacy: Privacy;
  quality: Quality;
  readonly #now: () => number;
  readonly #way = new Way();
  readonly #times = new Map<string, ModelTimes>();
  /** Where work of a kind went last. */
  readonly #last = new Map<string, AnsweredBy>();
  #told: WorkMs = {};

  constructor(privacy: Privacy, quality: Quality, now: () => number) {
    this.privacy = privacy;
    this.quality = quality;
    this.#now = now;
  }

  /** What a model's work takes. */
  times(model: string): ModelTimes {
    const known = this.#times.get(model);
    if (known) {
      return known;
    }
    const times = new ModelTimes(this.#way, this.#now);
    times.tellLocal(this.#told);
    this.#times.set(model, times);
    return times;
  }

  /** What runs of all models here are believed to take, until the next is measured. */
  tellLocal(ms: WorkMs): void {
    this.#told = ms;
    for (const times of this.#times.values()) {
      times.tellLocal(ms, true);
    }
  }

  /** An answer without work: how far the server is. */
  observeRoundTrip(ms: number): void {
    this.#way.observe(ms, 0, this.#now());
  }

  /** Who is to answer. If that is the local model although it cannot, nobody may. */
  decide({ model, parts, bytes, local, server }: Question): Answered {
    if (this.privacy !== "allow") {
      return { answeredBy: "local", reason: "local_only" };
    }
    if (server !== "ready") {
      return { answeredBy: "local", reason: server };
    }
    if (local !== "ready") {
      return { answeredBy: "server", reason: local };
    }
    if (this.quality === "full") {
      return { answeredBy: "server", reason: "quality_full" };
    }
    const kind = [model, ...Object.keys(parts).sort()].join();
    const times = this.times(model);
    const answeredBy = faster(times, parts, bytes, this.#last.get(kind) ?? "local");
    this.#last.set(kind, answeredBy);
    return { answeredBy, reason: "faster" };
  }
}

/** Who is expected to be faster, by a margin over who answers `now`. */
function faster(times: ModelTimes, parts: Parts, bytes: number, now: AnsweredBy): AnsweredBy {
  const here = times.localMs(parts);
  if (here === undefined) {
    return "local"; // The first run shows how long it takes, and sends nothing.
  }
  const there = times.serverMs(parts, bytes);
  if (now === "local") {
    return there * MARGIN + MARGIN_MS < here ? "server" : "local";
  }
  return here * MARGIN + MARGIN_MS < there ? "local" : "server";
}

const FIRST_PAUSE_MS = 5_000;
const LONGEST_PAUSE_MS = 300_000;

/** Leaves a server alone for a while after it failed, longer each time. */
export class BackOff {
  #until = 0;
  #failures = 0;
  #reason: Reason = "server_failed";

  /** Why the server is not asked now, if it is not. */
  reason(now: number): Reason | undefined {
    return now < this.#until ? this.#reason : undefined;
  }

  /** It failed. `retryAfterMs` is what it said itself; it is kept to, and never shortened. */
  failed(reason: Reason, now: number, retryAfterMs = 0): void {
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LONGEST_PAUSE_MS);
    this.#failures += 1;
    this.#reason = reason;
    this.#until = now + Math.max(pause, retryAfterMs);
  }

  /** It answered. */
  succeeded(): void {
    this.#failures = 0;
    this.#until = 0;
  }
}

/** A page should leave most of a device's memory to others. */
const SHARE_OF_MEMORY = 1 / 8;

/**
 * The largest model, in bytes of its files, that is loaded on a device with so many GiB of memory; none where the browser
 * does not say. A model needs about twice its files while it is loaded.
 */
export function largestModel(deviceMemoryGiB: number | undefined): number | undefined {
  return deviceMemoryGiB === undefined
    ? undefined
    : Math.round(deviceMemoryGiB * 2 ** 30 * SHARE_OF_MEMORY);
}
