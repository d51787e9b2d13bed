import "./styles/fonts.css";
import "./styles/base.css";
import "./styles/page.css";
import "./styles/results.css";
import "./styles/detail.css";
import { App } from "./app.js";
import { GALLERIES } from "./gallery.js";
import { setUpTheme } from "./theme.js";

const parameters = new URLSearchParams(location.search);
const device = parameters.get("device");
const gallery = parameters.get("gallery");

setUpTheme();
new App(
  device === "webgpu" || device === "wasm" ? device : "auto",
  GALLERIES.find((name) => name === gallery) ?? "photos",
  parameters.get("q") ?? "",
);
