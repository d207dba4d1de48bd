/** Reads the tables of a qcow2 image, plainly: the bench must not take the tool's word for what it measures. */
import fs from 'node:fs';

const OFFSET_MASK = 0x00fffffffffffe00n;
const COMPRESSED = 1n << 62n;

export class Tables {
  #fd;

  constructor(image) {
    this.#fd = fs.openSync(image, 'r');
    const header = this.read(0, 104);
    this.clusterBytes = 2 ** header.readUInt32BE(20);
    this.l1 = { offset: Number(header.readBigUInt64BE(40)), entries: header.readUInt32BE(36) };
    this.refcountTable = {
      offset: Number(header.readBigUInt64BE(48)),
      entries: (header.readUInt32BE(56) * this.clusterBytes) / 8,
    };
    this.snapshotCount = header.readUInt32BE(60);
    this.snapshotTable = Number(header.readBigUInt64BE(64));
  }

  static with(image, work) {
    const tables = new Tables(image);
    try {
      return work(tables);
    } finally {
      fs.closeSync(tables.#fd);
    }
  }

  read(offset, lengthBytes) {
    const bytes = Buffer.alloc(lengthBytes);
    fs.readSync(this.#fd, bytes, 0, lengthBytes, offset);
    return bytes;
  }

  /** Host offsets that a table's entries name; 0 for none, and for a compressed cluster. */
  entries({ offset, entries }) {
    const table = this.read(offset, entries * 8);
    return Float64Array.from({ length: entries }, (_, i) => {
      const entry = table.readBigUInt64BE(i * 8);
      return (entry & COMPRESSED) === 0n ? Number(entry & OFFSET_MASK) : 0;
    });
  }

  l2Entries(offset) {
    return this.entries({ offset, entries: this.clusterBytes / 8 });
  }

  /** L1 tables of the internal snapshots, and how long their table is. */
  snapshots() {
    const l1Tables = [];
    let at = this.snapshotTable;
    for (let i = 0; i < this.snapshotCount; i++) {
      const entry = this.read(at, 40);
      l1Tables.push({ offset: Number(entry.readBigUInt64BE(0)), entries: entry.readUInt32BE(8) });
      const length = 40 + entry.readUInt32BE(36) + entry.readUInt16BE(12) + entry.readUInt16BE(14);
      at += Math.ceil(length / 8) * 8;
    }
    return { l1Tables, lengthBytes: at - this.snapshotTable };
  }
}
