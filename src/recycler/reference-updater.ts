/**
 * Lets every slot that names a source name its destination (design 4.4, "update references";
 * recycler contract C32 to C45). Called under the flush mutex (C36).
 */
import { SECTOR } from '../device/block-device.js';
import { QcowError, hex } from '../errors.js';
import { entryOffset, retargetEntry, setCopied } from '../format/entries.js';
import { readWord, viewOf, writeWord } from '../format/words.js';
import { slotIsField } from '../image/references.js';
import type { RangeLocks } from './locks.js';
import { MoveState, type Moves } from './moves.js';
import type { Volume } from './volume.js';

/** Changed sectors nearer than this go out in one write, with what lies between them: the host writes whole pages. */
const JOIN_BYTES = 4096;

/** The slots of one referring cluster: stretches [first, end) of the round's slots. */
export interface Group {
  cluster: number;
  stretches: [number, number][];
}

export interface UpdateResult {
  referencesUpdated: number;
  /** Moves that could not take part since somebody holds a table that refers to them (C35). */
  blocked: Set<number>;
  /** These, and those that wait for a table that moves with them and is not flushed yet (C32). */
  deferred: Set<number>;
}

/**
 * Writes the slots of all flushed moves. `placeOf` tells where a table is that moved in an earlier round.
 * The moves do not change state here: the caller advances them when all writes have succeeded (C43).
 */
export async function updateSlots(
  volume: Volume,
  locks: RangeLocks,
  moves: Moves,
  placeOf: (cluster: number) => number,
): Promise<UpdateResult> {
  const groups: Group[] = [];
  const releases: (() => void)[] = [];
  let referencesUpdated = 0;
  const blocked = new Set<number>();
  const early = [...moves.inState(MoveState.copying), ...moves.inState(MoveState.copied)];
  let deferred = spread(volume, moves, new Set(early));
  try {
    for (const group of groupSlots(volume, moves, placeOf)) {
      const release = locks.tryExclusive(group.cluster, 1);
      if (release !== null) {
        releases.push(release);
        groups.push(group);
        continue;
      }
      for (const i of slotsOf(group)) {
        const move = moves.slots.moves[i]!;
        if (moves.state(move) === MoveState.flushed && !deferred.has(move)) blocked.add(move);
      }
    }
    spread(volume, moves, blocked);
    if (blocked.size > 0) deferred = new Set([...deferred, ...blocked]);
    // The header last, in one write (I4); each of its fields lies in one sector, and none waits for another.
    groups.sort((a, b) => Number(a.cluster === 0) - Number(b.cluster === 0));
    for (const group of groups) referencesUpdated += await updateGroup(volume, moves, group, deferred);
  } finally {
    for (const release of releases) release();
  }
  return { referencesUpdated, blocked, deferred };
}

/**
 * Slots by referring cluster, in the visitor's order: L1 and refcount tables come before L2 tables (C34).
 * A table that moves in this round is left out: its copy names the destinations already.
 */
export function groupSlots(
  volume: Volume,
  moves: Moves,
  placeOf: (cluster: number) => number,
): Iterable<Group> {
  const { clusterBytes } = volume;
  const { offsets } = moves.slots;
  const groups = new Map<number, Group>();
  for (let first = 0; first < offsets.length;) {
    const collected = Math.floor(offsets[first]! / clusterBytes);
    let end = first + 1;
    while (end < offsets.length && Math.floor(offsets[end]! / clusterBytes) === collected) end++;
    if (moves.find(collected) < 0) {
      const cluster = placeOf(collected);
      const group = groups.get(cluster);
      if (group === undefined) groups.set(cluster, { cluster, stretches: [[first, end]] });
      else group.stretches.push([first, end]);
    }
    first = end;
  }
  return groups.values();
}

export function* slotsOf({ stretches }: Group): Iterable<number> {
  for (const [first, end] of stretches) for (let i = first; i < end; i++) yield i;
}

/**
 * A move stays behind as a whole: with all its slots, with the table that moves and holds a slot of it, and
 * with what that table's copy names. Adds them to `behind`. (Without clients nothing ever stays behind.)
 */
function spread(volume: Volume, moves: Moves, behind: Set<number>): Set<number> {
  const { offsets, moves: moveOf } = moves.slots;
  for (let before = -1; behind.size > 0 && behind.size !== before;) {
    before = behind.size;
    for (const move of [...behind]) for (const i of moves.unitOf(move)) behind.add(i);
    for (let i = 0; i < offsets.length; i++) {
      const table = moves.find(Math.floor(offsets[i]! / volume.clusterBytes));
      if (table < 0) continue;
      if (behind.has(table)) behind.add(moveOf[i]!);
      if (behind.has(moveOf[i]!)) behind.add(table);
    }
  }
  return behind;
}

/** One read, all slots verified, then the changed sectors written: nothing is written if one is wrong (C38). */
async function updateGroup(
  volume: Volume,
  moves: Moves,
  group: Group,
  deferred: Set<number>,
): Promise<number> {
  const { device, clusterBytes } = volume;
  const { offsets, moves: moveOf } = moves.slots;
  const wanted: number[] = [];
  for (const i of slotsOf(group)) {
    const move = moveOf[i]!;
    if (moves.state(move) === MoveState.flushed && !deferred.has(move)) wanted.push(i);
  }
  if (wanted.length === 0) return 0;
  const within = (i: number) => offsets[i]! % clusterBytes;
  wanted.sort((a, b) => within(a) - within(b));
  const start = Math.floor(within(wanted[0]!) / SECTOR) * SECTOR;
  const end = Math.ceil((within(wanted.at(-1)!) + 8) / SECTOR) * SECTOR;
  const bytes = new Uint8Array(end - start);
  const base = group.cluster * clusterBytes;
  await device.read(bytes, base + start);
  const view = viewOf(bytes);
  for (const i of wanted) replaceSlot(volume, moves, moveOf[i]!, view, within(i) - start, base + within(i));
  for (const [from, to] of changedSpans(wanted.map((i) => within(i) - start))) {
    await device.write(bytes.subarray(from, to), base + start + from);
  }
  return wanted.length;
}

/** Sector-aligned spans that hold the (ascending) positions. */
export function* changedSpans(positions: number[]): Iterable<[number, number]> {
  let from = -1;
  let to = -1;
  for (const position of positions) {
    const sector = Math.floor(position / SECTOR) * SECTOR;
    if (from >= 0 && sector > to + JOIN_BYTES) {
      yield [from, to];
      from = -1;
    }
    if (from < 0) from = sector;
    to = sector + SECTOR;
  }
  if (from >= 0) yield [from, to];
}

function replaceSlot(
  volume: Volume,
  moves: Moves,
  move: number,
  view: DataView,
  position: number,
  slot: number,
): void {
  const { clusterBytes, clusters } = volume;
  const source = moves.sources[move]!;
  const destination = moves.destinations[move]! * clusterBytes;
  const isField = slotIsField(clusters.kind(source));
  const present = isField
    ? readWord(view, position)
    : entryOffset(view.getUint32(position), view.getUint32(position + 4));
  if (present !== source * clusterBytes) {
    throw new QcowError(
      'CORRUPT',
      `a reference changed under us: it names ${hex(present)}, not ${hex(source * clusterBytes)}`,
      {
        where: `host offset ${hex(slot)}`,
        hint: 'another program writes to this image; nothing was written to this table',
      },
    );
  }
  if (isField) writeWord(view, position, destination);
  else {
    retargetEntry(view, position, destination);
    if (moves.flagged(source)) setCopied(view, position);
  }
}
