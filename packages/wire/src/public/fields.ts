import { z } from "zod";

/** Text that is passed to a program, where the kernel would end it at a NUL. */
export function plainText(name: string, description?: string): z.ZodType<string, string> {
  const text = z.string().refine((value) => !value.includes("\0"), `${name} must not contain a NUL character`);
  return description === undefined ? text : text.meta({ description });
}

/** Environment variables. */
export const envs = z
  .record(z.string(), z.string())
  .refine(
    (value) => Object.keys(value).every((name) => name !== "" && !/[=\0]/.test(name)),
    "envs: a name must not be empty nor contain = or NUL",
  )
  .refine((value) => !Object.values(value).some((text) => text.includes("\0")), "envs: a value must not contain NUL")
  .meta({ description: "Environment variables." });
