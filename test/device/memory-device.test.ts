import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';

describe('a memory device', () => {
  test('reads back what was written, and zeroes beyond the end', async () => {
    const device = new MemoryDevice(Uint8Array.of(1, 2, 3));
    await device.write(Uint8Array.of(9), 1);
    const target = new Uint8Array(5).fill(7);
    await device.read(target, 1);
    expect([...target]).toEqual([9, 3, 0, 0, 0]);
  });

  test('does not share memory with its initial content or with the copies it gives', async () => {
    const initial = Uint8Array.of(1);
    const device = new MemoryDevice(initial);
    initial[0] = 2;
    device.bytes()[0] = 3;
    expect([...device.bytes()]).toEqual([1]);
  });

  test('grows by a write beyond the end, with zeroes between', async () => {
    const device = new MemoryDevice(Uint8Array.of(1));
    await device.write(Uint8Array.of(2), 2000);
    expect(device.lengthBytes).toBe(2001);
    expect(
      device
        .bytes()
        .subarray(1, 2000)
        .every((byte) => byte === 0),
    ).toBe(true);
    expect(device.bytes()[2000]).toBe(2);
  });

  test('an empty write beyond the end does not grow it', async () => {
    const device = new MemoryDevice();
    await device.write(new Uint8Array(0), 100);
    expect(device.lengthBytes).toBe(0);
  });

  test('bytes that a truncation cut off read as zeroes when the file grows again', async () => {
    const device = new MemoryDevice(new Uint8Array(2048).fill(1));
    await device.truncate(700);
    await device.truncate(2048);
    expect(
      device
        .bytes()
        .subarray(0, 700)
        .every((byte) => byte === 1),
    ).toBe(true);
    expect(
      device
        .bytes()
        .subarray(700)
        .every((byte) => byte === 0),
    ).toBe(true);
    expect(device.dataExtent(0, 2048)).toEqual({ start: 0, end: 1024 });
  });

  test('knows its holes by sector', async () => {
    const device = new MemoryDevice();
    await device.truncate(4096);
    await device.write(new Uint8Array(600), 1024);
    expect(device.dataExtent(0, 4096)).toEqual({ start: 1024, end: 2048 });
    expect(device.dataExtent(1300, 1400)).toEqual({ start: 1300, end: 1400 });
    expect(device.dataExtent(0, 1024)).toBeNull();
    expect(device.dataExtent(2048, 4096)).toBeNull();
    expect(device.dataExtent(8192, 9000)).toBeNull();
    expect(device.allocatedBytes()).toBe(1024);
  });

  test('a punched range reads as zeroes, and its whole sectors become a hole', async () => {
    const device = new MemoryDevice(new Uint8Array(2048).fill(1));
    await device.punch(100, 1436);
    expect(
      device
        .bytes()
        .subarray(100, 1536)
        .every((byte) => byte === 0),
    ).toBe(true);
    expect(device.bytes()[99]).toBe(1);
    expect(device.bytes()[1536]).toBe(1);
    expect(device.dataExtent(0, 2048)).toEqual({ start: 0, end: 512 });
    expect(device.dataExtent(512, 2048)).toEqual({ start: 1536, end: 2048 });
  });

  test('refuses to punch where it was told that it cannot', async () => {
    const device = new MemoryDevice(new Uint8Array(512), { canPunch: false });
    await expect(device.punch(0, 512)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  });
});
