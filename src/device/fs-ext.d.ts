/** The part of fs-ext 2 that is used here; the package brings no types of its own. */
declare module 'fs-ext' {
  interface Constants {
    readonly F_RDLCK: number;
    readonly F_WRLCK: number;
    readonly F_UNLCK: number;
    readonly SEEK_SET: number;
    readonly SEEK_CUR: number;
    readonly SEEK_END: number;
  }

  interface StatVfs {
    f_frsize?: number;
    f_bsize: number;
    f_blocks: number;
    f_bavail: number;
    f_bfree: number;
  }

  interface FsExt {
    readonly constants: Constants;
    /**
     * POSIX lock on the whole file (start 0, length 0), never waiting; fails with `code` EAGAIN or EACCES
     * where another process holds a conflicting one. `flag` is F_RDLCK, F_WRLCK or F_UNLCK.
     * Only this callback form works: in fs-ext 2.1 `fcntlSync` fails with EFAULT for every lock command,
     * and `getlk` returns nothing of use.
     */
    fcntl(
      fd: number,
      command: 'setlk',
      flag: number,
      callback: (error: NodeJS.ErrnoException | null, result?: number) => void,
    ): void;
    /** The lock of BSD, of folders too; never waits with `exnb`, and fails with `code` EAGAIN then. */
    flock(fd: number, flags: 'exnb', callback: (error: NodeJS.ErrnoException | null) => void): void;
    /**
     * lseek: returns the new position. whence 0, 1, 2 as in SEEK_*; 3 finds data and 4 holes on Linux
     * (on macOS 4 is data and 3 is holes); throws with `code` ENXIO beyond the last data.
     */
    seekSync(fd: number, offset: number, whence: number): number;
    statVFS(path: string): StatVfs;
  }

  export const constants: FsExt['constants'];
  export const fcntl: FsExt['fcntl'];
  export const flock: FsExt['flock'];
  export const seekSync: FsExt['seekSync'];
  export const statVFS: FsExt['statVFS'];
  const fsExt: FsExt;
  export default fsExt;
}
