import type { GalleryPlan } from "./gallery.js";
import { loadEmoji, loadPhotos } from "./pictures.js";

/** The three galleries of the page. */
export const PLANS: readonly GalleryPlan[] = [
  {
    name: "photos",
    model: "photo-search",
    noun: "photograph",
    placeholder: "a cat, something to drink…",
    examples: [
      "a cat",
      "something to drink",
      "bear in the snow",
      "a musical instrument",
      "what time is it",
      "renewable energy",
      "rocket launch",
    ],
    k: 24,
    load: loadPhotos,
  },
  {
    name: "emoji",
    model: "emoji-clip",
    noun: "emoji",
    placeholder: "pizza, 红心, perro…",
    examples: ["pizza", "red heart", "gato", "足球", "cactus", "红心", "fútbol", "perro"],
    k: 48,
    load: loadEmoji,
  },
  {
    name: "yours",
    model: "photo-search",
    noun: "picture",
    placeholder: "describe one of your pictures…",
    examples: [],
    k: 48,
    load: async () => [],
  },
];
