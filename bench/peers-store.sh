#!/usr/bin/env bash
# Mail store peers for measurement: Dovecot 2.3 (sdbox, maildir, mdbox; fsync
# optimized or always) and Cyrus IMAP 3.6 (in a chroot, because its Debian
# packages conflict with Dovecot's), all on loopback.
#
#   peers-store.sh install            packages, and a debootstrap chroot for Cyrus
#   peers-store.sh up PEER...         start (creates the store on first use)
#   peers-store.sh down [PEER...]     stop
#   peers-store.sh wipe PEER...       stop and delete the store
#   peers-store.sh bench PEER... [-- PHASE...]   measure; lines go to RUN/results/PEER.jsonl
#   peers-store.sh syscalls PEER...   count fsync and friends per delivery (strace)
#   peers-store.sh limits             physical limits of this machine
#   peers-store.sh report [FILTER]    Markdown tables of all results
#   peers-store.sh env PEER           print addresses and the PID file of a peer
#   peers-store.sh gen PEER COMMAND [flags]   one run of the generator, addresses filled in
#
# PEER: dovecot-sdbox dovecot-maildir dovecot-mdbox, the same with -always
# (mail_fsync=always), dovecot-mdbox-zstd (bodies compressed by its zlib plugin),
# cyrus, cyrus-nodup (duplicate suppression off).
# A further server is measured with the same phases by setting PEER_IMAP,
# PEER_LMTP, PEER_POP3, PEER_PID (PID or @FILE), PEER_STORE (its directory) and
# PEER_FLAGS (more flags for the generator), and naming it custom-NAME; see
# storeload/README.md.
#
# Variables (all optional):
#   RUN         run directory                      (default ${TMPDIR:-/tmp}/peers-store)
#   CYRUS_ROOT  chroot holding Cyrus               (default the one of peers/install.sh)
#   CORPUS      tree of *.json/*.eml messages      (default the one of peers/install.sh)
#   PORT0       first port                         (default 24000)
#   LOCK        lock file held during timed runs   (default $RUN/lock)
#   HOLD        longest time the lock is kept while other work waits, seconds (default 110)
#   RUNS        runs per case                      (default 3)
#   SECS        seconds of each rate test          (default 8)
#   CONNS       connections of phase deliver       (default 1 8 32 64)
#   NICE        nice value of servers and generator (default 0; root may use -15 on a busy machine)
#   BIG         messages in the largest mailbox    (default 100000)
#   MAXOTHER    repeat a run if other programs used more than this % of the CPUs (default 25:
#               kernel threads working for the server count as others)
#   ONLY        run only the cases whose name matches this extended regular expression
#   QUICKACK    1: the client acknowledges every segment at once; lines are labelled PEER+quickack
#   TUNED       1: Dovecot IMAP processes serve many logins one after the other (default 1)
set -u
HERE=$(cd "$(dirname "$0")" && pwd)
RUN=${RUN:-${TMPDIR:-/tmp}/peers-store}
eval "$(bash -c '. "$1/peers/lib.sh" && printf "CYRUS_ROOT=%q CORPUS=%q" "$CYRUS_ROOT" "$CORPUS"' - "$HERE")"
export CYRUS_ROOT CORPUS
PORT0=${PORT0:-24000}
LOCK=${LOCK:-$RUN/lock}
RUNS=${RUNS:-3}
SECS=${SECS:-8}
NICE=${NICE:-0}
BIG=${BIG:-100000}
MAXOTHER=${MAXOTHER:-25}
HOLD=${HOLD:-110}
CONNS=${CONNS:-1 8 32 64}
TUNED=${TUNED:-1}
QUICKACK=${QUICKACK:-}
SUF=; GENFLAGS=
[ -n "$QUICKACK" ] && SUF=+quickack GENFLAGS=-quickack
ALL="dovecot-sdbox dovecot-maildir dovecot-mdbox dovecot-sdbox-always dovecot-maildir-always dovecot-mdbox-always cyrus cyrus-nodup dovecot-mdbox-zstd"
LOAD=$RUN/bin/storeload
[ -d /usr/local/go/bin ] && PATH=$PATH:/usr/local/go/bin
mkdir -p "$RUN/results" "$RUN/bin"

die() { echo "peers-store: $*" >&2; exit 1; }
say() { echo "[$(date +%H:%M:%S)] $*" >&2; }

build() {
  [ -x "$LOAD" ] && [ -z "$(find "$HERE/storeload" -name '*.go' -newer "$LOAD" 2>/dev/null)" ] && return
  (cd "$HERE/storeload" && go build -o "$LOAD" .) || die "cannot build the generator (Go 1.22 or later needed; Debian 12's own is too old)"
}

# ---- addresses -------------------------------------------------------------
peer() { # sets P, IMAP, POP3, LMTP, PIDF, STORE for a peer name
  P=$1 EXTRA=
  local i=0 x
  case $P in
  custom-*)
    IMAP=${PEER_IMAP:?}; EXTRA=${PEER_FLAGS:-}; POP3=${PEER_POP3:-}; LMTP=${PEER_LMTP:-}; PIDF=${PEER_PID:-0}; STORE=${PEER_STORE:-}
    return ;;
  esac
  for x in $ALL; do [ "$x" = "$P" ] && break; i=$((i + 1)); done
  [ "$x" = "$P" ] || die "unknown peer $P (know: $ALL)"
  local b=$((PORT0 + 10 * i))
  IMAP=127.0.0.1:$((b + 3)); POP3=127.0.0.1:$((b + 4)); LMTP=127.0.0.1:$((b + 5))
  case $P in
  dovecot-*) D=$RUN/$P; PIDF=@$D/run/master.pid; STORE=$D/home ;;
  cyrus*) IN=/var/peers-store/$P; D=$CYRUS_ROOT$IN; PIDF=@$D/run/master.pid; STORE=$D ;;
  esac
}

alive() { local f=${PIDF#@}; [ -s "$f" ] && kill -0 "$(cat "$f" 2>/dev/null | tr -d ' \n')" 2>/dev/null; }

wait_port() { # host:port
  local k
  for k in $(seq 200); do
    (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null && return 0
    sleep 0.1
  done
  return 1
}

# ---- installation ----------------------------------------------------------
install_all() {
  [ "$(id -u)" = 0 ] || die "install needs root"
  command -v go >/dev/null || die "install Go first (Debian 12's golang-go is too old)"
  bash -c '. "$1/peers/lib.sh" && packages dovecot-core dovecot-imapd dovecot-pop3d dovecot-lmtpd strace' - "$HERE" &&
    "$HERE/peers/install.sh" cyrus corpus || die "installation failed"
  build
  say "installed: $(dovecot --version), Cyrus in $CYRUS_ROOT, $(find "$CORPUS" -type f | wc -l) corpus files"
}

# ---- Dovecot ---------------------------------------------------------------
dovecot_conf() {
  local fmt=${P#dovecot-} fsync=optimized count=1 plugins=
  case $fmt in
  *-always) fsync=always; fmt=${fmt%-always} ;;
  *-zstd) plugins=zlib; fmt=${fmt%-zstd} ;;
  esac
  [ "$TUNED" = 1 ] && count=1000
  local loc="$fmt:~/mail"
  [ "$fmt" = maildir ] && loc="maildir:~/Maildir"
  cat <<CONF
base_dir = $D/run
state_dir = $D/state
instance_name = $P
log_path = $D/dovecot.log
listen = 127.0.0.1
protocols = imap pop3 lmtp
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = $loc
mail_fsync = $fsync
mail_uid = 5000
mail_gid = 5000
first_valid_uid = 5000
mail_max_userip_connections = 0
mail_plugins = $plugins
plugin {
  zlib_save = zstd
}
default_client_limit = 4000
default_process_limit = 200
passdb {
  driver = static
  args = password=test
}
userdb {
  driver = static
  args = uid=5000 gid=5000 home=$STORE/%u allow_all_users=yes
}
namespace inbox {
  inbox = yes
  separator = /
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  vsz_limit = 1 G
  inet_listener imap {
    port = ${IMAP#*:}
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {
    port = ${POP3#*:}
  }
  inet_listener pop3s {
    port = 0
  }
}
service imap {
  service_count = $count
  process_limit = 4000
  vsz_limit = 4 G
}
service auth {
  client_limit = 19000
}
service anvil {
  client_limit = 19000
}
service pop3 {
  service_count = $count
  vsz_limit = 4 G
}
service lmtp {
  process_min_avail = 4
  inet_listener lmtp {
    address = 127.0.0.1
    port = ${LMTP#*:}
  }
}
CONF
}

dovecot_up() {
  mkdir -p "$D/run" "$D/state" "$STORE"
  chown 5000:5000 "$STORE"
  dovecot_conf >"$D/dovecot.conf"
  # Not on our stdout: a pipe behind this script would never see its end.
  nice -n "$NICE" dovecot -c "$D/dovecot.conf" </dev/null >"$D/start.log" 2>&1 9>&- || die "dovecot does not start: $(tail -3 "$D/start.log")"
}

# ---- Cyrus -----------------------------------------------------------------
cyrus_conf() {
  local dup=yes
  [ "$P" = cyrus-nodup ] && dup=no
  cat >"$D/imapd.conf" <<CONF
configdirectory: $IN/conf
partition-default: $IN/spool
defaultpartition: default
proc_path: $IN/run/proc
mboxname_lockpath: $IN/run/lock
idlesocket: $IN/run/idle
lmtpsocket: $IN/run/lmtp
notifysocket: $IN/run/notify
sieveusehomedir: no
sievedir: $IN/sieve
admins: cyrus
allowplaintext: yes
sasl_mech_list: PLAIN LOGIN
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: $IN/sasldb2
unixhierarchysep: yes
altnamespace: yes
virtdomains: off
lmtp_downcase_rcpt: yes
duplicatesuppression: $dup
maxlogins_per_host: 0
maxlogins_per_user: 0
popminpoll: 0
CONF
  cat >"$D/cyrus.conf" <<CONF
START {
  recover cmd="/usr/sbin/cyrus ctl_cyrusdb -C $IN/imapd.conf -r"
  idled cmd="idled -C $IN/imapd.conf"
}
SERVICES {
  imap cmd="imapd -C $IN/imapd.conf" listen="$IMAP" proto="tcp4" prefork=8 maxchild=4000
  pop3 cmd="pop3d -C $IN/imapd.conf" listen="$POP3" proto="tcp4" prefork=2 maxchild=500
  lmtp cmd="lmtpd -C $IN/imapd.conf -a" listen="$LMTP" proto="tcp4" prefork=4 maxchild=500
}
EVENTS {
  checkpoint cmd="/usr/sbin/cyrus ctl_cyrusdb -C $IN/imapd.conf -c" period=30
}
CONF
}

in_cyrus() { chroot "$CYRUS_ROOT" "$@"; }

cyrus_up() {
  [ -x "$CYRUS_ROOT/usr/sbin/cyrmaster" ] || die "no Cyrus in $CYRUS_ROOT (run install, or set CYRUS_ROOT)"
  local fresh=0 u
  [ -d "$D/conf" ] || fresh=1
  mkdir -p "$D"/conf/{db,log,msg,proc,quota,socket,user} "$D/spool" "$D/run" "$D/sieve"
  # proc and lock files belong on a memory file system, as /run is.
  mountpoint -q "$D/run" || mount -t tmpfs -o size=64m,mode=755 tmpfs "$D/run"
  mkdir -p "$D/run/proc" "$D/run/lock"
  cyrus_conf
  if [ $fresh = 1 ]; then
    in_cyrus chown -R cyrus:mail "$IN"
    for u in cyrus $(seq -f 'u%03g' 1 100) $(seq -f 'p%03g' 1 8); do
      echo test | in_cyrus saslpasswd2 -p -c -f "$IN/sasldb2" "$u" || die "saslpasswd2 $u"
    done
  fi
  in_cyrus chown -R cyrus:mail "$IN/run" "$IN/sasldb2"
  nice -n "$NICE" chroot "$CYRUS_ROOT" /usr/sbin/cyrmaster -C "$IN/imapd.conf" -M "$IN/cyrus.conf" -p "$IN/run/master.pid" -l 512 -d </dev/null >"$D/start.log" 2>&1 9>&- || die "cyrmaster does not start: $(tail -3 "$D/start.log")"
  wait_port "$IMAP" || die "$P: no IMAP on $IMAP"
  if [ $fresh = 1 ]; then
    "$LOAD" setup -imap "$IMAP" -users 100 -create 'user/%s' >&2
    "$LOAD" setup -imap "$IMAP" -users 8 -user-format 'p%03d' -create 'user/%s' >&2
  fi
}

# ---- control ---------------------------------------------------------------
up() {
  build
  peer "$1"
  case $P in custom-*) return ;; esac
  alive && { say "$P already runs"; return; }
  case $P in dovecot-*) dovecot_up ;; cyrus*) cyrus_up ;; esac
  wait_port "$IMAP" && wait_port "$LMTP" && wait_port "$POP3" || die "$P does not listen"
  say "$P is up: imap $IMAP pop3 $POP3 lmtp $LMTP pid $(cat "${PIDF#@}")"
}

down() {
  peer "$1"
  case $P in custom-*) return ;; esac
  local k
  if alive; then
    kill "$(tr -d ' \n' <"${PIDF#@}")"
    for k in $(seq 100); do alive || break; sleep 0.1; done
    say "$P is down"
  fi
  case $P in cyrus*) sleep 0.5; mountpoint -q "$D/run" && umount -l "$D/run" ;; esac
}

wipe() {
  down "$1"
  peer "$1"
  case $P in
  dovecot-*) rm -rf "${RUN:?}/$P" ;;
  cyrus*) rm -rf "${CYRUS_ROOT:?}/var/peers-store/$P" ;;
  esac
}

# ---- measurement -----------------------------------------------------------
HELD=
lock() { # take the lock, or pass it on after HOLD seconds and take it again
  if [ -n "$HELD" ] && [ $((SECONDS - HELD)) -ge "$HOLD" ]; then unlock; sleep 0.3; fi
  [ -n "$HELD" ] && return
  exec 9>"$LOCK"
  flock 9
  HELD=$SECONDS
}
unlock() { [ -n "$HELD" ] && exec 9>&-; HELD=; }

# quiet: wait up to 15 s until other programs leave the CPUs alone.
quiet() {
  local k a b
  for k in $(seq 30); do
    a=$(awk '/^cpu /{print $2+$3+$4+$7+$8, $2+$3+$4+$5+$6+$7+$8+$9; exit}' /proc/stat); sleep 0.5
    b=$(awk '/^cpu /{print $2+$3+$4+$7+$8, $2+$3+$4+$5+$6+$7+$8+$9; exit}' /proc/stat)
    [ "$(echo "$a $b" | awk '{d=$4-$2; print (d > 0 ? int(100*($3-$1)/d) : 0)}')" -le "$MAXOTHER" ] && return
  done
}

# gen_raw CASE COMMAND [flags]: one line from the generator.
gen_raw() {
  local kase=$1 cmd=$2; shift 2
  # shellcheck disable=SC2086
  nice -n "$NICE" "$LOAD" "$cmd" -peer "$P$SUF" -case "$kase" $GENFLAGS $EXTRA \
    -imap "$IMAP" -lmtp "$LMTP" -pop3 "$POP3" -server-pid "$PIDF" -corpus "$CORPUS" "$@"
}

# gen: RUNS quiet runs (with at most two more tries), under the lock.
gen() {
  [[ -z ${ONLY:-} || $1 =~ $ONLY ]] || return 0
  local out=$RUN/results/$P$SUF.jsonl good=0 try=0 line other
  while [ $good -lt "$RUNS" ] && [ $try -lt $((RUNS + 2)) ]; do
    try=$((try + 1))
    lock
    quiet
    line=$(gen_raw "$@") || { say "$P $1: failed"; return 1; }
    printf '%s\n' "$line" >>"$out"
    other=$(printf '%s\n' "$line" | sed -n 's/.*"other_cpu_pct":\(-\{0,1\}[0-9]*\).*/\1/p' | sort -n | tail -1)
    [ "${other:-0}" -le "$MAXOTHER" ] && good=$((good + 1))
  done
  printf '%s\n' "$line" | sed -n 's/.*"case":"\(\([^"\\]\|\\.\)*\)".*"other_cpu_pct":\([-0-9.]*\).*"value":\([0-9.]*\).*/    \1 = \4 (other cpu \3%)/p' >&2
}

one() { RUNS=1 MAXOTHER=1000 gen "$@"; } # a single run of something that changes state

fill() { # BOX COUNT [flags]: in short holds of the lock, so as not to disturb others' timings
  local box=$1 count=$2 n; shift 2
  while :; do
    lock
    # shellcheck disable=SC2086
    n=$("$LOAD" append $EXTRA -imap "$IMAP" -corpus "$CORPUS" -box "$box" -create -up-to -n "$count" -multi 50 -t 60s "$@" |
      sed -n 's/.*"messages":\([0-9]*\).*/\1/p')
    say "$P: $box +${n:-?}"
    [ "${n:-0}" -gt 0 ] || break
  done
}

store_bytes() { [ -n "$STORE" ] && "$LOAD" du "$STORE" | sed -n 's/.*"'"$1"'":\([0-9]*\).*/\1/p'; }

phase_warm() { gen_raw warm deliver -c 4 -n 200 >/dev/null; }

phase_deliver() {
  local c
  phase_warm
  for c in $CONNS; do gen "LMTP $c conn, 1 rcpt" deliver -c $c -t "${SECS}s" -offset "$((c * 1000))"; done
  gen "LMTP 8 conn, 10 rcpts" deliver -c 8 -r 10 -t "${SECS}s"
}

phase_append() {
  gen "APPEND 1 conn" append -c 1 -n 0 -t "${SECS}s" -box Bench -create
  gen "APPEND 8 conn" append -c 8 -n 0 -t "${SECS}s" -box Bench -create
  gen "MULTIAPPEND 50, 1 conn" append -c 1 -n 0 -t "${SECS}s" -multi 50 -box Bench -create
  gen "MULTIAPPEND 50, 8 conn" append -c 8 -n 0 -t "${SECS}s" -multi 50 -box Bench -create
}

phase_du() { # 8 users x 1,000 messages: the growth of the store
  local a0 f0 a1 f1
  sync; a0=$(store_bytes alloc_bytes); f0=$(store_bytes files)
  fill INBOX 1000 -user-format 'p%03d' -users 8 -c 8
  sync; a1=$(store_bytes alloc_bytes); f1=$(store_bytes files)
  [ -n "$a1" ] && [ "$a1" -gt "$a0" ] || return
  awk -v p="$P" -v a=$((a1 - a0)) -v f=$((f1 - f0)) 'BEGIN{
    printf "{\"cmd\":\"du\",\"case\":\"8 x 1000 messages\",\"peer\":\"%s\",\"files_per_1000\":%.1f,\"metric\":\"disk per 1,000 messages\",\"unit\":\"MB\",\"better\":\"lower\",\"value\":%.3f}\n",p,f/8,a/8/1e6}' |
    tee -a "$RUN/results/$P.jsonl" >&2
}

phase_fill() { phase_du; fill Big10k 10000; [ "$BIG" -gt 10000 ] && fill Big100k "$BIG"; }

phase_list() {
  local b boxes=Big10k
  [ "$BIG" -gt 10000 ] && boxes="Big10k Big100k"
  for b in $boxes; do
    one "$b ENVELOPE list, first ever" fetch -mode list -box $b
    gen "$b ENVELOPE list, warm" fetch -mode list -box $b -reps 3
    gen "$b ENVELOPE list, page cache dropped" fetch -mode list -box $b -reps 1 -cold
    gen "$b FLAGS list, warm" fetch -mode list -box $b -reps 3 -items '(UID FLAGS)'
  done
}

phase_fetch() {
  gen "random body, 1 conn, warm" fetch -mode body -box Big10k -t "${SECS}s"
  gen "random body, 8 conn, warm" fetch -mode body -user-format 'p%03d' -users 8 -c 8 -t "${SECS}s"
  gen "random body, 1 conn, page cache dropped" fetch -mode body -box Big10k -n 3000 -cold
  gen "whole mailbox 1000 x BODY.PEEK[], 1 conn" fetch -mode all -user-format 'p%03d' -users 8
  gen "whole mailbox in one FETCH, 1 conn" fetch -mode all -chunk 1000 -user-format 'p%03d' -users 8
}

phase_select() {
  local b boxes=Big10k
  [ "$BIG" -gt 10000 ] && boxes="Big10k Big100k"
  for b in $boxes; do
    gen "$b SELECT, same connection" select -box $b -n 50
    gen "$b SELECT, fresh connection" select -box $b -n 50 -fresh
    gen "$b SELECT, page cache dropped" select -box $b -n 5 -cold
    gen "$b SELECT with QRESYNC" select -box $b -n 50 -qresync
  done
}

phase_search() {
  local s
  # The first TEXT search may build caches: it is recorded apart.
  for s in 'FROM "linux"' 'SUBJECT "spam"' 'TEXT "viagra"'; do one "10k, first ever:" search -box Big10k -reps 1 -keys "$s"; done
  for s in 'FROM "linux"' 'SUBJECT "spam"' 'SINCE 1-Mar-2024' 'UNSEEN' 'HEADER X-Mailer "outlook"' 'BODY "debian"' 'TEXT "viagra"' 'TEXT "zzqqnotthere"'; do
    gen "10k, warm:" search -box Big10k -reps 2 -keys "$s"
  done
  gen "10k, page cache dropped:" search -box Big10k -reps 1 -cold -keys 'TEXT "viagra"'
  gen "10k, page cache dropped:" search -box Big10k -reps 1 -cold -keys 'SUBJECT "spam"'
}

phase_sort() {
  local s
  for s in 'SORT (DATE) UTF-8 ALL' 'SORT (SUBJECT) UTF-8 ALL' 'SORT (REVERSE SIZE) UTF-8 ALL' 'THREAD REFERENCES UTF-8 ALL' 'THREAD ORDEREDSUBJECT UTF-8 ALL'; do
    one "10k, first ever:" search -box Big10k -reps 1 -keys "$s"
    gen "10k, warm:" search -box Big10k -reps 2 -keys "$s"
  done
}

phase_copy() { gen "copy, expunge, move" copy-move -box Big10k -n 1000; }

phase_store() {
  gen "STORE 1:* of 10k" store-flags -box Big10k -reps 2
  gen "STORE 1:* of 10k, silent" store-flags -box Big10k -reps 2 -silent
  gen "STORE single messages of 10k" store-flags -box Big10k -each 300
}

phase_pop3() {
  gen "POP3 1 session of 1000" pop3 -user-format 'p%03d' -users 8 -c 1
  gen "POP3 8 sessions of 1000" pop3 -user-format 'p%03d' -users 8 -c 8
  gen "POP3 1 session of 1000, page cache dropped" pop3 -user-format 'p%03d' -users 8 -c 1 -cold
}

phase_idle() { # on a fresh server: idle processes left by other phases would hide the memory
  local n
  # Dovecot needs one inotify instance per idle process, or it polls every 30 s.
  # The kernel's default per user is 128; raised until the next boot.
  [ "$(cat /proc/sys/fs/inotify/max_user_instances)" -ge 8192 ] || echo 8192 >/proc/sys/fs/inotify/max_user_instances
  for n in 100 1000; do
    down "$P"; up "$P"; phase_warm; sleep 1
    gen "IDLE $n connections" idle-notify -n $n -messages $((n > 100 ? 6 : 20)) -gap 100ms
  done
}

phase_login() {
  gen "login, 1 client" login -c 1 -t "${SECS}s"
  gen "login, 8 clients" login -c 8 -t "${SECS}s"
  gen "login + SELECT, 8 clients" login -c 8 -t "${SECS}s" -select
}

phase_mixed() {
  gen "mixed 1 client, no idle" mixed -c 1 -t "${SECS}s" -idle 0 -deliver-rate 0
  gen "mixed 16 clients, no idle" mixed -c 16 -t "$((SECS * 2))s" -idle 0 -deliver-rate 20
  gen "mixed 64 clients, idle 500 ms" mixed -c 64 -t "$((SECS * 2))s" -idle 500ms -deliver-rate 20
}

PHASES="deliver append fill list fetch select search sort store copy pop3 idle login mixed"

bench() {
  local peers=() phases=() x after=0 ph
  for x in "$@"; do
    if [ "$x" = -- ]; then after=1; elif [ $after = 1 ]; then phases+=("$x"); else peers+=("$x"); fi
  done
  [ ${#phases[@]} -gt 0 ] || read -ra phases <<<"$PHASES"
  for x in "${peers[@]}"; do up "$x"; done
  for ph in "${phases[@]}"; do
    for x in "${peers[@]}"; do
      say "$x: $ph"
      peer "$x"
      "phase_$ph"
    done
  done
  unlock
}

syscalls() { # counts per delivery and per append, untimed
  local args pid n=400 out
  build
  peer "$1"
  alive || case $P in custom-*) ;; *) die "$P is not up" ;; esac
  lock
  gen_raw warm deliver -c 8 -n 200 >/dev/null
  for mode in deliver append; do
    args=()
    for pid in $("$LOAD" ps -server-pid "$PIDF" -pids); do args+=(-p "$pid"); done
    out=$RUN/results/$P.strace-$mode
    strace -f -q -c -S calls -o "$out" "${args[@]}" 2>/dev/null &
    local sp=$!
    sleep 1
    if [ $mode = deliver ]; then gen_raw strace deliver -c 8 -n $n >/dev/null
    else gen_raw strace append -c 1 -n $n -box Bench -create >/dev/null; fi
    sleep 0.5
    kill -INT $sp; wait $sp 2>/dev/null
    say "$P: system calls per $mode ($n messages)"
    awk -v n=$n '$4 ~ /^[0-9]+$/ && $NF != "total" {printf "    %-18s %8.2f\n", $NF, $4/n}' "$out" | head -24 >&2
  done
  unlock
}

limits() {
  build
  local k
  P=machine
  for k in $(seq "$RUNS"); do
    lock
    nice -n "$NICE" "$LOAD" disk -peer "$P" -dir "$RUN" -t 3s >>"$RUN/results/limits.jsonl"
    nice -n "$NICE" "$LOAD" loopback -peer "$P" -t 2s >>"$RUN/results/limits.jsonl"
  done
  unlock
  "$LOAD" report -max-other "$MAXOTHER" -also op.p50_ms,op.p99_ms,flushes_per_op "$RUN/results/limits.jsonl"
}

report() {
  build
  "$LOAD" report -max-other "$MAXOTHER" ${1:+-also "$1"} "$RUN"/results/*.jsonl
}

cmd=${1:-help}
[ $# -gt 0 ] && shift
case $cmd in
install) install_all ;;
up) for p in "${@:-dovecot-sdbox}"; do up "$p"; done ;;
down) for p in "${@:-$ALL}"; do for q in $p; do down "$q"; done; done ;;
wipe) for p in "$@"; do wipe "$p"; done ;;
bench) [ $# -gt 0 ] || set -- dovecot-sdbox dovecot-maildir dovecot-mdbox cyrus; bench "$@" ;;
syscalls) for p in "$@"; do syscalls "$p"; done ;;
limits) limits ;;
report) report "$@" ;;
gen) build; peer "$1"; shift; gen_raw "by hand" "$@" ;;
env) peer "$1"; printf 'PEER_IMAP=%s PEER_POP3=%s PEER_LMTP=%s PEER_PID=%s PEER_STORE=%s\n' "$IMAP" "$POP3" "$LMTP" "$PIDF" "$STORE" ;;
*) sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//' ;;
esac
