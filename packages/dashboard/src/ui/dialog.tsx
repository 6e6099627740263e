import { Dialog as Base } from "@base-ui/react/dialog";
import { type FormEvent, type ReactNode, useState } from "react";
import { buttonClass, Button, Failure, Spinner } from "./controls.tsx";
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

interface FormDialogProps {
  readonly title: string;
  readonly isOpen: boolean;
  readonly onClose: () => void;
  /** The button that submits, and its text while `onSubmit` runs. */
  readonly action: string;
  readonly busyAction?: string;
  readonly isDangerous?: boolean;
  /** Whether the form can be submitted. */
  readonly isReady?: boolean;
  /** The button that closes without a submit. */
  readonly cancel?: string;
  /** Closes the dialog when its work is done. The dialog shows an error that it throws. */
  readonly onSubmit: () => Promise<void> | void;
  readonly children: ReactNode;
}

/** A form with a button that submits, one that does not, and the error of the last submit. */
export function FormDialog({
  title,
  isOpen,
  onClose,
  action,
  busyAction = action,
  isDangerous = false,
  isReady = true,
  cancel = "Cancel",
  onSubmit,
  children,
}: FormDialogProps): ReactNode {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const submit = async (): Promise<void> => {
    setError(undefined);
    setBusy(true);
    try {
      await onSubmit();
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  };
  const close = (): void => {
    setError(undefined);
    onClose();
  };
  return (
    <Dialog
      {...{ title, isOpen }}
      onClose={close}
      onSubmit={() => void submit()}
      foot={
        <>
          <Button onClick={close}>{cancel}</Button>
          <Button look={isDangerous ? "danger" : "primary"} type="submit" disabled={isBusy || !isReady}>
            {isBusy ? <Spinner /> : null}
            {isBusy ? busyAction : action}
          </Button>
        </>
      }
    >
      {children}
      {error === undefined ? null : <Failure error={error} />}
    </Dialog>
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
export function Confirm({ onConfirm, ...rest }: ConfirmProps): ReactNode {
  const confirm = (): void => {
    rest.onClose();
    onConfirm();
  };
  return <FormDialog {...rest} isDangerous onSubmit={confirm} />;
}
