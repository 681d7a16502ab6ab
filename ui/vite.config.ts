import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vitest/config";

// The node serves what comes out: `/` is index.html, `/ui/assets/<name>` the rest. Nothing is inlined, because the
// content security policy allows only files of our own.
export default defineConfig({
  base: "/ui/",
  plugins: [vue()],
  build: {
    outDir: "../http/openstream_http/static/ui",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    target: ["chrome123", "firefox120", "safari17.5"],
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/ui/config.json": "http://127.0.0.1:8000" } },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
