/** Compacts an image with a past, and says what is wrong with the result. */
import fs from 'node:fs';
import { compact, plan, QcowError } from '../../src/index.js';
import { digests, fixedHeader } from '../e2e/images.js';
import {
  compareGuestView,
  guestView,
  inspect,
  minimalClusterCount,
  refcountsLimitSharing,
} from '../support/oracle.js';
import { checkImage, qemuImg } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { History } from './history.js';

export interface Verdict {
  flaw: string | null;
  /** `damaged`: by QEMU, as its own check says; then it must be refused. */
  outcome: 'compacted' | 'clean' | 'damaged';
  commands: readonly string[];
}

export async function flawOfHistory(seed: number, directory: string): Promise<Verdict> {
  const { image, commands } = new History(seed, directory).run();
  const verdict = (flaw: string | null, outcome: Verdict['outcome'] = 'compacted') => ({
    flaw,
    outcome,
    commands,
  });
  const random = new Random(seed ^ 0x0dd);
  const dropPreallocation = random.chance(0.3);
  const options = {
    dropPreallocation,
    ...(random.chance(0.3) ? { roundBytes: 1 << random.between(16, 22) } : {}),
  };

  await dropStaleBitmaps(image);
  const scratch = `${directory}/scratch.raw`;
  const seen = () => JSON.stringify({ digests: digests(image, scratch), header: fixedHeader(image) });
  const before = seen();
  const bytes = fs.readFileSync(image);
  if (checkImage(image).corruptions > 0) {
    const refused = await compact(image).then(
      () => false,
      (error: unknown) => error instanceof QcowError && error.code === 'CORRUPT',
    );
    const same = fs.readFileSync(image).equals(bytes);
    return verdict(refused && same ? null : 'QEMU calls it corrupt, and it was not refused', 'damaged');
  }
  // Bitmaps too, which no reading of the disk shows.
  const view = guestView(bytes);
  const minimal = minimalClusterCount(bytes, dropPreallocation ? { preallocation: 'dropped' } : {});
  try {
    const planned = await plan(image, options);
    if (!fs.readFileSync(image).equals(bytes)) return verdict('the plan changed the file');
    const result = await compact(image, { ...options, runtimeAsserts: true });
    const check = checkImage(image);
    if (check.corruptions + check.leaks + check.errors > 0)
      return verdict(`qemu-img check: ${JSON.stringify(check)}`);
    if (seen() !== before) return verdict('the content differs');
    const compacted = fs.readFileSync(image);
    const difference = compareGuestView(view, compacted);
    if (difference !== null) return verdict(difference);
    const { corruptions, staleRefcountsPastEnd, clusterCount } = inspect(compacted);
    if (corruptions.length > 0) return verdict(`corrupt: ${corruptions[0]}`);
    if (staleRefcountsPastEnd > 0) return verdict('refcounts past the end');
    if (clusterCount !== minimal && !refcountsLimitSharing(bytes))
      return verdict(`${clusterCount} clusters, not ${minimal}`);
    if (planned.lengthAfter !== result.lengthAfter && !refcountsLimitSharing(bytes))
      return verdict(`planned ${planned.lengthAfter} bytes, reached ${result.lengthAfter}`);
    const again = await compact(image, options);
    if (again.outcome !== 'clean') return verdict('the second run is not clean');
    return verdict(null, result.outcome === 'clean' ? 'clean' : 'compacted');
  } catch (error) {
    // Compressed clusters that QEMU put into a cluster of data, which its check does not see (docs/check.md).
    if (error instanceof QcowError && /is used as (data and as )?compressed data/.test(error.message))
      return verdict(fs.readFileSync(image).equals(bytes) ? null : 'refused, but changed', 'damaged');
    return verdict(error instanceof QcowError ? `refused: ${error.message}` : String((error as Error).stack));
  }
}

/** What `amend -o compat=0.10` makes of an image with bitmaps is refused; done as the message says, it is not. */
async function dropStaleBitmaps(image: string): Promise<void> {
  const refusal: unknown = await plan(image).catch((error: unknown) => error);
  if (!(refusal instanceof QcowError) || !/`qemu-img check -r leaks`/.test(refusal.message)) return;
  qemuImg('check', '-q', '-r', 'leaks', image);
}
