/** Damages an image in ways that a reader of qcow2 must survive: fields of its metadata changed, and plain noise. */
import { type ImageLayout, readLayout, readOffset } from '../support/oracle-layout.js';
import type { Random } from '../support/random.js';

export interface Mutant {
  readonly bytes: Uint8Array;
  /** Every change, with where and what. */
  readonly changes: readonly string[];
}

/** Something in the file that has a meaning: `bytes` wide, at `offset`. */
interface Field {
  readonly name: string;
  readonly offset: number;
  readonly width: number;
}

const HEADER_FIELDS: readonly (readonly [string, number, number])[] = [
  ['magic', 0, 4],
  ['version', 4, 4],
  ['backing_file_offset', 8, 8],
  ['backing_file_size', 16, 4],
  ['cluster_bits', 20, 4],
  ['size', 24, 8],
  ['crypt_method', 32, 4],
  ['l1_size', 36, 4],
  ['l1_table_offset', 40, 8],
  ['refcount_table_offset', 48, 8],
  ['refcount_table_clusters', 56, 4],
  ['nb_snapshots', 60, 4],
  ['snapshots_offset', 64, 8],
  ['incompatible_features', 72, 8],
  ['compatible_features', 80, 8],
  ['autoclear_features', 88, 8],
  ['refcount_order', 96, 4],
  ['header_length', 100, 4],
  ['compression_type', 104, 1],
];

const SNAPSHOT_FIELDS: readonly (readonly [string, number, number])[] = [
  ['l1_table_offset', 0, 8],
  ['l1_size', 8, 4],
  ['id_str_size', 12, 2],
  ['name_size', 14, 2],
  ['vm_state_size', 32, 4],
  ['extra_data_size', 36, 4],
  ['extra data', 40, 8],
];

const BITMAP_FIELDS: readonly (readonly [string, number, number])[] = [
  ['table_offset', 0, 8],
  ['table_size', 8, 4],
  ['flags', 12, 4],
  ['type', 16, 1],
  ['granularity_bits', 17, 1],
  ['name_size', 18, 2],
  ['extra_data_size', 20, 4],
];

const BITMAPS_EXTENSION_FIELDS: readonly (readonly [string, number, number])[] = [
  ['length', -20, 4],
  ['nb_bitmaps', -16, 4],
  ['reserved', -12, 4],
  ['directory_size', -8, 8],
  ['directory_offset', 0, 8],
];

/** Less the numbers of iterations, which make a key take minutes. */
const LUKS_FIELDS: readonly (readonly [string, number, number])[] = [
  ['version', 6, 2],
  ['cipher_name', 8, 8],
  ['cipher_mode', 40, 8],
  ['hash_spec', 72, 8],
  ['payload_offset', 104, 4],
  ['key_bytes', 108, 4],
  ['mk_digest', 112, 8],
  ['mk_digest_salt', 132, 8],
  ...[0, 1, 7].flatMap((slot): [string, number, number][] => [
    [`key slot ${slot}, active`, 208 + slot * 48, 4],
    [`key slot ${slot}, salt`, 216 + slot * 48, 8],
    [`key slot ${slot}, key_material_offset`, 248 + slot * 48, 4],
    [`key slot ${slot}, stripes`, 252 + slot * 48, 4],
  ]),
];

/** Changes 1 to 8 fields, anywhere in the metadata of the valid image `original`. */
export function changeFields(original: Uint8Array, random: Random): Mutant {
  const bytes = Uint8Array.from(original);
  const layout = readLayout(original);
  if (typeof layout === 'string') throw new Error(`the image to mutate is not valid: ${layout}`);
  const places = new Places(layout, random);
  // One change is what slips through most often, and says most about where.
  const count = random.pick([1, 1, 1, 2, 2, 3, 5, 8]);
  const changes = Array.from({ length: count }, () => change(bytes, places.pick(), places, random));
  return { bytes, changes };
}

/** Overwrites, repeats, cuts out or cuts off stretches of bytes wherever they are. */
export function addNoise(original: Uint8Array, random: Random): Mutant {
  let bytes = Uint8Array.from(original);
  const changes: string[] = [];
  for (let left = random.pick([1, 1, 2, 4]); left > 0; left--) {
    const at = random.int(bytes.length);
    const length = Math.min(bytes.length - at, random.pick([1, 2, 8, 64, 512, 5000]));
    const from = random.int(Math.max(1, bytes.length - length));
    const kind = random.pick(['random', 'zeroes', 'ones', 'copy', 'cut off', 'cut out', 'longer']);
    if (kind === 'random') bytes.set(random.bytes(length), at);
    else if (kind === 'zeroes') bytes.fill(0, at, at + length);
    else if (kind === 'ones') bytes.fill(0xff, at, at + length);
    else if (kind === 'copy') bytes.copyWithin(at, from, from + length);
    else if (kind === 'cut off') bytes = bytes.slice(0, at);
    else if (kind === 'cut out')
      bytes = Uint8Array.from([...bytes.slice(0, at), ...bytes.slice(at + length)]);
    else bytes = Uint8Array.from([...bytes, ...random.bytes(length)]);
    changes.push(`${kind} at ${at}, ${length} bytes${kind === 'copy' ? ` from ${from}` : ''}`);
    if (bytes.length === 0) break;
  }
  return { bytes, changes };
}

/** Finds the fields of an image, by the structure first: so a short one is met as often as a long one. */
class Places {
  readonly #structures: (() => Field)[];

  constructor(
    readonly layout: ImageLayout,
    readonly random: Random,
  ) {
    const { clusterSize, l1Size, l1Offset, snapshots, refcountTableOffset } = layout;
    const blocks = this.#targets(refcountTableOffset, layout.refcountTableClusters * clusterSize);
    const l1Tables = [{ l1Offset, l1Size }, ...snapshots].filter((table) => table.l1Size > 0);
    const l2Tables = l1Tables.flatMap((table) => this.#targets(table.l1Offset, table.l1Size * 8));
    const l2Entry = () => this.#entry('L2', random.pick(l2Tables), clusterSize, layout.l2EntrySize);
    this.#structures = [
      () => this.#one('header', 0, HEADER_FIELDS),
      () => this.#one('header', 0, HEADER_FIELDS),
      () => this.#extension(),
      () => this.#entry('refcount table', refcountTableOffset, Math.max(8, blocks.length * 8 + 16), 8),
    ];
    if (blocks.length > 0) {
      const width = Math.max(1, 2 ** layout.refcountOrder / 8);
      const described = Math.min(clusterSize, Math.ceil(layout.clusterCount / blocks.length) * width + width);
      this.#structures.push(() => this.#entry('refcount block', random.pick(blocks), described, width));
    }
    if (l1Tables.length > 0) {
      this.#structures.push(() => {
        const table = random.pick(l1Tables);
        return this.#entry('L1', table.l1Offset, table.l1Size * 8, 8);
      });
    }
    if (l2Tables.length > 0) this.#structures.push(l2Entry, l2Entry);
    if (snapshots.length > 0) {
      this.#structures.push(() => {
        const snapshot = random.pick(snapshots);
        return this.#one('snapshot', layout.snapshotsOffset + snapshot.start, SNAPSHOT_FIELDS);
      });
    }
    if (layout.encryptionHeader !== null && layout.hasKnownKey) {
      const { offset } = layout.encryptionHeader;
      const field = () => this.#one('LUKS', offset, LUKS_FIELDS);
      this.#structures.push(field, field);
    }
    if (layout.bitmaps !== null) {
      const { slot, directoryOffset, bitmaps } = layout.bitmaps;
      this.#structures.push(
        () => this.#one('bitmaps extension', slot, BITMAPS_EXTENSION_FIELDS),
        () => this.#one('bitmap', directoryOffset + random.pick(bitmaps).start, BITMAP_FIELDS),
        () => {
          const { tableOffset, tableEntries } = random.pick(bitmaps);
          return this.#entry('bitmap table', tableOffset, Math.max(1, tableEntries) * 8, 8);
        },
      );
    }
  }

  pick(): Field {
    return this.random.pick(this.#structures)();
  }

  /** Of a table of 8-byte entries, what they point to within the file. */
  #targets(offset: number, length: number): number[] {
    const { image, view, clusterSize } = this.layout;
    const targets: number[] = [];
    for (let at = offset; at + 8 <= Math.min(image.length, offset + length); at += 8) {
      const target = (view.getUint32(at) & 0x00ffffff) * 2 ** 32 + ((view.getUint32(at + 4) & ~511) >>> 0);
      if (target !== 0 && target + clusterSize <= image.length) targets.push(target);
    }
    return targets;
  }

  #one(name: string, base: number, fields: readonly (readonly [string, number, number])[]): Field {
    const [field, at, width] = this.random.pick(fields);
    return { name: `${name} ${field}`, offset: base + at, width };
  }

  /** Mostly an entry that is in use: those are few in most tables. */
  #entry(name: string, base: number, length: number, width: number): Field {
    const { view, image } = this.layout;
    const entries = Math.floor(length / width);
    for (let attempt = 0; ; attempt++) {
      const index = this.random.int(entries);
      const offset = base + index * width;
      const used = offset + width > image.length || width < 8 || readOffset(view, offset) !== 0;
      if (used || attempt === 8) {
        // The second word of an extended entry is a field of its own.
        const second = width === 16 && this.random.chance(0.5) ? 8 : 0;
        return { name: `${name} entry ${index}`, offset: offset + second, width: Math.min(8, width) };
      }
    }
  }

  #extension(): Field {
    const { view, version, clusterSize } = this.layout;
    let at = version === 3 ? view.getUint32(100) : 72;
    for (let skip = this.random.int(4); skip > 0 && at + 8 <= clusterSize; skip--) {
      if (view.getUint32(at) === 0) break;
      at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
    }
    const field = this.random.pick([0, 4, 8, 16]);
    return {
      name: 'header extension',
      offset: Math.min(at + field, clusterSize - 8),
      width: field < 8 ? 4 : 8,
    };
  }
}

/** Changes one field of `bytes` to something that a field of its kind may be mistaken for. */
function change(bytes: Uint8Array, field: Field, places: Places, random: Random): string {
  const { name, offset, width } = field;
  if (offset + width > bytes.length) return `${name} is beyond the end`;
  const view = new DataView(bytes.buffer);
  const before = read(view, offset, width);
  const after = BigInt.asUintN(width * 8, otherValue(before, field, places, bytes, random));
  for (let i = 0; i < width; i++) bytes[offset + i] = Number((after >> BigInt(8 * (width - 1 - i))) & 0xffn);
  return `${name} at 0x${offset.toString(16)}: 0x${before.toString(16)} -> 0x${after.toString(16)}`;
}

function read(view: DataView, offset: number, width: number): bigint {
  let value = 0n;
  for (let i = 0; i < width; i++) value = (value << 8n) | BigInt(view.getUint8(offset + i));
  return value;
}

function otherValue(before: bigint, field: Field, places: Places, bytes: Uint8Array, random: Random): bigint {
  const { layout } = places;
  const { clusterSize } = layout;
  const bits = field.width * 8;
  const cluster = BigInt(clusterSize);
  const someCluster = BigInt(random.int(layout.clusterCount + 2)) * cluster;
  return random.pick<() => bigint>([
    () => 0n,
    () => 1n,
    () => -1n,
    () => before + 1n,
    () => before - 1n,
    () => before ^ (1n << BigInt(random.int(bits))),
    () => before ^ (1n << BigInt(random.int(bits))) ^ (1n << BigInt(random.int(bits))),
    () => before + cluster,
    () => before - cluster,
    () => before * 2n,
    () => before + 512n,
    // Another place in the file, the flags kept.
    () => (before & 0xff00_0000_0000_01ffn) | someCluster,
    () => someCluster,
    () => BigInt(bytes.length) - BigInt(random.int(2)) * cluster,
    () => 1n << BigInt(random.int(bits)),
    () => (1n << BigInt(random.int(bits))) - 1n,
    () => BigInt(random.uint32()) * BigInt(random.uint32()),
    // What another field holds.
    () => {
      const other = places.pick();
      return other.offset + other.width <= bytes.length
        ? read(new DataView(bytes.buffer), other.offset, other.width)
        : 0n;
    },
  ])();
}
