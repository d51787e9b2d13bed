/**
 * A model that continues texts and answers in chats.
 */

import { type LoadedModel, type LoadOptions, loadModel, Model } from "./loading.js";
import type { GeneratorInfo, SentPrompt } from "./protocol.js";
import { type Remote, relay } from "./relay.js";
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
  const loaded = await loadModel("loadGenerator", model, options, ({ tokenizer = "" }, url) => ({
    device: "server",
    adapter: url,
    tokenizer,
    canChat: true,
  }));
  return new TextGenerator(loaded);
}

/** A loaded language model. Make one with {@link loadTextGenerator}; free it with {@link TextGenerator.dispose}. */
export class TextGenerator extends Model {
  /** Whether the model takes conversations: its folder has a chat template. */
  readonly canChat: boolean;
  readonly #tokenizer: string;

  /** @internal */
  constructor(loaded: LoadedModel<GeneratorInfo>) {
    super(loaded);
    this.canChat = loaded.info.canChat;
    this.#tokenizer = loaded.info.tokenizer;
  }

  /** What the model writes. */
  generate(prompt: Prompt, options: WritingOptions = {}): Promise<Written> {
    return readAll(this.stream(prompt, options));
  }

  /** What the model writes, piece by piece. */
  stream(prompt: Prompt, options: WritingOptions = {}): TextStream {
    const sent: SentPrompt =
      typeof prompt === "string"
        ? { text: prompt }
        : { messages: prompt.map(({ role, content }) => ({ role, content })) };
    const begin = relay({
      model: this,
      tokenizer: this.#tokenizer,
      wishes: wishesOf(options),
      here: (wishes, signal) => this.client.call("write", { prompt: sent, wishes }, { signal }),
      remote: this.#asChat(sent),
    });
    return new TextStream(begin, options.signal);
  }

  /** The prompt for a server, which continues a text as it stands only for models without a template. */
  #asChat(sent: SentPrompt): Remote | undefined {
    if ("text" in sent) {
      return this.canChat
        ? undefined
        : { messages: [{ role: "user", content: sent.text }], bytes: sent.text.length };
    }
    const bytes = sent.messages.reduce((sum, { content }) => sum + content.length, 0);
    return { messages: sent.messages, bytes };
  }
}
