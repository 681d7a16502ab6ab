/** Who is signed in. The token lives in this tab's sessionStorage and travels in a header, never in an address. */

import { computed, ref } from "vue";

const KEY = "openstream.token";

export interface Claims {
  sub: string;
  role: string;
  exp: number;
  topics?: string[];
}

const token = ref<string | null>(null);
/** Why the last session ended, for the sign-in page. */
export const endedBecause = ref<string | null>(null);

export const claims = computed<Claims | null>(() => (token.value === null ? null : readClaims(token.value)));
export const signedIn = computed(() => token.value !== null);
export const isAdmin = computed(() => claims.value?.role === "admin");
export const mayConsume = computed(() => isAdmin.value || claims.value?.role === "consumer");
export const mayProduce = computed(() => isAdmin.value || claims.value?.role === "producer");

export function currentToken(): string | null {
  return token.value;
}

/** What a token says of itself; only for showing. The node is who checks it. */
export function readClaims(text: string): Claims | null {
  const body = text.split(".")[1];
  if (body === undefined) return null;
  try {
    const bytes = Uint8Array.from(atob(body.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const found = JSON.parse(new TextDecoder().decode(bytes)) as Claims;
    return typeof found.role === "string" && typeof found.sub === "string" ? found : null;
  } catch {
    return null;
  }
}

export function signIn(text: string): void {
  token.value = text;
  endedBecause.value = null;
  sessionStorage.setItem(KEY, text);
}

export function signOut(why: string | null = null): void {
  token.value = null;
  endedBecause.value = why;
  sessionStorage.removeItem(KEY);
}

/** The token of a fragment `#token=…`, or null. */
export function tokenOfFragment(hash: string): string | null {
  if (!hash.startsWith("#token=")) return null;
  const found = decodeURIComponent(hash.slice("#token=".length));
  return found === "" ? null : found;
}

/** Take over the token of the link that led here, and remove it from the address bar before anything else happens. */
export function adoptToken(): void {
  const given = tokenOfFragment(location.hash);
  if (location.hash.startsWith("#token=")) history.replaceState(null, "", `${location.pathname}#/`);
  if (given !== null) signIn(given);
  else token.value = sessionStorage.getItem(KEY);
}
