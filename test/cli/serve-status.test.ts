/** What a server tells of itself. */
import { expect, test } from 'vitest';
import { type StatusFacts, statusLines } from '../../src/cli/serve-status.js';

const image = {
  ...{ fileBytes: 3 << 20, junkBytes: 1 << 20, erasedBytes: 0, availableBytes: 512, movesUnderWay: 2 },
  ...{
    clustersMoved: 1,
    bytesReclaimed: 5 << 20,
    fixedBytes: 0,
    isCompacting: false,
    failure: null,
    failures: 0,
  },
};
const facts: StatusFacts = {
  ...{ path: 'vm\n.qcow2', sizeBytes: 1 << 30, readOnly: false, image },
  ...{ clients: 1, requests: 1, bytesRead: 0, bytesWritten: 4096 },
};

test('a disk at rest', () => {
  expect(statusLines(facts)).toBe(`vm\\n.qcow2: serving 1.0 GiB
  file       3.0 MiB
  junk       1.0 MiB
  erased     0 B
  available  512 B
  moves      2 under way, 1 cluster moved
  reclaimed  5.0 MiB
  clients    1; 1 request, 0 B read, 4.0 KiB written`);
});

test('that it compacts, and what failed', () => {
  const failure = { code: 'IO', message: 'cannot write' };
  const lines = statusLines({ ...facts, image: { ...image, isCompacting: true, failure, failures: 2 } });
  expect(lines).toMatch(/^vm\\n\.qcow2: serving 1\.0 GiB, compacting\n/);
  expect(lines).toContain('\n  failure    cannot write (2 failures)\n');
});

test('a disk that is only read', () => {
  expect(statusLines({ ...facts, readOnly: true, image: null })).toBe(`vm\\n.qcow2: serving 1.0 GiB, read-only
  clients  1; 1 request, 0 B read, 4.0 KiB written`);
});
