import { byId } from "./dom.js";

const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const KEY = "lenslet-theme";
const LABELS: Record<Theme, string> = {
  system: "Colours: as the system",
  light: "Colours: light",
  dark: "Colours: dark",
};

function stored(): Theme {
  try {
    return THEMES.find((theme) => theme === localStorage.getItem(KEY)) ?? "system";
  } catch {
    return "system"; // Storage is blocked.
  }
}

function apply(theme: Theme): void {
  document.documentElement.dataset.theme = theme;
  const toggle = byId("theme", HTMLButtonElement);
  toggle.setAttribute("aria-label", LABELS[theme]);
  toggle.title = LABELS[theme];
}

/** Light, dark, or as the system; remembered. */
export function setUpTheme(): void {
  let theme = stored();
  apply(theme);
  byId("theme", HTMLButtonElement).addEventListener("click", () => {
    const shown = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const other = shown === "dark" ? "light" : "dark";
    // The first click always changes what is seen.
    theme = theme === "system" ? other : theme === other ? shown : "system";
    apply(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Then it lasts as long as the page.
    }
  });
}
