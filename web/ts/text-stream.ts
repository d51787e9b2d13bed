/**
 * A text while it is written.
 */

import type { WorkerClient } from "./client.js";
import { abortError, throwIfAborted } from "./errors.js";
import type { WritingStep, WritingWishes } from "./wasm.js";

/** How to write, and until when. What is left out, the model's folder says. */
export interface WritingOptions extends WritingWishes {
  /** Cancels between two tokens. */
  signal?: AbortSignal;
}

/** Tokens of a text. */
export interface Usage {
  promptTokens: number;
  completionTokens: number;
}

/** A text with what it took. */
export interface Written {
  text: string;
  usage: Usage;
  /** `"stop"` if the text ended by itself or at a stop string, `"length"` if there was no room for more. */
  finishReason: "stop" | "length";
}

/** A stream that its worker has begun. */
export type Begin = (signal: AbortSignal | undefined) => Promise<{ stream: number }>;

/**
 * The pieces of a text, as they are written: `for await (const piece of stream)`. Nothing is written before the
 * first piece is asked for. Leaving the loop, or aborting, stops the model and frees what the text holds.
 */
export class TextStream implements AsyncIterableIterator<string> {
  readonly #client: WorkerClient;
  readonly #begin: Begin;
  readonly #signal: AbortSignal | undefined;
  #stream: Promise<{ stream: number }> | undefined;
  #last: WritingStep | undefined;
  #ended = false;
  #turn: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(client: WorkerClient, begin: Begin, signal: AbortSignal | undefined) {
    this.#client = client;
    this.#begin = begin;
    this.#signal = signal;
  }

  /** Tokens so far. */
  get usage(): Usage {
    const { promptTokens = 0, completionTokens = 0 } = this.#last ?? {};
    return { promptTokens, completionTokens };
  }

  /** Why the text ended; nothing while it goes on, and if it was cancelled. */
  get finishReason(): "stop" | "length" | undefined {
    return this.#last?.finish ?? undefined;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next piece. Calls that come early wait for their turn. */
  next(): Promise<IteratorResult<string, undefined>> {
    const turn = this.#turn.then(() => this.#next());
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** Stops the text. */
  async return(): Promise<IteratorResult<string, undefined>> {
    await this.#end();
    return { done: true, value: undefined };
  }

  async #next(): Promise<IteratorResult<string, undefined>> {
    if (this.#ended) {
      return { done: true, value: undefined };
    }
    const signal = this.#signal;
    try {
      throwIfAborted(signal);
      this.#stream ??= this.#begin(signal);
      const { stream } = await this.#stream;
      const step = await this.#client.call("nextPiece", { stream }, { signal });
      this.#last = step;
      if (step.piece !== null) {
        return { done: false, value: step.piece };
      }
      this.#ended = true;
      return { done: true, value: undefined };
    } catch (error) {
      // The worker may be in the middle of a step; who cancels need not wait for it.
      void this.#end();
      throw error;
    }
  }

  async #end(): Promise<void> {
    if (this.#ended) {
      return;
    }
    this.#ended = true;
    try {
      const begun = await this.#stream;
      if (begun) {
        await this.#client.call("endStream", begun);
      }
    } catch {
      // A text that could not begin, or whose worker is gone, holds nothing.
    }
  }
}

/** Reads a stream to its end. */
export async function readAll(stream: TextStream): Promise<Written> {
  let text = "";
  for await (const piece of stream) {
    text += piece;
  }
  const { finishReason } = stream;
  if (finishReason === undefined) {
    throw abortError(); // Somebody ended it meanwhile.
  }
  return { text, usage: stream.usage, finishReason };
}

/** What of the options goes to the worker. */
export function wishesOf({ signal: _, ...wishes }: WritingOptions): WritingWishes {
  return wishes;
}
