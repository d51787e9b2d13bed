// What the cases of a model have in common.

/** Runs cases one after the other on one model; what a case throws is why it failed. */
export async function runCases(model, cases, filter, ...on) {
  const done = [];
  for (const [name, work] of Object.entries(cases)) {
    const entry = { name: `${model} ${name}`, ok: false };
    if (entry.name.includes(filter)) {
      try {
        entry.detail = await work(...on);
        entry.ok = true;
      } catch (error) {
        entry.detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
      }
      done.push(entry);
    }
  }
  return done;
}

/** The kind of error that a text ends with. */
export function kind(promise) {
  return promise.then(
    (written) => `no error but ${JSON.stringify(written)}`,
    (error) => error.kind,
  );
}

/** Throws unless both are the same in JSON. */
export function equal(got, wanted) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) {
    throw new Error(`${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
  }
}
