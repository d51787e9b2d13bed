/**
 * Server-sent events, as far as a chat uses them.
 */

/** An event that is longer is none. */
const MOST_CHARACTERS = 1 << 20;

/** The data of the events of an answer. `wait` bounds the time for each piece of it. */
export async function* readEvents(
  response: Response,
  wait: <T>(what: Promise<T>) => Promise<T>,
): AsyncGenerator<string, void, undefined> {
  const reader = response.body?.getReader();
  if (!reader) {
    return;
  }
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await wait(reader.read());
    text += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    text = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data:")) {
        yield line.slice(5).trim();
      }
    }
    if (done) {
      return;
    }
    if (text.length > MOST_CHARACTERS) {
      throw new SyntaxError("an event does not end");
    }
  }
}
