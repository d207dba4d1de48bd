/** The judge of a compaction with the key: QEMU reads the same, nothing is left over, a second run changes nothing. */
import { expect } from 'vitest';
import { type CompactResult, compact, plan } from '../../src/index.js';
import { digests, encryptedSource, expectMinimal, fileState, fixedHeader } from '../e2e/images.js';
import type { Encryption } from '../support/qemu.js';

/** `secret`: of another key slot than QEMU is told. */
export async function compactWithKey(
  image: string,
  encryption: Encryption,
  secret: string | Uint8Array = encryption.secret,
): Promise<CompactResult> {
  const source = encryptedSource(image, encryption);
  const seen = () => ({ digests: digests(image, undefined, source), header: fixedHeader(image) });
  const before = seen();
  const planned = await plan(image, { secret });
  const result = await compact(image, { secret, runtimeAsserts: true });
  expect(seen()).toEqual(before);
  expectMinimal(image, 0, encryption, true);
  expect(planned).toMatchObject({
    lengthAfter: result.lengthAfter,
    pinnedClusters: result.pinnedClusters,
    bytesToCopy: result.bytesMoved,
  });
  const state = fileState(image);
  const second = await compact(image, { secret });
  expect({ ...second, state: fileState(image) }).toMatchObject({ outcome: 'clean', bytesWritten: 0, state });
  return result;
}
