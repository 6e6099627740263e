import { Toast } from "@base-ui/react/toast";
import type { ReactNode } from "react";
import { buttonClass } from "./controls.tsx";
import { messageOf } from "./format.ts";
import { Icon } from "./icons.tsx";
import styles from "./layers.module.css";

/** Shows the messages of {@link useNotify} in a corner of the page. */
export function Toasts({ children }: { readonly children: ReactNode }): ReactNode {
  return (
    <Toast.Provider timeout={6000} limit={4}>
      {children}
      <Toast.Portal>
        <Toast.Viewport className={styles["toasts"]}>
          <Shown />
        </Toast.Viewport>
      </Toast.Portal>
    </Toast.Provider>
  );
}

function Shown(): ReactNode {
  const { toasts } = Toast.useToastManager();
  return toasts.map((toast) => (
    <Toast.Root key={toast.id} toast={toast} className={styles["toast"]}>
      <div className={styles["toastText"]}>
        <Toast.Description />
      </div>
      {toast.actionProps === undefined ? null : <Toast.Action className={buttonClass("plain", true)} />}
      <Toast.Close className={buttonClass("quiet", true, true)} aria-label="Close">
        <Icon name="close" />
      </Toast.Close>
    </Toast.Root>
  ));
}

export interface Notify {
  readonly done: (message: string, undo?: { readonly label: string; readonly run: () => void }) => void;
  readonly failed: (error: unknown) => void;
}

export function useNotify(): Notify {
  const { add } = Toast.useToastManager();
  return {
    done(description, undo) {
      const action = undo && { children: undo.label, onClick: undo.run };
      add({ description, ...(action === undefined ? {} : { actionProps: action }) });
    },
    failed(error) {
      add({ description: messageOf(error), type: "error", priority: "high", timeout: 12_000 });
    },
  };
}
