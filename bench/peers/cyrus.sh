#!/bin/bash
# Cyrus IMAP in a root of its own, because its packages and Dovecot's exclude
# each other. Built once in CYRUS_ROOT and then used by every instance; nothing
# stays mounted there and nothing is started.
#
#   cyrus.sh            build it when it is not there
#   cyrus.sh version    print what is there
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

CYRUS_PACKAGES='cyrus-imapd cyrus-pop3d cyrus-common cyrus-admin sasl2-bin libsasl2-modules libsasl2-modules-db'

# base: a minimal Debian of the machine's own release; a half made one is made anew.
base() {
	[ ! -e "$CYRUS_ROOT/.base" ] || return 0
	# shellcheck disable=SC1091
	. /etc/os-release
	rm -rf --one-file-system "${CYRUS_ROOT:?}"
	mkdir -p "$CYRUS_ROOT"
	local mirror
	mirror=$(sed -n 's,^\(URIs:\|deb\) *\(\[[^]]*\] *\)\{0,1\}\(https\{0,1\}://[^ ]*/debian\)/\{0,1\}\( .*\)\{0,1\}$,\3,p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)
	nice debootstrap --variant=minbase "$VERSION_CODENAME" "$CYRUS_ROOT" "${mirror:-http://deb.debian.org/debian}" </dev/null >&2 || return 1
	touch "$CYRUS_ROOT/.base"
}

unmount() { umount "$CYRUS_ROOT/proc" 2>/dev/null || true; }

inside() { chroot "$CYRUS_ROOT" env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@" </dev/null >&2; }

# cyrus: its packages, with nothing started; /proc is there only meanwhile.
install_cyrus() {
	local k=0
	cp /etc/resolv.conf /etc/hosts "$CYRUS_ROOT/etc/" 2>/dev/null
	cp /etc/apt/apt.conf.d/*proxy* "$CYRUS_ROOT/etc/apt/apt.conf.d/" 2>/dev/null
	no_starts "$CYRUS_ROOT"
	trap 'unmount; starts_again' EXIT
	mountpoint -q "$CYRUS_ROOT/proc" || mount -t proc proc "$CYRUS_ROOT/proc" || say "no /proc inside; trying without"
	# shellcheck disable=SC2086
	retry 5 inside apt-get update && retry 3 inside nice apt-get install -y --no-install-recommends $CYRUS_PACKAGES || k=1
	inside apt-get clean
	unmount
	starts_again
	trap - EXIT
	return $k
}

version() { chroot "$CYRUS_ROOT" dpkg-query -W -f '${Version}\n' cyrus-common 2>/dev/null; }

case ${1:-} in
version) version ;;
'')
	[ ! -e "$CYRUS_ROOT/.ready" ] || exit 0
	[ "$(id -u)" = 0 ] || die "needs root to build $CYRUS_ROOT"
	packages debootstrap
	say "building Cyrus in $CYRUS_ROOT"
	retry 3 base || die "debootstrap failed"
	install_cyrus || die "cannot install Cyrus"
	[ -x "$CYRUS_ROOT/usr/lib/cyrus/bin/master" ] || die "no Cyrus master in $CYRUS_ROOT"
	touch "$CYRUS_ROOT/.ready"
	;;
*) die "usage: cyrus.sh [version]" ;;
esac
