/**
 * A model that describes pictures.
 */

import { type LoadedModel, type LoadOptions, loadModel, Model } from "./loading.js";
import { asFile, type ImageSource, sendable, sizeAsFile } from "./picture.js";
import type { WriterInfo } from "./protocol.js";
import { relay } from "./relay.js";
import { readAll, TextStream, type WritingOptions, type Written, wishesOf } from "./text-stream.js";

/**
 * Loads a captioner: an image encoder and a decoder that attends to it. `model` is a name (looked up under
 * `baseUrl`) or the address of a model's folder. Everything heavy happens in a Web Worker of its own.
 */
export async function loadCaptioner(
  model: string | URL,
  options: LoadOptions = {},
): Promise<Captioner> {
  const loaded = await loadModel("loadCaptioner", model, options, ({ tokenizer = "" }, url) => ({
    device: "server",
    adapter: url,
    tokenizer,
  }));
  return new Captioner(loaded);
}

/** A loaded captioner. Make one with {@link loadCaptioner}; free it with {@link Captioner.dispose}. */
export class Captioner extends Model {
  readonly #tokenizer: string;

  /** @internal */
  constructor(loaded: LoadedModel<WriterInfo>) {
    super(loaded);
    this.#tokenizer = loaded.info.tokenizer;
  }

  /** The caption of a picture. */
  caption(source: ImageSource, options: WritingOptions = {}): Promise<Written> {
    return readAll(this.stream(source, options));
  }

  /** The caption of a picture, piece by piece. */
  stream(source: ImageSource, options: WritingOptions = {}): TextStream {
    const begin = relay({
      model: this,
      tokenizer: this.#tokenizer,
      wishes: wishesOf(options),
      here: async (wishes, signal) => {
        const { picture, transfer } = await sendable(source);
        return this.client.call("caption", { picture, wishes }, { signal, transfer });
      },
      remote: { messages: [], picture: () => asFile(source), bytes: sizeAsFile(source) },
    });
    return new TextStream(begin, options.signal);
  }
}
