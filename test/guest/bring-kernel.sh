#!/usr/bin/env bash
# What the guest of the tests is made of, from the distribution's packages: a kernel with its modules, and a static
# busybox. Unpacked into a cache folder, not installed; 28 MB once. On other systems than Linux on x86-64 nothing.
set -euo pipefail

parts=${QCOW_COMPACT_GUEST:-${XDG_CACHE_HOME:-$(echo ~)/.cache}/qcow-compact/guest}
[ "$(uname -sm)" = 'Linux x86_64' ] || exit 0
compgen -G "$parts/boot/vmlinuz-*" >/dev/null && [ -x "$parts/bin/busybox" ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "bring-kernel: unpack linux-image-*-cloud-amd64 and busybox-static of Debian to $parts (boot/, lib/, bin/), else the tests of a guest are left out" >&2
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages" "$work/root"

# Debian's kernel for virtual machines, or Ubuntu's; packages of these names only name the one of today.
download() {
  local meta kernel='' modules
  for meta in linux-image-cloud-amd64 linux-image-virtual; do
    kernel=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$kernel" ] && break
  done
  [ -n "$kernel" ] || return 1
  # Ubuntu has the modules in a package of their own.
  modules=$(apt-cache depends "$kernel" | sed -n 's/^ *Depends: \(linux-modules-[0-9].*\)/\1/p' | head -n 1)
  # Of the superuser apt would download as the user _apt, who must not enter the folder.
  (cd "$work/packages" && apt-get -q -o APT::Sandbox::User=root download "$kernel" ${modules:+"$modules"} busybox-static)
}

if ! download; then
  # The lists of packages are missing, or older than the archive.
  if [ "$(id -u)" -eq 0 ]; then
    apt-get update
  elif ! command -v sudo >/dev/null || ! sudo apt-get update; then
    echo 'bring-kernel: as root, type: apt-get update; then try again' >&2
    exit 1
  fi
  download
fi

for package in "$work"/packages/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/root" --exclude='./usr/share'
done
mkdir -p "$parts/bin" "$parts/lib" "$parts/boot"
cp "$(compgen -G "$work/root/*bin/busybox" || compgen -G "$work/root/usr/bin/busybox")" "$parts/bin/"
cp -r "$work/root/lib/modules" "$parts/lib/"
# At last, and under its name only when it is whole: with it the rest is taken to be there.
kernel=$(compgen -G "$work/root/boot/vmlinuz-*")
cp "$kernel" "$parts/boot/new"
mv "$parts/boot/new" "$parts/boot/$(basename "$kernel")"
echo "bring-kernel: $(basename "$kernel") is in $parts" >&2
