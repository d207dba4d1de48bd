import { describe, expect, test } from 'vitest';
import { NO_COLORS } from '../../src/cli/colors.js';
import type { Finished } from '../../src/cli/outcome.js';
import { reportLines } from '../../src/cli/report.js';
import { fakeCheck, fakeCompact, fakeErase, fakePlan, fakeRepair } from './fake-results.js';

function report(finished: Finished, path = 'image.qcow2'): string {
  return reportLines(path, finished, NO_COLORS);
}

describe('a compaction', () => {
  test('says sizes, gain, bytes moved and time', () => {
    expect(report({ mode: 'compact', result: fakeCompact() })).toBe(
      'image.qcow2: 10.0 GiB -> 4.2 GiB (reclaimed 5.8 GiB, 58%), moved 3.1 GiB in 4.2 s',
    );
  });

  test('names leaks and the pool where there are any', () => {
    const result = fakeCompact({ leaksReclaimed: 1, clustersErased: 100 });
    expect(report({ mode: 'compact', result })).toBe(
      'image.qcow2: 10.0 GiB -> 4.2 GiB (reclaimed 5.8 GiB, 58%), moved 3.1 GiB in 4.2 s, ' +
        '1 leaked cluster freed, 100 erased clusters kept',
    );
  });

  test('of a compact image says so', () => {
    const result = fakeCompact({ outcome: 'clean', lengthBefore: 4096, lengthAfter: 4096, bytesMoved: 0 });
    expect(report({ mode: 'compact', result })).toBe('image.qcow2: 4.0 KiB, already compact');
  });

  test('of an image that stays too long does not call it compact', () => {
    const changes = { lengthBefore: 4096, lengthAfter: 4096, bytesMoved: 0, excessClusters: 3 };
    expect(report({ mode: 'compact', result: fakeCompact({ outcome: 'clean', ...changes }) })).toBe(
      'image.qcow2: 4.0 KiB, nothing more can be moved, 3 clusters too long',
    );
  });

  test('that was interrupted says what was kept', () => {
    const result = fakeCompact({ outcome: 'interrupted' });
    expect(report({ mode: 'compact', result })).toBe(
      'image.qcow2: interrupted: 10.0 GiB -> 4.2 GiB (reclaimed 5.8 GiB, 58%), moved 3.1 GiB in 4.2 s; ' +
        'the image is valid and what was gained is kept; run again to go on',
    );
  });

  test('that ran out of time says what is left', () => {
    const result = fakeCompact({
      outcome: 'out-of-time',
      bytesLeftToReclaim: 1.5 * 1024 ** 3,
      bytesLeftToMove: 1024 ** 3,
    });
    expect(report({ mode: 'compact', result })).toBe(
      'image.qcow2: out of time: 10.0 GiB -> 4.2 GiB (reclaimed 5.8 GiB, 58%), moved 3.1 GiB in 4.2 s; ' +
        '1.5 GiB left to reclaim, 1.0 GiB to move; ' +
        'the image is valid and what was gained is kept; run again to go on',
    );
  });

  test('that passed a gain up says so in one line, and what was repaired before', () => {
    const gib = 1024 ** 3;
    const result = fakeCompact({
      outcome: 'below-threshold',
      lengthAfter: 10 * gib,
      bytesLeftToReclaim: gib / 2,
    });
    const line = 'image.qcow2: 10.0 GiB, left alone: 512.0 MiB (5.0%) to reclaim is below the threshold';
    expect(report({ mode: 'compact', result })).toBe(line);
    // A threshold of 50% was not met.
    const nearly = { ...result, bytesLeftToReclaim: 5 * gib - 1 };
    expect(report({ mode: 'compact', result: nearly })).toContain('(49.9%)');
    const repaired = {
      ...{ corruptionsFound: 2, leaksFound: 0, refcountsRebuilt: true, flagsChanged: 0 },
      marksCleared: [],
    };
    expect(report({ mode: 'compact', result: { ...result, repaired } })).toBe(`${line}, repaired 2 errors`);
  });

  test('that made the file longer does not claim a gain', () => {
    const result = fakeCompact({ lengthBefore: 4096, lengthAfter: 4608 });
    expect(report({ mode: 'compact', result })).toContain('(512 B longer)');
  });

  test('prints a name with control characters on one line', () => {
    expect(report({ mode: 'compact', result: fakeCompact({ outcome: 'clean' }) }, 'a\n\x1b[1m')).toMatch(
      /^a\\n\\x1b\[1m: [^\n]*$/,
    );
  });
});

describe('an erasure', () => {
  test('says how many clusters and how', () => {
    expect(report({ mode: 'erase', result: fakeErase() })).toBe(
      'image.qcow2: erased 1000 clusters (62.5 MiB), 800 by writing zeroes, 200 already holes, in 1.5 s',
    );
  });

  test('by punching says so', () => {
    expect(report({ mode: 'erase', result: fakeErase({ method: 'punch' }) })).toContain(
      '800 by deallocating host blocks',
    );
  });

  test('with nothing to do says so', () => {
    expect(report({ mode: 'erase', result: fakeErase({ outcome: 'clean' }) })).toBe(
      'image.qcow2: nothing to erase',
    );
  });

  test('that ran out of time says what is left', () => {
    expect(report({ mode: 'erase', result: fakeErase({ outcome: 'out-of-time', clustersLeft: 1 }) })).toMatch(
      /^image\.qcow2: out of time: erased 1000 clusters .*; 1 cluster left to erase; the image is valid/,
    );
  });
});

test('a dry run gives every figure, exactly too', () => {
  expect(report({ mode: 'plan', result: fakePlan({ lengthAfter: 4 * 1024 ** 3 }) })).toBe(
    [
      'image.qcow2: 10.0 GiB -> 4.0 GiB (would reclaim 6.0 GiB, 60%)',
      '  length before  10.0 GiB (10737418240 bytes)',
      '  length after   4.0 GiB (4294967296 bytes)',
      '  cluster size   64.0 KiB (65536 bytes)',
      '  clusters       163840',
      '  live           68813',
      '  junk           95027',
      '  leaked         3',
      '  to move        50790',
      '  to copy        3.1 GiB (3328573440 bytes)',
    ].join('\n'),
  );
});

describe('a check speaks as qemu-img check does', () => {
  test('of a clean image', () => {
    expect(report({ mode: 'check', result: fakeCheck() })).toBe(
      'image.qcow2:\nNo errors were found on the image.',
    );
  });

  test('of an image with leaks', () => {
    const result = fakeCheck({ leaks: 2, findings: ['Leaked cluster 5 refcount=1 reference=0'] });
    expect(report({ mode: 'check', result })).toBe(
      [
        'image.qcow2:',
        'Leaked cluster 5 refcount=1 reference=0',
        '... and 1 more',
        '2 leaked clusters were found on the image.',
        'This means waste of disk space, but no harm to data.',
      ].join('\n'),
    );
  });

  test('of a corrupt image', () => {
    const result = fakeCheck({ corruptions: 1, findings: ['ERROR cluster 5 refcount=0 reference=1'] });
    expect(report({ mode: 'check', result })).toBe(
      [
        'image.qcow2:',
        'ERROR cluster 5 refcount=0 reference=1',
        '1 errors were found on the image.',
        'Data may be corrupted, or further writes to the image may corrupt it.',
      ].join('\n'),
    );
  });
});

describe('a repair', () => {
  test('says what was found, what was done and what is there now', () => {
    const findings = ['ERROR cluster 5 refcount=0 reference=1'];
    const result = fakeRepair({ findings, marksCleared: ['dirty', 'corrupt'] });
    expect(report({ mode: 'repair', result })).toBe(
      [
        'image.qcow2:',
        'ERROR cluster 5 refcount=0 reference=1',
        '... and 6 more',
        'Repaired: 5 errors and 2 leaked clusters, the mark `dirty` cleared, the mark `corrupt` cleared.',
        'No errors were found on the image.',
      ].join('\n'),
    );
  });

  test('of a sound image found nothing', () => {
    const result = fakeRepair({ outcome: 'clean', corruptionsFound: 0, leaksFound: 0 });
    expect(report({ mode: 'repair', result })).toBe('image.qcow2:\nNo errors were found on the image.');
  });

  test('of counts that no check sees', () => {
    const result = fakeRepair({ corruptionsFound: 0, leaksFound: 0 });
    expect(report({ mode: 'repair', result })).toContain('Repaired: refcounts beyond the end of the file.');
  });

  test('that left leaks says so', () => {
    const result = fakeRepair({ what: 'leaks', corruptionsFound: 0, leaks: 1 });
    expect(report({ mode: 'repair', result })).toContain('1 leaked clusters were found on the image.');
  });

  test('that ran out of time says how to go on', () => {
    const result = fakeRepair({ outcome: 'out-of-time', corruptions: 5 });
    expect(report({ mode: 'repair', result })).toMatch(/\nOut of time; repair it again to go on\.$/);
  });

  test('that was interrupted does not speak of a result', () => {
    const result = fakeRepair({ outcome: 'interrupted', corruptions: 5 });
    expect(report({ mode: 'repair', result })).toBe('image.qcow2:\nInterrupted; repair it again to go on.');
  });

  test('before a compaction is told in its line', () => {
    const { corruptionsFound, leaksFound, refcountsRebuilt, flagsChanged } = fakeRepair({ leaksFound: 0 });
    const repaired = { corruptionsFound, leaksFound, refcountsRebuilt, flagsChanged, marksCleared: [] };
    expect(report({ mode: 'compact', result: fakeCompact({ repaired }) })).toMatch(
      /in 4\.2 s, repaired 5 errors$/,
    );
  });
});
