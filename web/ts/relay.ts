/**
 * Who writes a text: the local model or a server, and the other where that one fails.
 */

import { LensletError } from "./errors.js";
import type { Model } from "./loading.js";
import { nobody, type Offload, type Tried } from "./offload/offload.js";
import type { Answered, LocalState, Reason } from "./offload/policy.js";
import type { ResumeAt, ServedModel, ServedStep, Server } from "./offload/server.js";
import { ServerError } from "./offload/server-error.js";
import type { ModelTimes } from "./offload/times.js";
import type { Begin, PieceSource, Shown } from "./text-stream.js";
import type { ChatMessage, SentWishes, WritingStep, WritingWishes } from "./wasm.js";

/** What a server is to write about. */
export interface Remote {
  messages: readonly ChatMessage[];
  picture?: () => Promise<Blob>;
  /** About how much has to be sent. */
  bytes: number;
}

/** A text to be written by whoever is to. */
export interface Script {
  model: Model;
  /** SHA-256 of the local model's tokenizer. */
  tokenizer: string | undefined;
  wishes: WritingWishes;
  /** Begins it on the local model. */
  here: (wishes: SentWishes, signal: AbortSignal | undefined) => Promise<{ stream: number }>;
  /** The same for a server; nothing if a server cannot be asked this. */
  remote: Remote | undefined;
}

/** How a text of that script begins, and goes on. */
export function relay(script: Script): Begin {
  const { model, wishes } = script;
  const tried: Tried = new Map();
  let local: LocalState = model.local;
  let broken: unknown;
  return async (shown, signal) => {
    const { offload } = model;
    if (!offload) {
      return new LocalSource(script, shown, signal, { answeredBy: "local", reason: "no_server" });
    }
    const place = await offload.place(
      {
        model: model.model,
        parts: offload.times(model.model).textOf(wishes.maxNewTokens),
        bytes: script.remote?.bytes ?? 0,
        local,
        misfit: () => (script.remote && speaksOpenAi(wishes) ? undefined : "unsupported"),
      },
      tried,
    );
    const { remote, answeredBy, reason } = place;
    if (remote && script.remote) {
      const { server, served } = remote;
      const times = offload.times(model.model);
      const source = new ServerSource(
        offload,
        times,
        server,
        served,
        { answeredBy, reason },
        tried,
      );
      await source.begin(script.remote, remote.model, wishes, shown, signal);
      return source;
    }
    if (local !== "ready") {
      throw broken ?? nobody(reason);
    }
    return new LocalSource(script, shown, signal, { answeredBy, reason }, (error) => {
      // It is built again once; after that it is the server's turn, if there is one.
      local = broken === undefined ? local : "local_failed";
      broken = error;
    });
  };
}

/** What a caller may wish that the server's interface has no word for. */
function speaksOpenAi({ topK, repetitionPenalty }: WritingWishes): boolean {
  return topK === undefined && repetitionPenalty === undefined;
}

/** The local model. */
class LocalSource implements PieceSource {
  readonly answeredBy: Answered["answeredBy"];
  readonly reason: Reason;
  readonly tokenizer: string | undefined;
  readonly #script: Script;
  readonly #failed: (error: unknown) => void;
  #begun: Promise<{ stream: number }>;
  #first = true;

  constructor(
    script: Script,
    shown: Shown | undefined,
    signal: AbortSignal | undefined,
    { answeredBy, reason }: Answered,
    failed: (error: unknown) => void = () => undefined,
  ) {
    this.answeredBy = answeredBy;
    this.reason = reason;
    this.tokenizer = script.tokenizer;
    this.#script = script;
    this.#failed = failed;
    this.#begun = script.here({ ...script.wishes, ...this.#behind(shown) }, signal);
    // Told when the first piece is asked for.
    this.#begun.catch(() => undefined);
  }

  #behind(shown: Shown | undefined): SentWishes {
    if (!shown) {
      return {};
    }
    return sameTokens(shown, this.tokenizer)
      ? { resumeTokens: [...shown.tokens] }
      : { resumeText: shown.text };
  }

  async next(signal: AbortSignal | undefined): Promise<WritingStep> {
    const { client, meter, model, offload } = this.#script.model;
    const times = offload?.times(model);
    const [step, ms] = await meter.time(async () => {
      const { stream } = await this.#begun;
      return client.call("nextPiece", { stream }, { signal });
    });
    if (this.#first) {
      times?.observeLocal("prompt", ms);
      this.#first = false;
    } else if (step.tokens.length > 0) {
      times?.observeLocal("token", ms, step.tokens.length);
    }
    if (step.piece === null) {
      times?.observeLength(step.completionTokens);
    }
    return step;
  }

  async end(): Promise<void> {
    await this.#script.model.client.call("endStream", await this.#begun);
  }

  /** A model whose GPU was lost is built again. */
  mayGoOn(error: unknown): boolean {
    const lost = error instanceof LensletError && ["device_lost", "device"].includes(error.kind);
    if (lost) {
      this.#failed(error);
    }
    return lost;
  }
}

/** A server's model. */
class ServerSource implements PieceSource {
  readonly answeredBy: Answered["answeredBy"];
  readonly reason: Reason;
  readonly tokenizer: string | undefined;
  readonly #offload: Offload;
  readonly #times: ModelTimes;
  readonly #server: Server;
  readonly #tried: Tried;
  #steps: AsyncGenerator<ServedStep, void, undefined> | undefined;
  readonly #stop = new AbortController();
  #first = true;

  constructor(
    offload: Offload,
    times: ModelTimes,
    server: Server,
    served: ServedModel,
    { answeredBy, reason }: Answered,
    tried: Tried,
  ) {
    this.answeredBy = answeredBy;
    this.reason = reason;
    this.tokenizer = served.tokenizer;
    this.#offload = offload;
    this.#times = times;
    this.#server = server;
    this.#tried = tried;
  }

  async begin(
    { messages, picture }: Remote,
    model: string,
    wishes: WritingWishes,
    shown: Shown | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const file = await picture?.();
    const resume = this.#behind(shown);
    const request = { model, messages, wishes, resume, ...(file && { picture: file }) };
    const stop = (): void => this.#stop.abort();
    if (signal?.aborted) {
      stop();
    }
    signal?.addEventListener("abort", stop, { signal: this.#stop.signal });
    this.#steps = this.#server.chat(request, this.#stop.signal);
  }

  #behind(shown: Shown | undefined): ResumeAt | undefined {
    if (!shown) {
      return undefined;
    }
    return sameTokens(shown, this.tokenizer)
      ? { resume_tokens: [...shown.tokens] }
      : { resume_text: shown.text };
  }

  async next(): Promise<WritingStep> {
    const times = this.#times;
    const started = times.now();
    const { value: step } = (await this.#steps?.next()) ?? {};
    const ms = times.now() - started;
    if (!step) {
      throw new ServerError("server_failed", `${this.#server.url} ended without a last word`);
    }
    this.#server.backOff.succeeded();
    if (this.#first) {
      times.observeServerWork("prompt", ms);
      this.#first = false;
    } else if (step.tokens.length > 0) {
      times.observeServerWork("token", ms, step.tokens.length);
    }
    if (step.piece === null) {
      times.observeLength(step.completionTokens);
    }
    return step;
  }

  async end(): Promise<void> {
    this.#stop.abort();
    await this.#steps?.return().catch(() => undefined);
  }

  mayGoOn(error: unknown): boolean {
    if (!(error instanceof ServerError)) {
      return false;
    }
    this.#tried.set(this.#server, this.#offload.failed(this.#server, error));
    return true;
  }
}

const sameTokens = (shown: Shown, tokenizer: string | undefined): boolean =>
  shown.tokenizer !== undefined && shown.tokenizer === tokenizer;
