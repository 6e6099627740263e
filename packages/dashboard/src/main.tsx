// First: the schemas of the wire are made when their modules are loaded.
import "./policy.ts";
import { CSPProvider } from "@base-ui/react/csp-provider";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { makeRouter } from "./router.tsx";
import { SignedIn } from "./session/signed-in.tsx";
import { applyTheme, chosenTheme } from "./shell/theme.ts";
import { Toasts } from "./ui/toasts.tsx";
import "./ui/base.css";

applyTheme(chosenTheme());

const queries = new QueryClient({
  // The SDK retries what can be retried.
  defaultOptions: { queries: { retry: false, staleTime: 5000 } },
});
const root = document.querySelector("#root");
if (root === null) throw new Error("the page has no element #root");
createRoot(root).render(
  <StrictMode>
    {/* The page's policy allows no style elements. */}
    <CSPProvider disableStyleElements>
      <QueryClientProvider client={queries}>
        <Toasts>
          <SignedIn>
            <RouterProvider router={makeRouter()} />
          </SignedIn>
        </Toasts>
      </QueryClientProvider>
    </CSPProvider>
  </StrictMode>,
);
