/**
 * The worker's end of models that write: one captioner, answerer or text generator, and the texts that it is writing.
 */

import { RunError, throwIfAborted } from "./errors.js";
import { type Context, ModelSlot, type SlotNeeds } from "./model-slot.js";
import type { Work } from "./offload/policy.js";
import type { Pixels } from "./picture.js";
import type { GeneratorInfo, LoadArgs, SentPrompt, WriterInfo } from "./protocol.js";
import type {
  AnswererHandle,
  CaptionerHandle,
  ModelHandle,
  SentWishes,
  TextGeneratorHandle,
  TextStreamHandle,
  WritingStep,
} from "./wasm.js";

/** Holds the model and its streams. A stream goes by the number of the request that began it. */
export class WriterHost {
  readonly #captioner: ModelSlot<CaptionerHandle>;
  readonly #answerer: ModelSlot<AnswererHandle>;
  readonly #generator: ModelSlot<TextGeneratorHandle>;
  #slot:
    | ModelSlot<CaptionerHandle>
    | ModelSlot<AnswererHandle>
    | ModelSlot<TextGeneratorHandle>
    | undefined;
  readonly #streams = new Map<number, TextStreamHandle>();

  constructor(needs: SlotNeeds) {
    this.#captioner = new ModelSlot(
      {
        kind: "captioner",
        open: ({ CaptionerHandle }, ...which) => CaptionerHandle.load(...which),
      },
      needs,
    );
    this.#answerer = new ModelSlot(
      {
        kind: "answerer",
        open: ({ AnswererHandle }, ...which) => AnswererHandle.load(...which),
      },
      needs,
    );
    this.#generator = new ModelSlot(
      {
        kind: "text-generator",
        open: ({ TextGeneratorHandle }, ...which) => TextGeneratorHandle.load(...which),
      },
      needs,
    );
  }

  /** The model, if there is one that writes. */
  get current(): ModelHandle | undefined {
    return this.#slot?.current;
  }

  async loadCaptioner(args: LoadArgs, context: Context): Promise<WriterInfo> {
    const info = await this.#captioner.load(args, context);
    this.#slot = this.#captioner;
    const probe = (captioner: CaptionerHandle): Promise<TextStreamHandle> =>
      captioner.caption(grey(), PROBE);
    const probed = args.probe ? await timed(this.#captioner, probe, context) : undefined;
    const { tokenizer } = this.#captioner;
    return { ...info, tokenizer, ...(probed && { probed }) };
  }

  async loadAnswerer(args: LoadArgs, context: Context): Promise<WriterInfo> {
    const info = await this.#answerer.load(args, context);
    this.#slot = this.#answerer;
    const probe = (answerer: AnswererHandle): Promise<TextStreamHandle> =>
      answerer.ask(grey(), "a", PROBE);
    const probed = args.probe ? await timed(this.#answerer, probe, context) : undefined;
    this.#answerer.current.forget();
    const { tokenizer } = this.#answerer;
    return { ...info, tokenizer, ...(probed && { probed }) };
  }

  async loadGenerator(args: LoadArgs, context: Context): Promise<GeneratorInfo> {
    const info = await this.#generator.load(args, context);
    this.#slot = this.#generator;
    const probe = (generator: TextGeneratorHandle): Promise<TextStreamHandle> =>
      generator.complete("a b c d e f g h", PROBE);
    const probed = args.probe ? await timed(this.#generator, probe, context) : undefined;
    const { current, tokenizer } = this.#generator;
    return { ...info, tokenizer, canChat: current.canChat(), ...(probed && { probed }) };
  }

  /** Begins a caption. A model whose GPU was lost is built again, and the caption begun there. */
  async caption(pixels: Pixels, wishes: SentWishes, context: Context): Promise<{ stream: number }> {
    const begin = (captioner: CaptionerHandle): Promise<TextStreamHandle> =>
      captioner.caption(pixels, wishes);
    return this.#keep(await this.#captioner.run(begin, { ...context, urgent: false }), context);
  }

  /** Begins the answer to a question about a picture. */
  async ask(
    pixels: Pixels,
    question: string,
    wishes: SentWishes,
    context: Context,
  ): Promise<{ stream: number }> {
    const begin = (answerer: AnswererHandle): Promise<TextStreamHandle> =>
      answerer.ask(pixels, question, wishes);
    return this.#keep(await this.#answerer.run(begin, { ...context, urgent: false }), context);
  }

  /** Frees what is kept of the last picture. */
  async forget(signal: AbortSignal): Promise<undefined> {
    await this.#answerer.step(async () => this.#answerer.current.forget(), signal);
    return undefined;
  }

  /** Begins a text. */
  async write(
    prompt: SentPrompt,
    wishes: SentWishes,
    context: Context,
  ): Promise<{ stream: number }> {
    const begin = (generator: TextGeneratorHandle): Promise<TextStreamHandle> =>
      "text" in prompt
        ? generator.complete(prompt.text, wishes)
        : generator.chat(prompt.messages, wishes);
    return this.#keep(await this.#generator.run(begin, { ...context, urgent: false }), context);
  }

  /** The next piece; the stream is gone after the last one, and after an error. */
  async next(number: number, signal: AbortSignal): Promise<WritingStep> {
    const stream = this.#streams.get(number);
    if (!stream || !this.#slot) {
      throw new RunError("stream_closed", "this text has ended");
    }
    try {
      const step = await this.#slot.step(() => stream.next(), signal);
      if (step.piece === null) {
        await this.end(number);
      }
      return step;
    } catch (error) {
      await this.end(number);
      throw error;
    }
  }

  /** Ends a stream, whether or not it was at its end. */
  async end(number: number): Promise<undefined> {
    const stream = this.#streams.get(number);
    this.#streams.delete(number);
    await stream?.close();
    stream?.free();
    return undefined;
  }

  async dispose(): Promise<void> {
    await Promise.all([...this.#streams.keys()].map((number) => this.end(number)));
    this.#captioner.dispose();
    this.#answerer.dispose();
    this.#generator.dispose();
  }

  /** A stream that was cancelled while it began has nobody who would end it. */
  async #keep(stream: TextStreamHandle, { id, signal }: Context): Promise<{ stream: number }> {
    this.#streams.set(id, stream);
    if (signal.aborted) {
      await this.end(id);
    }
    throwIfAborted(signal);
    return { stream: id };
  }
}

/** Two tokens tell what a prompt takes and what a token does. */
const PROBE: SentWishes = { maxNewTokens: 2 };

/** A picture that shows nothing. */
function grey(): Pixels {
  const side = 32;
  return { width: side, height: side, rgba: new Uint8ClampedArray(side * side * 4).fill(128) };
}

async function timed<Handle extends ModelHandle>(
  slot: ModelSlot<Handle>,
  begin: (handle: Handle) => Promise<TextStreamHandle>,
  { signal }: Context,
): Promise<Partial<Record<Work, number>>> {
  const started = performance.now();
  const stream = await slot.run(begin, { signal, urgent: false });
  try {
    await slot.step(() => stream.next(), signal);
    const first = performance.now();
    await slot.step(() => stream.next(), signal);
    return { prompt: first - started, token: performance.now() - first };
  } finally {
    await stream.close();
    stream.free();
  }
}
