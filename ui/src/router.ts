import { createRouter, createWebHashHistory } from "vue-router";
import { signIn, tokenOfFragment } from "./api/session";
import OverviewPage from "./pages/OverviewPage.vue";

/** Addresses live behind the #, so every node serves every page with one file, and no name is ever sent as a path. */
export const router = createRouter({
  history: createWebHashHistory(),
  routes: [
    { path: "/", component: OverviewPage, meta: { title: "Overview" } },
    { path: "/topics", component: () => import("./pages/TopicsPage.vue"), meta: { title: "Topics" } },
    {
      path: "/topics/:topic/:tab?",
      component: () => import("./pages/TopicPage.vue"),
      props: true,
      meta: { title: "Topic" },
    },
    { path: "/groups", component: () => import("./pages/GroupsPage.vue"), meta: { title: "Groups" } },
    {
      path: "/groups/:topic/:group/:tab?",
      component: () => import("./pages/GroupPage.vue"),
      props: true,
      meta: { title: "Group" },
    },
    { path: "/replays", component: () => import("./pages/ReplaysPage.vue"), meta: { title: "Replays" } },
    { path: "/cluster", component: () => import("./pages/ClusterPage.vue"), meta: { title: "Cluster" } },
    { path: "/:rest(.*)*", component: () => import("./pages/NotFoundPage.vue"), meta: { title: "Not found" } },
  ],
  scrollBehavior: (to, from, saved) => saved ?? (to.path === from.path ? false : { top: 0 }),
});

// A link with a token, opened in a tab that is here already: the fragment alone changes, and nothing is loaded anew.
router.beforeEach((to) => {
  const token = tokenOfFragment(`#${to.fullPath.slice(1)}`);
  if (token === null) return true;
  signIn(token);
  return { path: "/", replace: true };
});
