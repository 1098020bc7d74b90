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

case ${1:-} in
version) chroot "$CYRUS_ROOT" dpkg-query -W -f '${Version}\n' cyrus-common 2>/dev/null ;;
'') root_with Cyrus "$CYRUS_ROOT" usr/lib/cyrus/bin/master \
	cyrus-imapd cyrus-pop3d cyrus-common cyrus-admin sasl2-bin libsasl2-modules libsasl2-modules-db ;;
*) die "usage: cyrus.sh [version]" ;;
esac
