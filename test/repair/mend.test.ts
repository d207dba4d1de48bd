import { expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { openImage } from '../../src/image/image.js';
import { walk } from '../../src/image/walk.js';
import { diagnose } from '../../src/repair/diagnosis.js';
import { marksOf } from '../../src/repair/marks.js';
import { mend } from '../../src/repair/mend.js';
import { damage } from '../support/damage.js';
import { image } from '../support/image-builder.js';
import { Random } from '../support/random.js';

test('the marks stay where the check of the repaired image does not pass', async () => {
  const sound = image({ virtualSize: 64 << 10, seed: 7 })
    .writeRange(0, 12)
    .build();
  const device = new MemoryDevice(damage(new Random(1), sound, ['lowerCounts', 'dirty', 'corrupt']).bytes);
  const opened = await openImage(device, { forRepair: true });
  await walk(opened);
  const marks = marksOf(opened.header);
  expect(marks).toEqual(['dirty', 'corrupt']);
  const verify = () => Promise.reject(new Error('not clean'));
  const mended = mend(opened, await diagnose(opened), marks, { stopped: () => false, verify });
  await expect(mended).rejects.toThrow('not clean');
  expect(marksOf((await openImage(device, { forRepair: true })).header)).toEqual(marks);
});
