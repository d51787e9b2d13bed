/**
 * The server as one more place where a model runs: who answers a call, and what becomes of it where that fails.
 */

import { LoadError, RunError } from "../errors.js";
import type { Meter } from "./meter.js";
import {
  type Answered,
  type LocalState,
  type Parts,
  Policy,
  type Privacy,
  type Quality,
  type Reason,
} from "./policy.js";
import { type Fetch, type ServedModel, Server } from "./server.js";
import { needsPause, ServerError, type ServerTrouble } from "./server-error.js";
import type { ModelTimes, WorkMs } from "./times.js";

/** Options of {@link Offload}. */
export interface OffloadOptions {
  /** The server's address, or those of several that have the same models: where one fails the next is asked. */
  url: string | URL | readonly (string | URL)[];
  /** Sent as `Authorization: Bearer`. A page's visitors can read it: give each of them a key of their own. */
  apiKey?: string;
  /** `"local-only"` (default) sends nothing, not even a question whether the server is there. `"allow"` may. */
  privacy?: Privacy;
  /** `"auto"` (default) takes whoever is expected to be faster; `"full"` the server, as long as it answers. */
  quality?: Quality;
  /** The model to ask the server for, if it goes by another name there. */
  model?: string;
  /** How long to wait for an answer, and for each piece of one, in milliseconds (10,000). */
  timeoutMs?: number;
  /** What work is believed to take on this device, in milliseconds; the first run here replaces it. */
  localMs?: WorkMs;
}

/** What tests stand in for. */
export interface OffloadSurroundings {
  fetch: Fetch;
  now(): number;
}

/** What a decision is about. */
export interface Asked {
  /** The model's name here. */
  model: string;
  parts: Parts;
  bytes: number;
  local: LocalState;
  /** Why what the server has will not do; nothing if it will. */
  misfit?: (served: ServedModel) => Reason | undefined;
}

/** A call that either side can answer. */
export interface Job<T> extends Asked {
  here: () => Promise<T>;
  there: (server: Server, model: string) => Promise<T>;
}

/** Where a call goes. */
export interface Place extends Answered {
  /** The server and what it has; absent where the local model answers. */
  remote?: { server: Server; served: ServedModel; model: string };
}

/** Servers that have been tried for one call, and what was wrong with them. */
export type Tried = Map<Server, Reason>;

const TIMEOUT_MS = 10_000;

const BROWSER: OffloadSurroundings = {
  fetch: (url, init) => fetch(url, init),
  now: () => performance.now(),
};

/**
 * A server that may answer in place of the local models. Several models of a page can share one: what it learns of the
 * way to the server, and of times when the server is to be left alone, then serves all of them.
 */
export class Offload {
  /** @internal */
  readonly policy: Policy;
  readonly #servers: readonly Server[];
  readonly #model: string | undefined;
  readonly #now: () => number;

  constructor(options: OffloadOptions, around: OffloadSurroundings = BROWSER) {
    const { url, privacy = "local-only", quality = "auto", timeoutMs = TIMEOUT_MS } = options;
    this.policy = new Policy(privacy, quality, around.now);
    this.policy.tellLocal(options.localMs ?? {});
    this.#model = options.model;
    this.#now = around.now;
    const urls = Array.isArray(url) ? (url as readonly (string | URL)[]) : [url as string | URL];
    this.#servers = urls.map(
      (one) =>
        new Server(absolute(one), {
          policy: this.policy,
          apiKey: options.apiKey,
          timeoutMs,
          fetch: around.fetch,
          now: around.now,
        }),
    );
  }

  /** Whether anything may leave this device. */
  get privacy(): Privacy {
    return this.policy.privacy;
  }

  /** Takes effect at once: what is under way to a server is broken off, and goes on here. */
  set privacy(privacy: Privacy) {
    this.policy.privacy = privacy;
    if (privacy !== "allow") {
      for (const server of this.#servers) {
        server.breakOff();
      }
    }
  }

  get quality(): Quality {
    return this.policy.quality;
  }

  set quality(quality: Quality) {
    this.policy.quality = quality;
  }

  /**
   * Tells what work is going to take on this device, in milliseconds, whatever was measured so far: an app may know that
   * the device is hot, or has to save its battery. The next run here replaces it.
   */
  expectLocal(ms: WorkMs): void {
    this.policy.tellLocal(ms);
  }

  /** @internal What a model's work takes. */
  times(model: string): ModelTimes {
    return this.policy.times(this.#model ?? model);
  }

  /** @internal Where a call goes that `tried` servers could not answer. */
  async place(asked: Asked, tried: Tried = new Map()): Promise<Place> {
    const { parts, bytes, local } = asked;
    const model = this.#model ?? asked.model;
    if (this.privacy !== "allow") {
      return this.policy.decide({ model, parts, bytes, local, server: "local_only" });
    }
    const found = await this.#find(asked, tried, this.#patience(asked));
    if (found === "late") {
      return { answeredBy: "local", reason: "faster" };
    }
    const server = typeof found === "string" ? found : "ready";
    const decided = this.policy.decide({ model, parts, bytes, local, server });
    return decided.answeredBy === "server" && typeof found !== "string"
      ? { ...decided, remote: found }
      : decided;
  }

  /**
   * How long to wait for what a server says of itself: longer than the call takes here makes no sense, where it is time that
   * decides.
   */
  #patience({ model, parts, local }: Asked): number | undefined {
    const decides = local === "ready" && this.quality === "auto";
    return decides ? (this.times(model).localMs(parts) ?? 0) : undefined;
  }

  /** The first server that can answer, or why none can. */
  async #find(
    asked: Asked,
    tried: Tried,
    patienceMs: number | undefined,
  ): Promise<NonNullable<Place["remote"]> | Reason | "late"> {
    const model = this.#model ?? asked.model;
    let reason: Reason = "no_server";
    for (const server of this.#servers) {
      const known = tried.get(server) ?? server.backOff.reason(this.#now());
      if (known !== undefined) {
        reason = known;
        continue;
      }
      if (globalThis.navigator?.onLine === false) {
        return "offline";
      }
      try {
        const served = await within(patienceMs, server.describe(model));
        if (served === undefined) {
          // Then it is known by the next call.
          server.describe(model).catch((error: unknown) => this.failed(server, error));
          return "late";
        }
        const misfit = asked.misfit?.(served);
        if (misfit === undefined) {
          return { server, served, model };
        }
        reason = misfit;
      } catch (error) {
        reason = this.failed(server, error);
      }
    }
    return reason;
  }

  /** @internal Notes what went wrong with a server. Anything else is thrown on. */
  failed(server: Server, error: unknown): Reason {
    if (!(error instanceof ServerError)) {
      throw error;
    }
    if (needsPause(error)) {
      server.backOff.failed(error.kind, this.#now(), error.retryAfterMs);
    }
    return error.kind;
  }

  /** @internal Runs a call where it goes, and elsewhere where that fails. */
  async run<T>(job: Job<T>, meter: Meter): Promise<[T, Answered]> {
    const tried: Tried = new Map();
    let asked: Asked = job;
    let broken: unknown;
    for (;;) {
      const { remote, ...answered } = await this.place(asked, tried);
      if (!remote) {
        if (asked.local !== "ready") {
          throw broken ?? nobody(answered.reason);
        }
        try {
          return [await meter.run(job.parts, job.here), answered];
        } catch (error) {
          if (!isBroken(error) || this.privacy !== "allow") {
            throw error;
          }
          // The model does not run here any more. If the server cannot help, this error is the answer.
          broken = error;
          asked = { ...asked, local: "local_failed" };
        }
        continue;
      }
      try {
        const value = await job.there(remote.server, remote.model);
        remote.server.backOff.succeeded();
        return [value, answered];
      } catch (error) {
        tried.set(remote.server, this.failed(remote.server, error));
        if (asked.local !== "ready" && tried.size === this.#servers.length) {
          throw broken ?? error;
        }
      }
    }
  }
}

/** What is there in so many milliseconds. */
async function within<T>(ms: number | undefined, what: Promise<T>): Promise<T | undefined> {
  if (ms === undefined) {
    return what;
  }
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.min(ms, LONGEST_MS));
  });
  try {
    return await Promise.race([what, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Timers take no more. */
const LONGEST_MS = 2 ** 31 - 1;

/** A model that failed for reasons of its own, not of its input. */
function isBroken(error: unknown): boolean {
  return (
    error instanceof RunError && ["device_lost", "device", "trap", "worker"].includes(error.kind)
  );
}

/** @internal The error where neither side can answer. */
export function nobody(reason: Reason): ServerError {
  const what =
    reason === "local_only"
      ? "the model is not on this device, and nothing may leave it: privacy is local-only"
      : `the model is not on this device, and the server cannot be asked (${reason})`;
  const kind = reason.startsWith("server_") || reason === "offline" || reason === "other_model";
  return new ServerError(
    kind || reason === "local_only" ? (reason as ServerTrouble) : "server_rejected",
    what,
  );
}

/** @internal The one that was given, or one of its own. */
export function offloadOf(given: Offload | OffloadOptions | undefined): Offload | undefined {
  return given === undefined || given instanceof Offload ? given : new Offload(given);
}

function absolute(url: string | URL): string {
  try {
    const whole = new URL(url, globalThis.document?.baseURI);
    if (whole.protocol === "http:" || whole.protocol === "https:") {
      return whole.href;
    }
  } catch {
    // Told below.
  }
  throw new LoadError("bad_server_url", `"${url}" is no address of a server`);
}
