/** Which images this version compacts, and the words in which it refuses the others (I6). */
import { QcowError } from '../errors.js';
import {
  AUTOCLEAR,
  ENCRYPTION,
  EXTENSION,
  type Header,
  type HeaderExtension,
  INCOMPATIBLE,
  hasDataFile,
} from './header.js';

/** Name of a feature bit from the image's own feature name table, where it has one. */
function featureName(kind: number, bit: number, table: Uint8Array | undefined): string {
  for (let at = 0; table !== undefined && at + 48 <= table.length; at += 48) {
    if (table[at] !== kind || table[at + 1] !== bit) continue;
    const name = Buffer.from(table.subarray(at + 2, at + 48))
      .toString('latin1')
      .split('\0')[0]!;
    // The name comes from the file: keep control characters off the terminal.
    return `bit ${bit} ("${name.replace(/[^\x20-\x7e]/g, '?')}")`;
  }
  return `bit ${bit}`;
}

function lowestBit(halves: readonly [number, number]): number {
  for (let bit = 0; bit < 64; bit++) {
    const half = bit < 32 ? halves[1] : halves[0];
    if (((half >>> (bit % 32)) & 1) === 1) return bit;
  }
  return -1;
}

function unsupported(what: string, remedy?: string): QcowError {
  const untouched = 'the image was left untouched';
  return new QcowError('UNSUPPORTED', `${what}, which this version does not handle`, {
    hint: remedy === undefined ? untouched : `${remedy}; ${untouched}`,
  });
}

/** Throws for an image that says itself that it must be repaired before anything else. */
export function requireUnmarked(header: Header): void {
  const low = header.incompatible[1];
  if ((low & INCOMPATIBLE.corrupt) !== 0) throw marked('the image is marked corrupt');
  if ((low & INCOMPATIBLE.dirty) !== 0)
    throw marked('the image is marked dirty: its refcounts are not to be trusted');
}

function marked(what: string): QcowError {
  return new QcowError('CORRUPT', what, {
    hint: 'it is only written to under `--repair all`; or repair it with `qemu-img check -r all`',
  });
}

/** Throws for every feature that this version does not handle. */
export function requireSupported(header: Header, extensions: HeaderExtension[], cluster0: Uint8Array): void {
  const names = extensions.find((extension) => extension.type === EXTENSION.featureNames);
  const table = names && cluster0.subarray(names.dataAt, names.dataAt + names.dataBytes);
  const low = header.incompatible[1];

  const marks = INCOMPATIBLE.dirty | INCOMPATIBLE.corrupt;
  const known = marks | INCOMPATIBLE.compressionType | INCOMPATIBLE.extendedL2 | INCOMPATIBLE.dataFile;
  const unknown: [number, number] = [header.incompatible[0], (low & ~known) >>> 0];
  const bit = lowestBit(unknown);
  if (bit >= 0) throw unsupported(`the image has the incompatible feature ${featureName(0, bit, table)}`);
  if (((low & INCOMPATIBLE.compressionType) !== 0) !== (header.compressionType !== 0)) {
    throw new QcowError('CORRUPT', 'compression type and its feature bit disagree', {
      where: 'header, byte 104',
    });
  }
  if (header.compressionType > 1)
    throw unsupported(`the image has compression type ${header.compressionType}`);

  if (header.encryption > ENCRYPTION.luks)
    throw unsupported(`the image has encryption method ${header.encryption}`);
  for (const { type } of extensions) {
    if (type === EXTENSION.dataFile && !hasDataFile(header))
      throw unsupported('the image names an external data file, but has not its feature bit');
  }
  const isRaw = (header.autoclear[1] & AUTOCLEAR.dataFileRaw) !== 0;
  if (isRaw && !hasDataFile(header)) {
    throw new QcowError('CORRUPT', 'the external data file is marked raw, but there is none', {
      where: 'header, byte 95',
      hint: 'the image was left untouched',
    });
  }
  requireConsistentBitmaps(header, extensions);
  const knownAutoclear = AUTOCLEAR.bitmaps | AUTOCLEAR.dataFileRaw;
  const autoclear = lowestBit([header.autoclear[0], (header.autoclear[1] & ~knownAutoclear) >>> 0]);
  if (autoclear > 0)
    throw unsupported(
      `the image has the autoclear feature ${featureName(2, autoclear, table)}`,
      'opened once for writing by a QEMU that does not know it either (`qemu-io -c quit IMAGE`), it is gone',
    );
}

/**
 * Software that knows no bitmaps clears their bit when it writes: then the clusters of the bitmaps may be anybody's
 * (hazard 9.5). Version 2 has no such bit.
 */
function requireConsistentBitmaps(header: Header, extensions: HeaderExtension[]): void {
  const extension = extensions.find(({ type }) => type === EXTENSION.bitmaps);
  const isConsistent = (header.autoclear[1] & AUTOCLEAR.bitmaps) !== 0;
  if (extension !== undefined && !isConsistent) {
    throw new QcowError('UNSUPPORTED', 'the persistent bitmaps of the image are not valid any more', {
      where: `header, byte ${extension.dataAt - 8}`,
      hint: 'drop them with `qemu-img check -r leaks`; the image was left untouched',
    });
  }
  if (extension === undefined && isConsistent) {
    throw new QcowError('CORRUPT', 'the image is marked as having persistent bitmaps, but names none', {
      where: 'header, byte 95',
      hint: '`qemu-img convert` makes a sound copy; the image was left untouched',
    });
  }
}
