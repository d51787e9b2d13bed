/**
 * The worker's end of models that write: one captioner or text generator, and the texts that it is writing.
 */

import { RunError, throwIfAborted } from "./errors.js";
import { type Context, ModelSlot, type SlotNeeds } from "./model-slot.js";
import type { Pixels } from "./picture.js";
import type { GeneratorInfo, LoadArgs, ModelInfo, SentPrompt } from "./protocol.js";
import type {
  CaptionerHandle,
  ModelHandle,
  TextGeneratorHandle,
  TextStreamHandle,
  WritingStep,
  WritingWishes,
} from "./wasm.js";

/** Holds the model and its streams. A stream goes by the number of the request that began it. */
export class WriterHost {
  readonly #captioner: ModelSlot<CaptionerHandle>;
  readonly #generator: ModelSlot<TextGeneratorHandle>;
  #slot: ModelSlot<CaptionerHandle> | ModelSlot<TextGeneratorHandle> | undefined;
  readonly #streams = new Map<number, TextStreamHandle>();

  constructor(needs: SlotNeeds) {
    this.#captioner = new ModelSlot(
      {
        kind: "captioner",
        open: ({ CaptionerHandle }, ...which) => CaptionerHandle.load(...which),
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

  async loadCaptioner(args: LoadArgs, context: Context): Promise<ModelInfo> {
    const info = await this.#captioner.load(args, context);
    this.#slot = this.#captioner;
    return info;
  }

  async loadGenerator(args: LoadArgs, context: Context): Promise<GeneratorInfo> {
    const info = await this.#generator.load(args, context);
    this.#slot = this.#generator;
    return { ...info, canChat: this.#generator.current.canChat() };
  }

  /** Begins a caption. A model whose GPU was lost is built again, and the caption begun there. */
  async caption(
    pixels: Pixels,
    wishes: WritingWishes,
    context: Context,
  ): Promise<{ stream: number }> {
    const begin = (captioner: CaptionerHandle): Promise<TextStreamHandle> =>
      captioner.caption(pixels, wishes);
    return this.#keep(await this.#captioner.run(begin, { ...context, urgent: false }), context);
  }

  /** Begins a text. */
  async write(
    prompt: SentPrompt,
    wishes: WritingWishes,
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
