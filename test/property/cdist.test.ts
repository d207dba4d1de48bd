import { test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { compareGuestView, guestView, inspect, minimalClusterCount, refcountsLimitSharing } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';
test('dist', { timeout: 1e7 }, async () => {
  const S = Number(process.env.SEED ?? 1), N = Number(process.env.COUNT ?? 300);
  const dist: Record<string, number> = {}; const worst: string[] = [];
  for (let seed = S; seed < S + N; seed++) {
    const { bytes, description } = randomImage(seed, { compressed: true });
    const before = inspect(bytes);
    if (before.corruptions.length) { dist['badbuild'] = (dist['badbuild'] ?? 0) + 1; worst.push('bad build ' + before.corruptions[0]); continue; }
    const view = guestView(bytes), minimal = minimalClusterCount(bytes);
    const random = new Random(seed);
    const options = random.pick([{}, { maxMoves: 3 }, { roundBytes: 2048 }]);
    const device = new MemoryDevice(bytes);
    let key = '';
    try {
      const r = await compactDevice(device, { ...options, runtimeAsserts: true });
      const out = device.bytes(); const after = inspect(out);
      const diff = compareGuestView(view, out);
      if (after.corruptions.length) key = 'CORRUPT ' + after.corruptions[0];
      else if (diff) key = 'VIEW ' + diff;
      else if (after.leaks) key = 'LEAKS';
      else if (after.clusterCount > before.clusterCount) key = 'LONGER';
      else { const m2 = minimalClusterCount(out); key = `${refcountsLimitSharing(bytes) ? 'limited ' + (r.excessClusters > 0 ? 'EXCESS' : '') : ''}${JSON.stringify(options)} +${after.clusterCount - minimal} (${m2 - minimal}) order ${/"refcountOrder":(\d)/.exec(description)![1]}`; if (after.clusterCount - minimal > 1 && !refcountsLimitSharing(bytes)) worst.push(`${key} ${before.clusterCount} ${r.notices} ${description.slice(0, 200)}`); 
        const again = await compactDevice(device, options); if (again.outcome !== 'clean') { key += ' NOTCLEAN'; worst.push(key + description.slice(0,200)); } }
    } catch (e) { key = 'THREW ' + (e as Error).message; worst.push((e as Error).stack!.slice(0, 600) + description.slice(0, 200)); }
    if (/CORR|VIEW|LEAK|LONGER/.test(key)) worst.push(key + ' ' + JSON.stringify(options) + description.slice(0, 300));
    key = key.slice(0, 60);
    dist[key] = (dist[key] ?? 0) + 1;
  }
  console.log(dist); console.log(worst.slice(0, 12).join('\n'));
});
