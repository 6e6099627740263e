const dayMs = 86_400_000;

/** An object that nothing names is removed when it was written this long ago. */
export const sweepAgeMs = 14 * dayMs;

/**
 * An upload writes an object again that is older than this, so that no sweep removes it before the upload names it. An
 * upload may therefore take as long as the difference to {@link sweepAgeMs}.
 */
export const refreshAgeMs = 7 * dayMs;
