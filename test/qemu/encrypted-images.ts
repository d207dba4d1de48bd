/** Encrypted images as QEMU makes and uses them. */
import fs from 'node:fs';
import { encryptedSource, guestIo } from '../e2e/images.js';
import { type Encryption, qemuImg, secretObject } from '../support/qemu.js';

/** `more`: options of encryption, like `encrypt.cipher-mode=cbc`. */
export function createEncrypted(
  image: string,
  options: string,
  size: string,
  encryption: Encryption,
  more: readonly string[] = [],
): void {
  const quick = encryption.format === 'luks' ? ['encrypt.iter-time=10'] : [];
  const format = [`encrypt.format=${encryption.format}`, 'encrypt.key-secret=key', ...quick, ...more];
  const all = [options, ...format].join(',');
  retried(() => {
    fs.rmSync(image, { force: true });
    qemuImg('create', '-q', ...secretObject(encryption), '-f', 'qcow2', '-o', all, image, size);
  });
}

/** QEMU measures the CPU before it makes a key slot, and gives up now and then ("Unable to get accurate CPU usage"). */
export function retried(make: () => void): void {
  for (let tries = 0; ; tries++) {
    try {
      make();
      return;
    } catch (error) {
      if (tries === 20) throw error;
    }
  }
}

/** Writes, a snapshot, writes over it, a second one, discards; the first snapshot is deleted. */
export function useEncrypted(image: string, cluster: number, encryption: Encryption): void {
  const write = (pattern: number, first: number, count: number) =>
    `write -q -P ${pattern} ${first * cluster} ${count * cluster}`;
  const source = encryptedSource(image, encryption).at(-1)!;
  const snapshot = (how: string, name: string) =>
    qemuImg('snapshot', ...secretObject(encryption), how, name, '--image-opts', source);
  guestIo(image, [write(1, 40, 10), write(2, 0, 12), write(3, 20, 9)], encryption);
  snapshot('-c', 'a');
  guestIo(image, [write(4, 5, 9), write(5, 44, 2)], encryption);
  snapshot('-c', 'b');
  guestIo(image, [write(6, 22, 3), `discard -q ${40 * cluster} ${6 * cluster}`], encryption);
  snapshot('-d', 'a');
}
