/** What a round of moving compressed extents copies: whole sectors, neighbours in one piece. */
import { SECTOR } from '../device/block-device.js';
import type { Extents } from '../image/extents.js';

/** Bytes of one copy, unless an extent is longer: that is not cut. */
export const PIECE_BYTES = 1 << 20;

export interface Piece {
  from: number;
  to: number;
  lengthBytes: number;
}

/** Extents, ascending, that move together. */
export interface ExtentMoves {
  extents: Extents;
  moving: Uint32Array;
  /** Host offset of each extent of the image now, and afterwards: at the same place within a sector. */
  from: Float64Array;
  to: Float64Array;
}

/**
 * Where two extents share a sector both copies of it are the same, so that it does not matter which comes last, nor
 * that the one before may be in use already.
 */
export function* piecesOf({ extents, moving, from, to }: ExtentMoves): Iterable<Piece> {
  let piece: Piece | null = null;
  for (const extent of moving) {
    const within = from[extent]! % SECTOR;
    const start = from[extent]! - within;
    const end = from[extent]! + extents.lengths[extent]!;
    const target = to[extent]! - within;
    const joins =
      piece !== null &&
      target - start === piece.to - piece.from &&
      start >= piece.from &&
      start <= piece.from + piece.lengthBytes &&
      end - piece.from <= PIECE_BYTES;
    if (piece !== null && joins) {
      piece.lengthBytes = Math.max(piece.lengthBytes, end - piece.from);
      continue;
    }
    if (piece !== null) yield piece;
    piece = { from: start, to: target, lengthBytes: end - start };
  }
  if (piece !== null) yield piece;
}
