/** The document of --json. Its names are a promise (docs/json.md): add, never rename. */
import type { UsageError } from './arguments.js';
import type { Failure, Outcome } from './outcome.js';

const DOCUMENT_VERSION = 1;

interface Document {
  version: typeof DOCUMENT_VERSION;
  images: Record<string, unknown>[];
  error: Failure | null;
  exitStatus: number;
}

export function resultDocument(outcomes: Outcome[], exitStatus: number): string {
  return serialize({
    version: DOCUMENT_VERSION,
    images: outcomes.map(imageEntry),
    error: null,
    exitStatus,
  });
}

/** The command line was wrong, so no image was looked at. */
export function usageDocument(error: UsageError): string {
  const { code, message, exitStatus } = error;
  return serialize({
    version: DOCUMENT_VERSION,
    images: [],
    error: { code, message, exitStatus },
    exitStatus,
  });
}

function imageEntry(outcome: Outcome): Record<string, unknown> {
  return {
    path: outcome.path,
    ok: outcome.exitStatus === 0,
    mode: outcome.mode,
    outcome: outcome.outcome,
    error: outcome.failure,
    ...figures(outcome),
  };
}

/** The library's figures, less what the entry already says. */
function figures(outcome: Outcome): Record<string, unknown> {
  if (outcome.finished === null) return {};
  const rest: Record<string, unknown> = { ...outcome.finished.result };
  delete rest.path;
  delete rest.outcome;
  return rest;
}

function serialize(document: Document): string {
  return `${JSON.stringify(document, null, 2)}\n`;
}
