/**
 * A model that continues texts and answers in chats.
 */

import { type LoadedModel, type LoadOptions, loadModel, Model } from "./loading.js";
import type { GeneratorInfo, SentPrompt } from "./protocol.js";
import { readAll, TextStream, type WritingOptions, type Written, wishesOf } from "./text-stream.js";
import type { ChatMessage } from "./wasm.js";

/** A text to continue as it stands, or a conversation to answer in. */
export type Prompt = string | readonly ChatMessage[];

/**
 * Loads a language model. `model` is a name (looked up under `baseUrl`) or the address of a model's folder.
 * Everything heavy happens in a Web Worker of its own.
 */
export async function loadTextGenerator(
  model: string | URL,
  options: LoadOptions = {},
): Promise<TextGenerator> {
  return new TextGenerator(await loadModel("loadGenerator", model, options));
}

/** A loaded language model. Make one with {@link loadTextGenerator}; free it with {@link TextGenerator.dispose}. */
export class TextGenerator extends Model {
  /** Whether the model takes conversations: its folder has a chat template. */
  readonly canChat: boolean;

  /** @internal */
  constructor(loaded: LoadedModel<GeneratorInfo>) {
    super(loaded);
    this.canChat = loaded.info.canChat;
  }

  /** What the model writes. */
  generate(prompt: Prompt, options: WritingOptions = {}): Promise<Written> {
    return readAll(this.stream(prompt, options));
  }

  /** What the model writes, piece by piece. */
  stream(prompt: Prompt, options: WritingOptions = {}): TextStream {
    const wishes = wishesOf(options);
    const sent: SentPrompt =
      typeof prompt === "string"
        ? { text: prompt }
        : { messages: prompt.map(({ role, content }) => ({ role, content })) };
    return new TextStream(
      this.client,
      (signal) => this.client.call("write", { prompt: sent, wishes }, { signal }),
      options.signal,
    );
  }
}
