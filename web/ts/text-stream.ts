/**
 * A text while it is written.
 */

import { abortError, isAbort, throwIfAborted } from "./errors.js";
import type { Answered } from "./offload/policy.js";
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

/** A text with what it took, and who wrote it (its end, where it changed hands: see {@link Written.answers}). */
export interface Written extends Answered {
  text: string;
  /** Everybody who wrote of it, in turn. */
  answers: readonly Answered[];
  usage: Usage;
  /** `"stop"` if the text ended by itself or at a stop string, `"length"` if there was no room for more. */
  finishReason: "stop" | "length";
}

/** What of a text is there already. */
export interface Shown {
  text: string;
  tokens: readonly number[];
  /** Whose tokens they are. */
  tokenizer: string | undefined;
}

/** Whoever writes a text, step by step. */
export interface PieceSource extends Answered {
  /** SHA-256 of its `tokenizer.json`, if it is known. */
  readonly tokenizer: string | undefined;
  next(signal: AbortSignal | undefined): Promise<WritingStep>;
  /** Stops it and frees what it holds. */
  end(): Promise<void>;
  /** Whether another may go on where this one failed with `error`. */
  mayGoOn(error: unknown): boolean;
}

/** Finds who writes a text, or goes on with what is `shown`. */
export type Begin = (
  shown: Shown | undefined,
  signal: AbortSignal | undefined,
) => Promise<PieceSource>;

/** So often a text changes hands without getting on; then its last error is told. */
const MOST_VAIN_CHANGES = 4;

/**
 * The pieces of a text, as they are written: `for await (const piece of stream)`. Nothing is written before the
 * first piece is asked for. Leaving the loop, or aborting, stops the model and frees what the text holds.
 *
 * Where whoever writes fails in the middle, another goes on behind what was given out already.
 */
export class TextStream implements AsyncIterableIterator<string> {
  readonly #begin: Begin;
  readonly #signal: AbortSignal | undefined;
  readonly #answers: Answered[] = [];
  #source: Promise<PieceSource> | undefined;
  #last: WritingStep | undefined;
  #text = "";
  #tokens: number[] = [];
  #tokenizer: string | undefined;
  #vain = 0;
  #ended = false;
  #turn: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(begin: Begin, signal: AbortSignal | undefined) {
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

  /** Who writes, and who wrote before: more than one where a text changed hands. Empty until the first piece. */
  get answers(): readonly Answered[] {
    return this.#answers;
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
    try {
      while (!this.#ended) {
        throwIfAborted(this.#signal);
        const piece = await this.#step();
        if (piece) {
          return { done: false, value: piece };
        }
      }
      return { done: true, value: undefined };
    } catch (error) {
      // The worker may be in the middle of a step; who cancels need not wait for it.
      void this.#end();
      throw error;
    }
  }

  /** One step: a piece, or nothing where it had none or was the last. */
  async #step(): Promise<string | undefined> {
    this.#source ??= this.#begin(this.#shown(), this.#signal).then((source) => {
      const { answeredBy, reason } = source;
      this.#answers.push({ answeredBy, reason });
      return source;
    });
    const source = await this.#source;
    let step: WritingStep;
    try {
      step = await source.next(this.#signal);
    } catch (error) {
      if (this.#ended && !this.#signal?.aborted) {
        return undefined; // It was stopped meanwhile.
      }
      this.#vain += 1;
      const over = this.#signal?.aborted || this.#vain > MOST_VAIN_CHANGES;
      if (over || isAbort(error) || !source.mayGoOn(error)) {
        throw error;
      }
      void source.end().catch(() => undefined);
      this.#source = undefined;
      return undefined;
    }
    this.#note(step, source);
    this.#last = step;
    if (step.piece === null) {
      this.#ended = true;
    }
    return step.piece ?? undefined;
  }

  #note({ piece, tokens }: WritingStep, { tokenizer }: PieceSource): void {
    if (tokens.length > 0 || piece) {
      this.#vain = 0;
    }
    // A model that went on behind words has tokens for what came then, not for what was there.
    if (this.#last !== undefined && this.#tokenizer !== tokenizer) {
      this.#tokens = [];
      this.#tokenizer = undefined;
    } else {
      this.#tokens.push(...Array.from(tokens));
      this.#tokenizer = tokenizer;
    }
    this.#text += piece ?? "";
  }

  #shown(): Shown | undefined {
    const [text, tokens, tokenizer] = [this.#text, this.#tokens, this.#tokenizer];
    return text === "" && tokens.length === 0 ? undefined : { text, tokens, tokenizer };
  }

  async #end(): Promise<void> {
    if (this.#ended) {
      return;
    }
    this.#ended = true;
    try {
      await (await this.#source)?.end();
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
  const { finishReason, usage, answers } = stream;
  const last = answers.at(-1);
  if (finishReason === undefined || last === undefined) {
    throw abortError(); // Somebody ended it meanwhile.
  }
  return { text, usage, finishReason, ...last, answers };
}

/** What of the options goes to the worker. */
export function wishesOf({ signal: _, ...wishes }: WritingOptions): WritingWishes {
  return wishes;
}
