/**
 * Our check and that of QEMU on images of every kind, valid and damaged: they agree on whether there is corruption,
 * and on the number of leaks, but for the differences that docs/check.md explains. Never may we call sound what QEMU
 * calls damaged.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { requireQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { mutantAt } from './fuzz.js';
import { type Mutant, addNoise, changeFields } from './mutations.js';
import { ourCheck } from './verdict.js';

const SEED = Number(process.env.SEED ?? 0);
const COUNT = Number(process.env.COUNT ?? 3_000);

const directory = temporaryDirectory();

/** What a check said: sound, damaged, or that it did not come to an end. */
interface Said {
  readonly state: 'sound' | 'damaged' | 'refused';
  readonly leaks: number;
  readonly words: string;
}

interface Difference {
  /** As docs/check.md has it. */
  readonly name: string;
  explains: (ours: Said, theirs: Said) => boolean;
}

const DIFFERENCES: readonly Difference[] = [
  {
    name: 'refused at the door',
    explains: (ours, theirs) => ours.state === 'refused' && theirs.state === 'damaged',
  },
  {
    name: 'QEMU does not open it',
    explains: (ours, theirs) => ours.state === 'damaged' && theirs.state === 'refused',
  },
  {
    name: 'leaks beside damage',
    explains: (ours, theirs) => ours.state === 'damaged' && theirs.state === 'damaged',
  },
  {
    name: 'unknown autoclear features',
    explains: (ours, theirs) =>
      ours.state === 'refused' &&
      theirs.state === 'sound' &&
      /autoclear feature|persistent bitmaps/.test(ours.words),
  },
  {
    name: 'one cluster, two uses',
    explains: (ours, theirs) =>
      ours.state === 'damaged' && theirs.state === 'sound' && /is used as .* and as /.test(ours.words),
  },
  {
    name: 'zero flag in version 2',
    explains: (ours, theirs) =>
      ours.state === 'damaged' &&
      theirs.state === 'sound' &&
      /reserved bits are set in an L2 entry/.test(ours.words),
  },
  {
    name: 'past the end of the file',
    explains: (ours, theirs) => theirs.state === 'sound' && /beyond the end of the file/.test(ours.words),
  },
  {
    name: 'header_length not a multiple of 8',
    explains: (ours) => /header field header_length is out of bounds/.test(ours.words),
  },
  {
    name: 'marked dirty',
    explains: (ours) => ours.state === 'refused' && /marked dirty/.test(ours.words),
  },
  {
    name: 'stale offset of a table without entries',
    explains: (ours, theirs) => ours.state === 'sound' && /table offset invalid/.test(theirs.words),
  },
];

test(
  `qemu-img check says the same, seeds from ${SEED}, ${COUNT} images`,
  { timeout: 120_000 + 100 * COUNT },
  async () => {
    requireQemu();
    const failures: string[] = [];
    const explained = new Map(DIFFERENCES.map(({ name }) => [name, 0]));
    const states = { sound: 0, damaged: 0, refused: 0 };
    let compared = 0;
    for (let index = SEED; index < SEED + COUNT; index++) {
      const { bytes, changes } = mutantAt(index, mutationOf(index));
      if (isEncrypted(bytes)) continue;
      compared++;
      const ours = await whatWeSay(bytes);
      const theirs = whatQemuSays(bytes);
      states[ours.state]++;
      const agree = ours.state === theirs.state && (ours.state === 'refused' || ours.leaks === theirs.leaks);
      if (agree) continue;
      const reason = DIFFERENCES.find(({ explains }) => explains(ours, theirs));
      if (reason === undefined) {
        const said = `ours ${JSON.stringify(ours).slice(0, 500)}\n  theirs ${JSON.stringify(theirs).slice(0, 500)}`;
        failures.push(`SEED=${index} COUNT=1: ${changes.join('; ')}\n  ${said}`);
      } else explained.set(reason.name, explained.get(reason.name)! + 1);
    }
    const figures = [...explained].map(([name, count]) => `${name} ${count}`).join(', ');
    console.log(`compared ${compared} images with qemu-img check (${JSON.stringify(states)}): ${figures}`);
    if (failures.length > 0)
      expect.fail(`${failures.length} of ${compared}:\n${failures.slice(0, 5).join('\n')}`);
  },
);

test('every difference is in the documentation', () => {
  const documentation = readFileSync(new URL('../../docs/check.md', import.meta.url), 'utf8');
  for (const { name } of DIFFERENCES) expect(documentation).toContain(`| ${name} |`);
});

/** Every fourth image is valid, and every fourth has noise in it. */
function mutationOf(index: number): Parameters<typeof mutantAt>[1] {
  if (index % 4 === 0) return addNoise;
  return index % 4 === 1 ? unchanged : changeFields;
}

function unchanged(bytes: Uint8Array): Mutant {
  return { bytes, changes: [] };
}

/** QEMU checks an encrypted image only with its key, which those of the builder never had. */
function isEncrypted(bytes: Uint8Array): boolean {
  return bytes.length >= 36 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(32) !== 0;
}

async function whatWeSay(bytes: Uint8Array): Promise<Said> {
  const check = await ourCheck(bytes);
  if (typeof check === 'string') return { state: 'refused', leaks: 0, words: check };
  const { corruptions, leaks } = check;
  return { state: corruptions > 0 ? 'damaged' : 'sound', leaks, words: check.words.join('\n') };
}

function whatQemuSays(bytes: Uint8Array): Said {
  const path = directory.store('image', bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const hasDataFile = bytes.length >= 80 && view.getUint32(4) === 3 && (view.getUint32(76) & 4) !== 0;
  const options = {
    driver: 'qcow2',
    file: { driver: 'file', filename: path },
    backing: null,
    ...(hasDataFile ? { 'data-file': { driver: 'null-co', size: 2 ** 40 } } : {}),
  };
  const args = ['check', '--output=json', `json:${JSON.stringify(options)}`];
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  // 0 clean, 2 corruptions, 3 leaks; all else means that the check did not come to an end.
  if (status !== 0 && status !== 2 && status !== 3) return { state: 'refused', leaks: 0, words: stderr };
  const { corruptions = 0, leaks = 0 } = JSON.parse(stdout) as { corruptions?: number; leaks?: number };
  return { state: corruptions > 0 ? 'damaged' : 'sound', leaks, words: stderr };
}
