/** The key of an encrypted image, where its secret is known. */
import type { Image } from '../image/image.js';
import type { Transfer } from '../recycler/transfer.js';
import { SECRET_NOT_NEEDED } from './notices.js';

/**
 * What the data of the image need to move, or null: without a secret, or where nothing needs one. A secret that does
 * not fit is an error, even where there is nothing to move.
 */
export async function unlockData(
  image: Pick<Image, 'device' | 'encryptionHeader'>,
  secret: Uint8Array | string | undefined,
  notices: string[],
): Promise<Transfer | null> {
  if (secret === undefined) return null;
  if (image.encryptionHeader === null) {
    notices.push(SECRET_NOT_NEEDED);
    return null;
  }
  // Loading node:crypto takes longer than all else in most runs, which do not need it.
  const { unlock } = await import('../luks/unlock.js');
  const bytes = Buffer.from(secret);
  try {
    return await unlock(image.device, image.encryptionHeader, bytes);
  } finally {
    bytes.fill(0);
  }
}
