/**
 * Calls to one server. Every byte that leaves for it goes through {@link Server.send}, which asks first whether any may.
 */

import { abortError, isAbort } from "../errors.js";
import { sha256 } from "../sha256.js";
import type { ChatMessage, WritingWishes } from "../wasm.js";
import { readEvents } from "./events.js";
import { BackOff, type Policy } from "./policy.js";
import { retryAfter, ServerError, troubleOf } from "./server-error.js";

/** What a server says of a model. */
export interface ServedModel {
  /** Identifies the vectors; absent if it gives none. */
  fingerprint?: string;
  dimensions?: number;
  /** SHA-256 of its `tokenizer.json`, if it writes. */
  tokenizer?: string;
}

/** Vectors, end to end. */
export interface ServedVectors {
  values: Float32Array;
  fingerprint: string;
}

/** One step of a text. */
export interface ServedStep {
  /** New text; may be empty. `null` behind the last. */
  piece: string | null;
  tokens: number[];
  promptTokens: number;
  completionTokens: number;
  finish: "stop" | "length" | null;
}

/** What a text goes on behind: tokens where both models have one tokenizer, else words. */
export type ResumeAt = { resume_tokens: number[] } | { resume_text: string };

/** What is to be written. */
export interface ChatRequest {
  model: string;
  messages: readonly ChatMessage[];
  /** A picture's file, for models that look at one. */
  picture?: Blob;
  wishes: WritingWishes;
  resume?: ResumeAt | undefined;
}

/** What tests stand in for. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** Inputs of one embeddings request at most. */
const MOST_INPUTS = 64;

/** A picture larger than this is asked for by its hash first: the server may know it. */
const HASH_FIRST_BYTES = 16_384;

/** Descriptions are short; whoever waits longer for one has no server. */
const DESCRIBE_MS = 3_000;

/** A model that a server does not have is not asked for again in this time. */
const ABSENT_MS = 60_000;

/** One server. */
export class Server {
  readonly url: string;
  readonly backOff = new BackOff();
  readonly #policy: Policy;
  readonly #key: string | undefined;
  readonly #timeoutMs: number;
  readonly #fetch: Fetch;
  readonly #now: () => number;
  readonly #known = new Map<string, { asked: Promise<ServedModel>; until: number }>();
  readonly #underWay = new Set<AbortController>();

  constructor(
    url: string,
    options: {
      policy: Policy;
      apiKey: string | undefined;
      timeoutMs: number;
      fetch: Fetch;
      now: () => number;
    },
  ) {
    this.url = url.replace(/\/+$/, "");
    this.#policy = options.policy;
    this.#key = options.apiKey;
    this.#timeoutMs = options.timeoutMs;
    this.#fetch = options.fetch;
    this.#now = options.now;
  }

  /** Breaks off everything that is under way. */
  breakOff(): void {
    for (const controller of this.#underWay) {
      controller.abort();
    }
  }

  /** What it says of a model; asked once. */
  describe(model: string): Promise<ServedModel> {
    const known = this.#known.get(model);
    if (known && this.#now() < known.until) {
      return known.asked;
    }
    const asked = this.#describe(model);
    const entry = { asked, until: Number.POSITIVE_INFINITY };
    this.#known.set(model, entry);
    asked.catch((error: unknown) => {
      // A model that is not there may come; one that was not heard of is asked for again at the next call.
      const absent = error instanceof ServerError && error.kind === "server_no_model";
      entry.until = absent ? this.#now() + ABSENT_MS : Number.NEGATIVE_INFINITY;
    });
    return asked;
  }

  /** Asks anew the next time. */
  forget(model: string): void {
    this.#known.delete(model);
  }

  async #describe(model: string): Promise<ServedModel> {
    const started = this.#now();
    const wait = Math.min(this.#timeoutMs, DESCRIBE_MS);
    const path = `/v1/models/${encodeURIComponent(model)}`;
    const body = await this.send(path, undefined, undefined, (response) => response.json(), wait);
    this.#policy.observeRoundTrip(this.#now() - started);
    const own = record(record(body)?.lenslet) ?? {};
    return {
      ...(typeof own.fingerprint === "string" && { fingerprint: own.fingerprint }),
      ...(typeof own.dimensions === "number" && { dimensions: own.dimensions }),
      ...(typeof own.tokenizer === "string" && { tokenizer: own.tokenizer }),
    };
  }

  /** The vectors of texts. */
  async embedTexts(
    model: string,
    texts: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<ServedVectors> {
    const parts: ServedVectors[] = [];
    for (let at = 0; at < texts.length; at += MOST_INPUTS) {
      const part = texts.slice(at, at + MOST_INPUTS);
      parts.push(await this.#embed(model, part, { text: part.length }, signal));
    }
    return joined(parts);
  }

  /** The vector of a picture's file. */
  async embedImage(
    model: string,
    file: Blob,
    signal: AbortSignal | undefined,
  ): Promise<ServedVectors> {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (bytes.length > HASH_FIRST_BYTES) {
      const asked = { type: "image_sha256", sha256: await sha256(bytes) };
      try {
        // Nothing is computed for it, so it says nothing of what a picture takes.
        return await this.#embed(model, [asked], {}, signal);
      } catch (error) {
        if (!(error instanceof ServerError && error.code === "content_not_cached")) {
          throw error;
        }
      }
    }
    const url = dataUrl(bytes, file.type);
    const part = { type: "image_url", image_url: { url } };
    return this.#embed(model, [part], { image: 1 }, signal);
  }

  async #embed(
    model: string,
    input: readonly unknown[],
    parts: { text?: number; image?: number },
    signal: AbortSignal | undefined,
  ): Promise<ServedVectors> {
    const body = JSON.stringify({ model, input, encoding_format: "base64" });
    const started = this.#now();
    const path = "/v1/embeddings";
    const [made, computeMs] = await this.send(path, body, signal, async (response) => [
      vectorsOf(await response.json(), input.length),
      computing(response.headers.get("server-timing")),
    ]);
    const ms = this.#now() - started;
    this.#policy.times(model).observeServer({ parts, bytes: body.length, ms, computeMs });
    return joined(made);
  }

  /** Begins a text; its steps, as they come. Leaving the loop ends it there. */
  async *chat(
    { model, messages, picture, wishes, resume }: ChatRequest,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<ServedStep, void, undefined> {
    let said: readonly unknown[] = messages;
    if (picture) {
      const url = dataUrl(new Uint8Array(await picture.arrayBuffer()), picture.type);
      const words = messages.map(({ content }) => ({ type: "text", text: content }));
      said = [{ role: "user", content: [{ type: "image_url", image_url: { url } }, ...words] }];
    }
    const { maxNewTokens, stop, temperature, topP, seed } = wishes;
    const body = JSON.stringify({
      model,
      stream: true,
      stream_options: { include_usage: true },
      messages: said,
      max_tokens: maxNewTokens,
      stop: stop?.length ? stop : undefined,
      temperature,
      top_p: topP,
      seed,
      lenslet: resume,
    });
    const path = "/v1/chat/completions";
    // The answer's head says that it goes well; from there on its pieces are waited for one by one.
    const open = this.#open(path, body, signal, this.#timeoutMs);
    try {
      const response = await open.response;
      yield* readSteps(readEvents(response, open.wait), this.url);
    } catch (error) {
      throw this.#trouble(error, signal, open);
    } finally {
      open.close();
    }
  }

  /** Sends a request and reads its answer whole. */
  async send<T>(
    path: string,
    body: string | undefined,
    signal: AbortSignal | undefined,
    read: (response: Response) => Promise<T>,
    timeoutMs = this.#timeoutMs,
  ): Promise<T> {
    const open = this.#open(path, body, signal, timeoutMs);
    try {
      return await open.wait((async () => read(await open.response))());
    } catch (error) {
      throw this.#trouble(error, signal, open);
    } finally {
      open.close();
    }
  }

  #open(
    path: string,
    body: string | undefined,
    signal: AbortSignal | undefined,
    timeoutMs: number,
  ): Open {
    if (this.#policy.privacy !== "allow") {
      throw localOnly();
    }
    const controller = new AbortController();
    const open = new Open(controller, signal, timeoutMs, () => this.#underWay.delete(controller));
    this.#underWay.add(controller);
    const headers: Record<string, string> = {};
    if (body !== undefined) {
      headers["content-type"] = "application/json";
    }
    if (this.#key !== undefined) {
      headers.authorization = `Bearer ${this.#key}`;
    }
    open.response = open.wait(this.#request(path, body, headers, controller.signal));
    // Whoever waits for it later gets the error; until then it must not count as unhandled.
    open.response.catch(() => undefined);
    return open;
  }

  async #request(
    path: string,
    body: string | undefined,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Response> {
    const response = await this.#fetch(`${this.url}${path}`, {
      method: body === undefined ? "GET" : "POST",
      headers,
      ...(body !== undefined && { body }),
      signal,
      // A key is all that the server needs to know of its caller.
      credentials: "omit",
      referrerPolicy: "no-referrer",
      cache: "no-store",
      // Who was allowed to have this is the server that was named.
      redirect: "error",
    });
    if (response.ok) {
      return response;
    }
    const error = record(record(await response.json().catch(() => undefined))?.error);
    const what = typeof error?.message === "string" ? error.message : "";
    const wait = retryAfter(response.headers.get("retry-after"), Date.now());
    throw new ServerError(
      error?.code === "content_not_cached" ? "server_rejected" : troubleOf(response.status),
      `${this.url} answers ${response.status}${what && `: ${what}`}`,
      {
        status: response.status,
        ...(wait !== undefined && { retryAfterMs: wait }),
        ...(typeof error?.code === "string" && { code: error.code }),
      },
    );
  }

  /** What went wrong, in one of the words for it. */
  #trouble(error: unknown, signal: AbortSignal | undefined, open: Open): unknown {
    if (signal?.aborted) {
      return abortError();
    }
    if (this.#policy.privacy !== "allow") {
      return localOnly();
    }
    if (open.late) {
      const what = `${this.url} does not answer in time`;
      return new ServerError("server_timeout", what, { cause: error });
    }
    if (error instanceof ServerError) {
      return error;
    }
    if (error instanceof TypeError || isAbort(error)) {
      // What `fetch` throws for a connection that is refused or breaks off, and for an answer that CORS hides.
      const offline = globalThis.navigator?.onLine === false;
      const what = offline ? "this device is offline" : `${this.url} cannot be reached`;
      return new ServerError(offline ? "offline" : "server_unreachable", what, { cause: error });
    }
    return new ServerError("server_failed", `${this.url} gave an answer that cannot be read`, {
      cause: error,
    });
  }
}

/** A request that is under way. */
class Open {
  response!: Promise<Response>;
  /** Whether it took too long. */
  late = false;
  readonly #controller: AbortController;
  readonly #timeoutMs: number;
  readonly #close: () => void;

  constructor(
    controller: AbortController,
    signal: AbortSignal | undefined,
    timeoutMs: number,
    closed: () => void,
  ) {
    this.#controller = controller;
    this.#timeoutMs = timeoutMs;
    const abort = (): void => controller.abort();
    if (signal?.aborted) {
      abort();
    }
    signal?.addEventListener("abort", abort, { once: true });
    this.#close = () => {
      signal?.removeEventListener("abort", abort);
      closed();
      abort(); // An answer that was read to its end does not notice.
    };
  }

  /** Waits for one thing, for so long at most. */
  readonly wait = async <T>(what: Promise<T>): Promise<T> => {
    const timer = setTimeout(() => {
      this.late = true;
      this.#controller.abort();
    }, this.#timeoutMs);
    try {
      return await what;
    } finally {
      clearTimeout(timer);
    }
  };

  close(): void {
    this.#close();
  }
}

const localOnly = (): ServerError =>
  new ServerError("local_only", "nothing may leave this device: privacy is local-only");

/** The steps in the events of a chat. */
async function* readSteps(
  events: AsyncIterable<string>,
  url: string,
): AsyncGenerator<ServedStep, void, undefined> {
  let finish: ServedStep["finish"] = null;
  let promptTokens = 0;
  let completionTokens = 0;
  for await (const data of events) {
    if (data === "[DONE]") {
      yield { piece: null, tokens: [], promptTokens, completionTokens, finish: finish ?? "stop" };
      return;
    }
    const event = record(JSON.parse(data));
    const failed = record(event?.error);
    if (failed) {
      throw new ServerError("server_failed", `${url}: ${String(failed.message)}`);
    }
    const usage = record(event?.usage);
    promptTokens = numberOr(usage?.prompt_tokens, promptTokens);
    completionTokens = numberOr(usage?.completion_tokens, completionTokens);
    const choice = record(Array.isArray(event?.choices) ? event.choices[0] : undefined);
    if (choice?.finish_reason === "length" || choice?.finish_reason === "stop") {
      finish = choice.finish_reason;
    }
    const content = record(choice?.delta)?.content;
    const ids = record(event?.lenslet)?.tokens;
    const tokens = Array.isArray(ids) ? ids.filter((id) => typeof id === "number") : [];
    const piece = typeof content === "string" ? content : "";
    if (piece !== "" || tokens.length > 0) {
      yield { piece, tokens, promptTokens, completionTokens, finish: null };
    }
  }
  // A text that is over says so. This one was cut.
  throw new ServerError("server_unreachable", `${url} ended in the middle of the text`);
}

type Fields = Readonly<Record<string, unknown>>;

function record(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null ? (value as Fields) : undefined;
}

const numberOr = (value: unknown, other: number): number =>
  typeof value === "number" ? value : other;

/** The vectors in an answer. */
function vectorsOf(answer: unknown, count: number): ServedVectors[] {
  const { data, lenslet } = record(answer) ?? {};
  const fingerprint = record(lenslet)?.fingerprint;
  const list: unknown[] = Array.isArray(data) ? data : [];
  if (list.length !== count || typeof fingerprint !== "string") {
    throw new SyntaxError("these are not the vectors that were asked for");
  }
  return list.map((one) => ({ values: floats(record(one)?.embedding), fingerprint }));
}

/** How long the server computed, out of its `Server-Timing`. */
function computing(header: string | null): number | undefined {
  const found = /(?:^|,)\s*compute;dur=(?<ms>[0-9.]+)/.exec(header ?? "")?.groups?.ms;
  return found === undefined ? undefined : Number(found);
}

/** Little-endian floats from base64. */
function floats(text: unknown): Float32Array<ArrayBuffer> {
  const binary = atob(typeof text === "string" ? text : "");
  const bytes = Uint8Array.from(binary, (char) => char.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function dataUrl(bytes: Uint8Array, type: string): string {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return `data:${type || "application/octet-stream"};base64,${btoa(binary)}`;
}

function joined(parts: readonly ServedVectors[]): ServedVectors {
  const [first] = parts;
  if (first === undefined || parts.some(({ fingerprint }) => fingerprint !== first.fingerprint)) {
    throw new ServerError("server_failed", "the server changed its model in the middle of a call");
  }
  const values = new Float32Array(parts.reduce((sum, part) => sum + part.values.length, 0));
  let at = 0;
  for (const part of parts) {
    values.set(part.values, at);
    at += part.values.length;
  }
  return { values, fingerprint: first.fingerprint };
}
