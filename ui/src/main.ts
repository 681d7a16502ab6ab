import { createApp } from "vue";
import { adoptToken } from "./api/session";
import App from "./App.vue";
import { applyTheme } from "./lib/theme";
import { router } from "./router";
import "./styles.css";

adoptToken(); // before the router looks at the address
applyTheme();
createApp(App).use(router).mount("#app");
