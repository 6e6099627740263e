import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from "@tanstack/react-router";
import { SandboxesPage } from "./sandboxes/sandboxes-page.tsx";
import { Shell } from "./shell/shell.tsx";
import { NotFound, PageFailure } from "./shell/page-failure.tsx";

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound });

const home = createRoute({
  getParentRoute: () => root,
  path: "/",
  beforeLoad: () => {
    throw redirect({ to: "/sandboxes", replace: true });
  },
});

const sandboxes = createRoute({ getParentRoute: () => root, path: "/sandboxes", component: SandboxesPage });

const sandbox = createRoute({
  getParentRoute: () => root,
  path: "/sandboxes/$id",
  beforeLoad: ({ params }) => {
    throw redirect({ to: "/sandboxes/$id/$view", params: { ...params, view: "terminal" }, replace: true });
  },
});

const sandboxView = createRoute({
  getParentRoute: () => root,
  path: "/sandboxes/$id/$view",
  component: lazyRouteComponent(() => import("./sandbox/sandbox-page.tsx"), "SandboxPage"),
});

const images = createRoute({
  getParentRoute: () => root,
  path: "/images",
  component: lazyRouteComponent(() => import("./pages/images-page.tsx"), "ImagesPage"),
});

const usage = createRoute({
  getParentRoute: () => root,
  path: "/usage",
  component: lazyRouteComponent(() => import("./pages/usage-page.tsx"), "UsagePage"),
});

const audit = createRoute({
  getParentRoute: () => root,
  path: "/audit",
  component: lazyRouteComponent(() => import("./pages/audit-page.tsx"), "AuditPage"),
});

const webhooks = createRoute({
  getParentRoute: () => root,
  path: "/webhooks",
  component: lazyRouteComponent(() => import("./pages/webhooks-page.tsx"), "WebhooksPage"),
});

const secrets = createRoute({
  getParentRoute: () => root,
  path: "/secrets",
  component: lazyRouteComponent(() => import("./pages/secrets-page.tsx"), "SecretsPage"),
});

const keys = createRoute({
  getParentRoute: () => root,
  path: "/keys",
  component: lazyRouteComponent(() => import("./pages/keys-page.tsx"), "KeysPage"),
});

const readyMachines = createRoute({
  getParentRoute: () => root,
  path: "/ready-machines",
  component: lazyRouteComponent(() => import("./pages/ready-machines-page.tsx"), "ReadyMachinesPage"),
});

const workers = createRoute({
  getParentRoute: () => root,
  path: "/workers",
  component: lazyRouteComponent(() => import("./pages/workers-page.tsx"), "WorkersPage"),
});

export function makeRouter() {
  return createRouter({
    routeTree: root.addChildren([
      home,
      sandboxes,
      sandbox,
      sandboxView,
      images,
      usage,
      audit,
      webhooks,
      secrets,
      keys,
      readyMachines,
      workers,
    ]),
    basepath: "/dashboard",
    defaultPreload: "intent",
    defaultErrorComponent: PageFailure,
    scrollRestoration: true,
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
