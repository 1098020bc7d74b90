#!/bin/bash
# Courier's IMAP and POP3 servers (not its MTA) in a root of their own, because
# their packages and Dovecot's exclude each other. Built once in COURIER_ROOT
# and then used by every instance; nothing stays mounted there and nothing is
# started: an instance has its own /etc/courier and /run/courier, which are fixed
# in Courier, mounted over these in a mount namespace. msmtp-mta is the smallest package that satisfies "some MTA".
#
#   courier.sh            build it when it is not there
#   courier.sh version    print what is there
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

# mail_owner: the owner of all mail in tests (internal/mailtest) needs a name
# here, or the file monitor of Courier's locks does not start.
mail_owner() {
	chroot "$COURIER_ROOT" id 5000 >/dev/null 2>&1 ||
		chroot "$COURIER_ROOT" useradd --no-create-home --uid 5000 --user-group --shell /usr/sbin/nologin mailferry
}

case ${1:-} in
version) chroot "$COURIER_ROOT" dpkg-query -W -f '${Version}\n' courier-imap 2>/dev/null ;;
'') root_with Courier "$COURIER_ROOT" usr/bin/imapd \
	courier-imap courier-pop courier-authdaemon courier-authlib courier-authlib-pipe courier-base msmtp-mta &&
	mkdir -p "$COURIER_ROOT/run/courier" && mail_owner ;;
*) die "usage: courier.sh [version]" ;;
esac
