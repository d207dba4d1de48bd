/** `--check`: the walk's findings alone, counted as `qemu-img check` counts them. */
import { beginSession, withImageFile } from './session.js';
import type { CheckResult, CommonOptions } from './types.js';

/** Checks the image at `path`; corruptions and leaks are results, not errors. */
export async function check(path: string, options: CommonOptions = {}): Promise<CheckResult> {
  return withImageFile(path, 'inspect', options, async (device, notices) => {
    const { walked, figures } = await beginSession(device, options);
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 });
    const { corruptions, leaks, words } = walked.findings;
    return { ...figures, path, corruptions, leaks, findings: words, notices };
  });
}
