import { Dialog as Base } from "@base-ui/react/dialog";
import type { FormEvent, ReactNode } from "react";
import { buttonClass, Button } from "./controls.tsx";
import { Icon } from "./icons.tsx";
import styles from "./layers.module.css";

interface DialogProps {
  readonly title: string;
  readonly isOpen: boolean;
  /** For content that needs room. */
  readonly isWide?: boolean;
  readonly onClose: () => void;
  readonly children: ReactNode;
  /** Buttons. With `onSubmit`, the one that submits is among them. */
  readonly foot?: ReactNode;
  readonly onSubmit?: () => void;
}

export function Dialog({ title, isOpen, isWide = false, onClose, children, foot, onSubmit }: DialogProps): ReactNode {
  const content = (
    <>
      <div className={styles["head"]}>
        <Base.Title className={styles["title"]}>{title}</Base.Title>
        <Base.Close className={buttonClass("quiet", true, true)} aria-label="Close">
          <Icon name="close" />
        </Base.Close>
      </div>
      <div className={styles["body"]}>{children}</div>
      {foot === undefined ? null : <div className={styles["foot"]}>{foot}</div>}
    </>
  );
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    onSubmit?.();
  };
  return (
    <Base.Root open={isOpen} onOpenChange={(open) => (open ? undefined : onClose())}>
      <Base.Portal>
        <Base.Backdrop className={styles["backdrop"]} />
        <Base.Popup className={`${styles["dialog"]} ${isWide ? styles["wide"] : ""}`}>
          {onSubmit === undefined ? (
            content
          ) : (
            <form className={styles["form"]} onSubmit={submit}>
              {content}
            </form>
          )}
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}

interface ConfirmProps {
  readonly title: string;
  readonly isOpen: boolean;
  readonly onClose: () => void;
  /** What it will cost. */
  readonly children: ReactNode;
  readonly action: string;
  readonly onConfirm: () => void;
}

/** Asks before something that cannot be undone. */
export function Confirm({ title, isOpen, onClose, children, action, onConfirm }: ConfirmProps): ReactNode {
  const confirm = (): void => {
    onClose();
    onConfirm();
  };
  return (
    <Dialog
      {...{ title, isOpen, onClose }}
      onSubmit={confirm}
      foot={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button look="danger" type="submit">
            {action}
          </Button>
        </>
      }
    >
      {children}
    </Dialog>
  );
}
