import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { bundledContent } from "./vite/content.ts";
import { contentSecurityPolicy } from "./vite/csp.ts";

const repository = fileURLToPath(new URL("../../../", import.meta.url));

export default defineConfig({
  base: "./",
  plugins: [
    bundledContent(process.env.LENSLET_MODELS_DIR ?? `${repository}models`),
    contentSecurityPolicy(),
  ],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // The package's glue and wasm lie beside `apps/`, outside this folder.
  server: { fs: { allow: [repository] } },
});
