/// <reference types="vite/client" />

interface JSON {
  /** Keeps a number's own digits when it is written again; browsers of 2024 and later have it. */
  rawJSON?(text: string): unknown;
}
