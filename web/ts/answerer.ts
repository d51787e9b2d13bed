/**
 * A model that answers questions about pictures.
 */

import { type LoadedModel, type LoadOptions, loadModel, Model } from "./loading.js";
import { asFile, type ImageSource, sendable, sizeAsFile } from "./picture.js";
import type { WriterInfo } from "./protocol.js";
import { relay } from "./relay.js";
import { readAll, TextStream, type WritingOptions, type Written, wishesOf } from "./text-stream.js";

/**
 * Loads an answerer: an image encoder and a decoder that takes the picture into its prompt or attends to it. `model` is a
 * name (looked up under `baseUrl`) or the address of a model's folder. Everything heavy happens in a Web Worker of its own.
 */
export async function loadAnswerer(
  model: string | URL,
  options: LoadOptions = {},
): Promise<Answerer> {
  const loaded = await loadModel("loadAnswerer", model, options, ({ tokenizer = "" }, url) => ({
    device: "server",
    adapter: url,
    tokenizer,
  }));
  return new Answerer(loaded);
}

/**
 * A loaded answerer. Make one with {@link loadAnswerer}; free it with {@link Answerer.dispose}.
 *
 * What was read of the last picture is kept: another question about it runs neither the image encoder nor the picture's part of the
 * prompt again, which {@link Usage.promptTokens} shows.
 */
export class Answerer extends Model {
  readonly #tokenizer: string;

  /** @internal */
  constructor(loaded: LoadedModel<WriterInfo>) {
    super(loaded);
    this.#tokenizer = loaded.info.tokenizer;
  }

  /** The answer to a question about a picture. Of a model that only captions, the question is how its caption begins. */
  ask(source: ImageSource, question: string, options: WritingOptions = {}): Promise<Written> {
    return readAll(this.stream(source, question, options));
  }

  /** The answer to a question about a picture, piece by piece. */
  stream(source: ImageSource, question: string, options: WritingOptions = {}): TextStream {
    const begin = relay({
      model: this,
      tokenizer: this.#tokenizer,
      wishes: wishesOf(options),
      here: async (wishes, signal) => {
        const { picture, transfer } = await sendable(source);
        return this.client.call("ask", { picture, question, wishes }, { signal, transfer });
      },
      remote: {
        messages: [{ role: "user", content: question }],
        picture: () => asFile(source),
        bytes: sizeAsFile(source) + question.length,
      },
    });
    return new TextStream(begin, options.signal);
  }

  /** Frees what is kept of the last picture. The next question reads its picture anew. */
  async forget(): Promise<void> {
    if (this.local === "ready") {
      await this.client.call("forget", {});
    }
  }
}
