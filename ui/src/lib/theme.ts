/** Light, dark, or as the system says; remembered in this browser. */

import { ref, watchEffect } from "vue";

export type Theme = "system" | "light" | "dark";
const KEY = "openstream.theme";

function remembered(): Theme {
  const found = localStorage.getItem(KEY);
  return found === "light" || found === "dark" ? found : "system";
}

export const theme = ref<Theme>(remembered());
const wish = matchMedia("(prefers-color-scheme: dark)");
/** What is shown now: charts on a canvas redraw with it. */
export const dark = ref(false);

export function applyTheme(): void {
  const settle = (): void => {
    dark.value = theme.value === "dark" || (theme.value === "system" && wish.matches);
    document.documentElement.dataset["theme"] = dark.value ? "dark" : "light";
  };
  wish.addEventListener("change", settle);
  watchEffect(() => {
    if (theme.value === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme.value);
    settle();
  });
}

export function nextTheme(): void {
  theme.value = theme.value === "system" ? (dark.value ? "light" : "dark") : theme.value === "dark" ? "light" : "dark";
}
