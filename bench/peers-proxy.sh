#!/bin/bash
# Peers of a mail proxy, side by side on loopback, and a bench over them.
#
#   peers-proxy.sh up            install what is missing, write configurations, start everything
#   peers-proxy.sh down          stop everything that "up" started
#   peers-proxy.sh status        list what runs
#   peers-proxy.sh info          print addresses, users, LDAP base (for adding one's own proxy)
#   peers-proxy.sh bench [SECTION...]   logins real idle throughput append latency (default: all), smoke
#   peers-proxy.sh table [FILE...]      Markdown tables of the results
#   peers-proxy.sh probe [PEER...]      protocol cases of proxy_probe.py (default: perdition nginx dovecot)
#
# One proxy under test runs alone on PROXY_CPUS; the load generator, the
# backends, slapd and the auth_http responder run on LOAD_CPUS.
#
# Environment:
#   RUN         run directory, reachable by every user  (default ${TMPDIR:-/tmp}/peers-proxy)
#   CERT        ecdsa (P-256) or rsa (2048)       (default ecdsa)
#   PROXY_CPUS  CPU list of the proxy under test  (default 0)
#   LOAD_CPUS   CPU list of everything else       (default: the others)
#   LOCK, HOLD  file locked around timed runs, and for how many seconds at a stretch (default 150)
#   OUT         results file (JSON lines)         (default $RUN/results-$CERT.jsonl)
#   SHIELD      1: on a machine with other work, put everything into a CPU cgroup of very high
#               weight (cgroup v1 or v2, root only)   (default 0)
#   MAXOTHER    a run in which unrelated work or other virtual machines took more than this many cores is repeated
#               (default 0.15; at most RETRIES times, default 2; the least disturbed run counts)
#   RUNS, DUR, WARM   repetitions, measured time, warm-up      (default 3, 2s, 500ms)
#   CONCS, OTHER_CONCS  concurrencies of the main and of the other login cases (default "1 50 200", "50")
#   PEERS       peers that are measured           (default: all that fit the case)
#   EXTRA_NAME, EXTRA_PIDS (a PID or @pidfile), EXTRA_IMAP, EXTRA_IMAPS, EXTRA_POP3,
#   EXTRA_SIEVE (host:port each), EXTRA_RESTART (command)   one more proxy, started by you on
#               PROXY_CPUS; EXTRA_RESTART is run before each memory measurement.
#               mailload/README.md has a worked example.
set -u
here=$(cd "$(dirname "$0")" && pwd)
RUN=${RUN:-${TMPDIR:-/tmp}/peers-proxy}
CERT=${CERT:-ecdsa}
NCPU=$(nproc --all)
PROXY_CPUS=${PROXY_CPUS:-0}
if [ -z "${LOAD_CPUS:-}" ]; then
  if [ "$NCPU" -gt 1 ]; then LOAD_CPUS=1-$((NCPU - 1)); else LOAD_CPUS=0; fi
fi
LOCK=${LOCK:-${TMPDIR:-/tmp}/bench.lock}
RUNS=${RUNS:-3} DUR=${DUR:-2s} WARM=${WARM:-500ms} CONCS=${CONCS:-1 50 200}
OUT=${OUT:-$RUN/results-$CERT.jsonl}
NUSERS=500
SHIELD=${SHIELD:-0}
HOLD=${HOLD:-150}
MAXOTHER=${MAXOTHER:-0.15} RETRIES=${RETRIES:-2}
ML=$RUN/mailload
export PATH=$PATH:/usr/sbin:/sbin
GO=${GO:-$(command -v go || echo /usr/local/go/bin/go)}
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

B=127.0.0.1            # Dovecot backend
F=127.0.0.2            # fake backend, same ports
BIMAP=15143 BIMAPS=15993 BPOP=15110 BSIEVE=15190
LDAP=15389 BASE=ou=people,dc=example,dc=test

# Number of CPUs in a list such as 0,2-3
ncpus() { local n=0 p a b; for p in ${1//,/ }; do a=${p%-*} b=${p#*-}; n=$((n + b - a + 1)); done; echo $n; }
PN=$(ncpus "$PROXY_CPUS")

say() { echo "peers-proxy: $*" >&2; }
die() { say "$*"; exit 1; }
# A process that has ended but was not yet waited for counts as gone.
runs() { [ -n "$1" ] && grep -q '^State:[[:space:]]*[A-WYa-wy]' "/proc/$1/status" 2>/dev/null; }
alive() { [ -f "$1" ] && runs "$(cat "$1")"; }

# shield: this shell, and so all it starts, gets the CPU before other work.
shield() {
  [ "$SHIELD" = 1 ] || return 0
  local d w
  for d in /sys/fs/cgroup/cpu /sys/fs/cgroup; do
    [ -e "$d/cpu.shares" ] || [ -e "$d/cgroup.controllers" ] || continue
    mkdir -p "$d/peers-proxy" 2>/dev/null || continue
    for w in cpu.shares:262144 cpu.weight:10000; do
      [ -e "$d/peers-proxy/${w%:*}" ] || continue
      echo "${w#*:}" >"$d/peers-proxy/${w%:*}" && echo $$ >"$d/peers-proxy/cgroup.procs" && return 0
    done
  done
  say "no CPU cgroup to be had, going on without"
}

# stop PIDFILE WORD: stops the process if it is alive and its command line holds WORD.
stop() {
  local pid i
  [ -f "$1" ] || return 0
  pid=$(cat "$1")
  if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "$2"; then
    kill "$pid" 2>/dev/null
    for i in $(seq 50); do runs "$pid" || break; sleep 0.1; done
    runs "$pid" && { say "$2 ($pid) does not stop, killing it"; kill -9 "$pid"; }
  fi
  rm -f "$1"
}

waitport() { # host port
  local i
  for i in $(seq 100); do
    (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null && return 0
    sleep 0.1
  done
  die "nothing listens on $1:$2"
}

# portsfree HOST:PORT...: another run directory's servers would be measured otherwise.
portsfree() {
  local a
  for a in "$@"; do
    (exec 3<>"/dev/tcp/${a%:*}/${a#*:}") 2>/dev/null && die "$a is in use: stop what listens there (another RUN directory?)"
  done
}

# ---------------------------------------------------------------- set-up

packages() {
  bash -c '. "$1/peers/lib.sh" && shift && packages "$@"' - "$here" dovecot-imapd dovecot-pop3d dovecot-managesieved dovecot-ldap \
    slapd ldap-utils perdition perdition-ldap nginx libnginx-mod-mail openssl python3 || die "installation failed"
}

certs() {
  mkdir -p "$RUN/tls"
  [ -s "$RUN/tls/ecdsa.crt" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj /CN=mail.example.test -addext subjectAltName=DNS:mail.example.test,IP:127.0.0.1 \
    -keyout "$RUN/tls/ecdsa.key" -out "$RUN/tls/ecdsa.crt" 2>/dev/null
  [ -s "$RUN/tls/rsa.crt" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 3650 \
    -subj /CN=mail.example.test -addext subjectAltName=DNS:mail.example.test,IP:127.0.0.1 \
    -keyout "$RUN/tls/rsa.key" -out "$RUN/tls/rsa.crt" 2>/dev/null
  cp "$RUN/tls/$CERT.crt" "$RUN/tls/cert.pem" && cp "$RUN/tls/$CERT.key" "$RUN/tls/key.pem" || die "no certificate"
  chmod 644 "$RUN/tls/key.pem" # test key: readable to the unprivileged proxies
}

build() {
  [ -x "$GO" ] || die "no Go toolchain (set GO to the go command)"
  (cd "$here/mailload" && "$GO" build -o "$ML" .) || die "cannot build mailload"
}

slapd_up() {
  local d=$RUN/slapd i
  rm -rf "$d" && mkdir -p "$d/db"
  cat >"$d/slapd.conf" <<X
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
pidfile $d/slapd.pid
argsfile $d/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
loglevel none
threads 8
database mdb
suffix dc=example,dc=test
rootdn cn=admin,dc=example,dc=test
rootpw secret
directory $d/db
maxsize 268435456
index objectClass,mail,uid eq
X
  {
    printf 'dn: dc=example,dc=test\nobjectClass: dcObject\nobjectClass: organization\no: example\ndc: example\n\n'
    printf 'dn: ou=people,dc=example,dc=test\nobjectClass: organizationalUnit\nou: people\n\n'
    for i in $(seq -f %04g "$NUSERS"); do
      for p in user:$B fake:$F; do
        printf 'dn: uid=%s,ou=people,dc=example,dc=test\nobjectClass: inetOrgPerson\nobjectClass: inetLocalMailRecipient\nuid: %s\ncn: %s\nsn: %s\nmail: %s@example.test\nmailHost: %s\nuserPassword: secret\n\n' \
          "${p%%:*}$i" "${p%%:*}$i" "${p%%:*}$i" "${p%%:*}$i" "${p%%:*}$i" "${p#*:}"
      done
    done
    # Directory of the probe: alice, and dead whose store does not exist.
    printf 'dn: ou=probe,dc=example,dc=test\nobjectClass: organizationalUnit\nou: probe\n\n'
    for p in alice:127.0.0.1 dead:127.0.0.9; do
      printf 'dn: uid=%s,ou=probe,dc=example,dc=test\nobjectClass: inetOrgPerson\nobjectClass: inetLocalMailRecipient\nuid: %s\ncn: %s\nsn: %s\nmail: %s\nmailHost: %s\nuserPassword: secret\n\n' \
        "${p%%:*}" "${p%%:*}" "${p%%:*}" "${p%%:*}" "${p%%:*}" "${p#*:}"
    done
  } >"$d/people.ldif"
  slapadd -q -f "$d/slapd.conf" -l "$d/people.ldif" >/dev/null 2>"$d/slapadd.log" || { cat "$d/slapadd.log" >&2; die "slapadd failed"; }
  taskset -c "$LOAD_CPUS" slapd -f "$d/slapd.conf" -h "ldap://127.0.0.1:$LDAP/" || die "slapd failed"
  waitport 127.0.0.1 $LDAP
}

backend_up() {
  local d=$RUN/backend
  mkdir -p "$d/run" "$d/state" "$d/log" "$d/mail"
  chown mail:mail "$d/mail"
  cat >"$d/dovecot.conf" <<X
base_dir = $d/run
state_dir = $d/state
instance_name = bench-backend
log_path = $d/log/dovecot.log
protocols = imap pop3 sieve
listen = $B
ssl = yes
ssl_cert = <$RUN/tls/cert.pem
ssl_key = <$RUN/tls/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
first_valid_uid = 1
mail_max_userip_connections = 0
mail_location = maildir:~/Maildir
mail_save_crlf = yes
maildir_very_dirty_syncs = yes
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=mail gid=mail home=$d/mail/%u
}
service imap-login {
  inet_listener imap {
    port = $BIMAP
  }
  inet_listener imaps {
    port = $BIMAPS
    ssl = yes
  }
  service_count = 0
  process_min_avail = 1
  process_limit = 2
  client_limit = 8000
}
service pop3-login {
  inet_listener pop3 {
    port = $BPOP
  }
  inet_listener pop3s {
    port = 0
  }
  service_count = 0
  process_min_avail = 1
  process_limit = 2
  client_limit = 8000
}
service managesieve-login {
  inet_listener sieve {
    port = $BSIEVE
  }
  service_count = 0
  process_min_avail = 1
  process_limit = 2
  client_limit = 8000
}
service imap {
  process_limit = 6000
  service_count = 256
  process_min_avail = 4
}
service pop3 {
  process_limit = 6000
  service_count = 256
}
service managesieve {
  process_limit = 6000
  service_count = 256
}
service auth {
  client_limit = 20000
}
service anvil {
  client_limit = 20000
}
service stats {
  client_limit = 20000
  unix_listener stats-writer {
    mode = 0666
  }
}
X
  taskset -c "$LOAD_CPUS" dovecot -c "$d/dovecot.conf" 2>"$d/start.err" || { cat "$d/start.err" >&2; die "backend failed"; } # it keeps stderr open
  waitport $B $BIMAP
}

fake_up() {
  GOMAXPROCS=$(ncpus "$LOAD_CPUS") taskset -c "$LOAD_CPUS" setsid "$ML" fakeserver -imap $F:$BIMAP -imaps $F:$BIMAPS -pop3 $F:$BPOP -sieve $F:$BSIEVE \
    -cert "$RUN/tls/cert.pem" -key "$RUN/tls/key.pem" -pidfile "$RUN/fake.pid" >"$RUN/fake.log" 2>&1 &
  waitport $F $BIMAP
}

relay_up() {
  GOMAXPROCS=$PN taskset -c "$PROXY_CPUS" setsid "$ML" relay -listen 127.0.0.1:20143 -listen-tls 127.0.0.1:20993 -backend $F:$BIMAP \
    -also 127.0.0.1:20110=$F:$BPOP -also 127.0.0.1:20190=$F:$BSIEVE -cert "$RUN/tls/cert.pem" -key "$RUN/tls/key.pem" -pidfile "$RUN/relay.pid" >"$RUN/relay.log" 2>&1 &
  waitport 127.0.0.1 20143
}

perdition_up() { # name portprefix
  local d=$RUN/$1 pp=$2 lib resp=--server_resp_line # the answer to LOGIN is the store's, with its capabilities
  mkdir -p "$d" && chown nobody "$d"
  lib=$(ls /usr/lib/*/libperditiondb_ldap.so.0 /usr/lib/libperditiondb_ldap.so.0 2>/dev/null | head -1)
  one() { # name protocol listen outgoing extra...
    local n=$1 p=$2 l=$3 o=$4
    shift 4
    : >"$d/$n.log" && chown nobody "$d/$n.log" # children open it again after the change of user
    # A process that ends closes every descriptor up to the limit one by one: the usual 1024 keeps that cheap.
    (ulimit -Sn 1024; echo $BASHPID >"$d/$n.pid"; exec taskset -c "$PROXY_CPUS" perdition --no_daemon -f /dev/null -P "$p" -b 127.0.0.1 -l "$l" -p "$o" -u nobody -g nogroup \
      --no_lookup $resp --pid_file "" -F "$d/$n.log" \
      -M "$lib" -m "3:ldap://127.0.0.1:$LDAP/$BASE?mail,mailHost?one?(mail=%s)" \
      "$@" </dev/null >"$d/$n.out" 2>&1) &
  }
  local tls="--ssl_cert_file $RUN/tls/cert.pem --ssl_key_file $RUN/tls/key.pem --ssl_no_client_cert_verify --ssl_ca_file= --ssl_ca_path="
  # shellcheck disable=SC2086
  if [ "$1" = perdition-probe ]; then
    resp= # as it comes; with the flag one more case passes
    one imap IMAP4 "${pp}143" $BIMAP --ssl_mode tls_listen $tls
  else
    one imap IMAP4 "${pp}143" $BIMAP --imap_capability "IMAP4rev1 LITERAL+ IDLE UIDPLUS"
    one imaps IMAP4S "${pp}993" $BIMAP --ssl_mode ssl_listen $tls --imap_capability "IMAP4rev1 LITERAL+ IDLE UIDPLUS"
    one sieve MANAGESIEVE "${pp}190" $BSIEVE
    waitport 127.0.0.1 "${pp}993"
  fi
  one pop3 POP3 "${pp}110" $BPOP
  waitport 127.0.0.1 "${pp}143"
  waitport 127.0.0.1 "${pp}110"
}

nginx_up() {
  local d=$RUN/nginx mod
  mkdir -p "$d/log"
  mod=$(ls /usr/lib/nginx/modules/ngx_mail_module.so /usr/share/nginx/modules/ngx_mail_module.so 2>/dev/null | head -1)
  GOMAXPROCS=$(ncpus "$LOAD_CPUS") taskset -c "$LOAD_CPUS" setsid "$ML" authhttp -listen 127.0.0.1:17080 -ldap 127.0.0.1:$LDAP -base "$BASE" \
    -port imap=$BIMAP -port pop3=$BPOP -pidfile "$RUN/authhttp.pid" >"$RUN/authhttp.log" 2>&1 &
  GOMAXPROCS=$(ncpus "$LOAD_CPUS") taskset -c "$LOAD_CPUS" setsid "$ML" authhttp -listen 127.0.0.1:17081 -host user=$B -host fake=$F \
    -port imap=$BIMAP -port pop3=$BPOP -pidfile "$RUN/authfix.pid" >"$RUN/authfix.log" 2>&1 &
  {
    cat <<X
load_module $mod;
user www-data;
worker_processes $PN;
worker_rlimit_nofile 60000;
pid $d/nginx.pid;
error_log $d/log/error.log info;
events {
  worker_connections 20000;
  multi_accept on;
}
mail {
  server_name mail.example.test;
  imap_capabilities IMAP4rev1 LITERAL+ IDLE UIDPLUS SASL-IR;
  pop3_capabilities TOP USER UIDL PIPELINING;
  imap_auth login plain;
  pop3_auth plain;
  proxy_pass_error_message on;
  proxy_timeout 35m;
  ssl_certificate $RUN/tls/cert.pem;
  ssl_certificate_key $RUN/tls/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:mail:20m;
  ssl_session_timeout 1h;
X
    for v in 17:17080 23:17081; do
      cat <<X
  server { listen 127.0.0.1:${v%:*}143 backlog=4096; protocol imap; auth_http 127.0.0.1:${v#*:}/auth; }
  server { listen 127.0.0.1:${v%:*}993 ssl backlog=4096; protocol imap; auth_http 127.0.0.1:${v#*:}/auth; }
  server { listen 127.0.0.1:${v%:*}110 backlog=4096; protocol pop3; auth_http 127.0.0.1:${v#*:}/auth; }
X
    done
    echo "}"
  } >"$d/nginx.conf"
  waitport 127.0.0.1 17080
  waitport 127.0.0.1 17081
  nginx_start
}
nginx_start() {
  local d=$RUN/nginx
  taskset -c "$PROXY_CPUS" nginx -p "$d" -c "$d/nginx.conf" || die "nginx failed"
  waitport 127.0.0.1 17143
}

dproxy_up() { # name portprefix auth_cache_size
  local d=$RUN/$1 n=$1 pp=$2
  mkdir -p "$d/run" "$d/state" "$d/log"
  cat >"$d/ldap.ext" <<X
uris = ldap://127.0.0.1:$LDAP
ldap_version = 3
base = $BASE
scope = onelevel
pass_filter = (mail=%u)
pass_attrs = mail=user,mailHost=host,=proxy=y,=nopassword=y,=port=%{if;%s;eq;imap;$BIMAP;%{if\\;%s\\;eq\\;pop3\\;$BPOP\\;$BSIEVE}}
X
  cat >"$d/dovecot.conf" <<X
base_dir = $d/run
state_dir = $d/state
instance_name = bench-$n
log_path = $d/log/dovecot.log
protocols = imap pop3 sieve
listen = 127.0.0.1
ssl = yes
ssl_cert = <$RUN/tls/cert.pem
ssl_key = <$RUN/tls/key.pem
ssl_min_protocol = TLSv1.2
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_cache_size = $3
auth_cache_ttl = 1 hour
login_proxy_max_disconnect_delay = 0
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
passdb {
  driver = ldap
  args = $d/ldap.ext
}
service imap-login {
  inet_listener imap {
    port = ${pp}143
  }
  inet_listener imaps {
    port = ${pp}993
    ssl = yes
  }
  service_count = 0
  process_min_avail = $PN
  process_limit = $PN
  client_limit = 8000
  vsz_limit = 2G
}
service pop3-login {
  inet_listener pop3 {
    port = ${pp}110
  }
  inet_listener pop3s {
    port = 0
  }
  service_count = 0
  process_min_avail = $PN
  process_limit = $PN
  client_limit = 8000
  vsz_limit = 2G
}
service managesieve-login {
  inet_listener sieve {
    port = ${pp}190
  }
  service_count = 0
  process_min_avail = $PN
  process_limit = $PN
  client_limit = 8000
  vsz_limit = 2G
}
service auth {
  client_limit = 20000
}
service anvil {
  client_limit = 20000
}
service stats {
  client_limit = 20000
}
X
  taskset -c "$PROXY_CPUS" dovecot -c "$d/dovecot.conf" 2>"$d/start.err" || { cat "$d/start.err" >&2; die "$n failed"; }
  waitport 127.0.0.1 "${pp}143"
}

up() {
  [ "$(id -u)" = 0 ] || die "must be root (the daemons change user)"
  down
  packages
  mkdir -p "$RUN" && chmod 755 "$RUN"
  runuser -u nobody -- test -x "$RUN" || die "RUN=$RUN must be reachable by every user: the daemons give up root"
  portsfree $B:$BIMAP $F:$BIMAP 127.0.0.1:$LDAP 127.0.0.1:{16,17,18,19,20,23}143 127.0.0.1:17080 127.0.0.1:17081
  certs
  build
  shield
  slapd_up
  backend_up
  fake_up
  relay_up
  perdition_up perdition 16
  nginx_up
  dproxy_up dovecot 18 0
  dproxy_up dovecot-cache 19 16M
  # Mailbox of known large messages, and every user's INBOX made once.
  "$ML" seed -addr $B:$BIMAP -user user0001@example.test -mailbox Big -n 20 -size 1048576 >/dev/null || die "seed failed"
  "$ML" seed -addr $B:$BIMAP -user user0001@example.test -mailbox INBOX -n 1 -size 4096 >/dev/null || die "seed failed"
  "$ML" logins -addr $B:$BIMAP -c 8 -warm 1s -d 2s >/dev/null
  say "up (certificate $CERT, proxies on CPU $PROXY_CPUS, the rest on $LOAD_CPUS)"
}

# restart PEER: memory is compared with that of a fresh process.
restart() {
  local f
  case $1 in
  perdition)
    for f in imap imaps pop3 sieve; do stop "$RUN/perdition/$f.pid" perdition; done
    perdition_up perdition 16
    ;;
  nginx) stop "$RUN/nginx/nginx.pid" nginx && nginx_start ;;
  dovecot) stop "$RUN/dovecot/run/master.pid" dovecot && dproxy_up dovecot 18 0 ;;
  relay) stop "$RUN/relay.pid" mailload && relay_up ;;
  direct) stop "$RUN/backend/run/master.pid" dovecot && backend_up ;;
  "${EXTRA_NAME:-none}") ${EXTRA_RESTART:-true} ;;
  esac
  sleep 1
}

down() {
  local f
  stop "$RUN/nginx/nginx.pid" nginx
  for f in imap imaps pop3 sieve; do stop "$RUN/perdition/$f.pid" perdition; done
  stop "$RUN/dovecot/run/master.pid" dovecot
  stop "$RUN/dovecot-cache/run/master.pid" dovecot
  stop "$RUN/backend/run/master.pid" dovecot
  probe_down
  stop "$RUN/slapd/slapd.pid" slapd
  for f in relay fake authhttp authfix; do stop "$RUN/$f.pid" mailload; done
  rmdir /sys/fs/cgroup/cpu/peers-proxy /sys/fs/cgroup/peers-proxy 2>/dev/null # of SHIELD
  return 0
}

pidfiles() {
  echo "$RUN/nginx/nginx.pid $RUN/perdition/imap.pid $RUN/perdition/imaps.pid $RUN/perdition/pop3.pid $RUN/perdition/sieve.pid $RUN/dovecot/run/master.pid $RUN/dovecot-cache/run/master.pid $RUN/backend/run/master.pid $RUN/slapd/slapd.pid $RUN/relay.pid $RUN/fake.pid $RUN/authhttp.pid $RUN/authfix.pid"
}

status() {
  local f
  for f in $(pidfiles); do
    if alive "$f"; then echo "running $(cat "$f") ${f#"$RUN"/}"; else echo "stopped - ${f#"$RUN"/}"; fi
  done
}

info() {
  cat <<X
LDAP      ldap://127.0.0.1:$LDAP/  base ou=people,dc=example,dc=test, filter (mail=LOGIN), attribute mailHost, anonymous
users     user0001..user$NUSERS@example.test -> mailHost $B (Dovecot); fake0001.. -> mailHost $F (fake backend); password secret
backends  imap $BIMAP, imaps $BIMAPS, pop3 $BPOP, sieve $BSIEVE on both addresses
peers     $(for p in perdition nginx nginx-fix dovecot dovecot-cache relay; do echo -n "$p imap $(addr $p imap) imaps $(addr $p imaps); "; done)
TLS       $RUN/tls/cert.pem, $RUN/tls/key.pem ($CERT)
CPUs      proxy under test on $PROXY_CPUS, everything else on $LOAD_CPUS
X
}

# ---------------------------------------------------------------- bench

# addr PEER SERVICE: where a peer answers; empty when it does not offer it.
addr() {
  local svc=$2 p=
  case $1 in
  direct) case $svc in imap) echo $B:$BIMAP ;; imaps) echo $B:$BIMAPS ;; pop3) echo $B:$BPOP ;; sieve) echo $B:$BSIEVE ;; esac; return ;;
  fake) case $svc in imap) echo $F:$BIMAP ;; imaps) echo $F:$BIMAPS ;; pop3) echo $F:$BPOP ;; sieve) echo $F:$BSIEVE ;; esac; return ;;
  perdition) p=16 ;; nginx) p=17 ;; dovecot) p=18 ;; dovecot-cache) p=19 ;; relay) p=20 ;; nginx-fix) p=23 ;;
  "${EXTRA_NAME:-none}") case $svc in imap) echo "${EXTRA_IMAP:-}" ;; imaps) echo "${EXTRA_IMAPS:-}" ;; pop3) echo "${EXTRA_POP3:-}" ;; sieve) echo "${EXTRA_SIEVE:-}" ;; esac; return ;;
  esac
  case $1-$svc in nginx-sieve | nginx-fix-sieve) return ;; esac
  case $svc in imap) echo "127.0.0.1:${p}143" ;; imaps) echo "127.0.0.1:${p}993" ;; pop3) echo "127.0.0.1:${p}110" ;; sieve) echo "127.0.0.1:${p}190" ;; esac
}

# cpuflags PEER: the process groups whose CPU and memory are accounted.
cpuflags() {
  local p
  case $1 in
  direct) p="@$RUN/backend/run/master.pid" ;;
  fake) p="@$RUN/fake.pid" ;;
  perdition) p="@$RUN/perdition/imap.pid,@$RUN/perdition/imaps.pid,@$RUN/perdition/pop3.pid,@$RUN/perdition/sieve.pid" ;;
  nginx | nginx-fix) p="@$RUN/nginx/nginx.pid" ;;
  dovecot | dovecot-cache) p="@$RUN/$1/run/master.pid" ;;
  relay) p="@$RUN/relay.pid" ;;
  *) p="${EXTRA_PIDS:-}" ;;
  esac
  echo -n "-cpu proxy=$p"
  case $1 in
  direct) ;;
  fake) echo -n " -cpu ldap=@$RUN/slapd/slapd.pid" ;;
  *) echo -n " -cpu backend=@$RUN/backend/run/master.pid,@$RUN/fake.pid -cpu ldap=@$RUN/slapd/slapd.pid" ;;
  esac
  case $1 in nginx) echo -n " -cpu auth=@$RUN/authhttp.pid" ;; nginx-fix) echo -n " -cpu auth=@$RUN/authfix.pid" ;; esac
}

allpeers() { echo "${PEERS:-perdition nginx nginx-fix dovecot dovecot-cache relay fake ${EXTRA_NAME:-}}"; }

# pin CPUS PIDFILE...: moves whole process trees.
pin() {
  local cpus=$1 p q
  shift
  for p in "$@"; do
    for q in $(tree "$(cat "$p")"); do taskset -acp "$cpus" "$q" >/dev/null 2>&1; done
  done
}
tree() { local k; echo "$1"; for k in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$k"; done; }

# The lock is held over several short runs, HOLD seconds at most, so that
# waiting for it does not take longer than the runs themselves.
lock_since=
lock() {
  [ -n "$lock_since" ] && return
  exec 9>>"$LOCK" && flock 9
  lock_since=$SECONDS
}
unlock() {
  [ -n "$lock_since" ] || return 0
  flock -u 9
  exec 9>&-
  lock_since=
}

# ml PEER CASE SUBCOMMAND FLAGS...: one timed run under the lock, repeated
# when other work disturbed it; the result is appended to $OUT.
ml() {
  local peer=$1 case=$2 sub=$3 i line o best="" bo=999
  shift 3
  for i in $(seq 0 "$RETRIES"); do
    lock
    # shellcheck disable=SC2046
    line=$(taskset -c "$LOAD_CPUS" "$ML" "$sub" -tag peer="$peer" -tag case="$case" -tag cert="$CERT" $(cpuflags "$peer") "$@" 9>&-) || {
      say "failed: $sub $peer $case"
      line=
    }
    [ $((SECONDS - lock_since)) -ge "$HOLD" ] && unlock
    [ -n "$line" ] || return 0
    o=$(echo "$line" | awk '{ o = s = 0
      if (match($0, /"other_util":[-0-9.]+/)) o = substr($0, RSTART + 13, RLENGTH - 13)
      if (match($0, /"steal_util":[-0-9.]+/)) s = substr($0, RSTART + 13, RLENGTH - 13)
      print o + s }')
    if awk "BEGIN { exit !(${o:-0} < $bo) }"; then best=$line bo=${o:-0}; fi
    awk "BEGIN { exit !(${o:-0} <= $MAXOTHER) }" && break
    sleep 1
  done
  echo "$best" >>"$OUT"
}

# cases of the login bench: name, service, flags
LOGIN_CASES=${LOGIN_CASES:-"imap-login imap-tls-full imap-tls-resume imap-tls12-resume imap-plain imap-plain-ir pop3-userpass sieve-plain"}
caseflags() {
  case $1 in
  imap-login) echo imap -proto imap -auth login ;;
  imap-tls-full) echo imaps -proto imap -auth login -tls tls ;;
  imap-tls-resume) echo imaps -proto imap -auth login -tls tls -resume ;;
  imap-tls12-resume) echo imaps -proto imap -auth login -tls tls -resume -tls-max 1.2 ;;
  imap-plain) echo imap -proto imap -auth plain ;;
  imap-plain-ir) echo imap -proto imap -auth plain-ir ;;
  pop3-userpass) echo pop3 -proto pop3 -auth userpass ;;
  sieve-plain) echo sieve -proto sieve -auth plain ;;
  esac
}

# Does this peer offer this case at all? One session tells.
offers() { # peer case user [time]
  local a d=${4:-700ms}
  # shellcheck disable=SC2046
  set -- "$1" "$2" "$3" $(caseflags "$2")
  a=$(addr "$1" "$4")
  [ -n "$a" ] || return 1
  lock
  "$ML" logins -addr "$a" "${@:5}" -user "$3" -users 1 -c 1 -warm 0s -d "$d" -timeout 5s 2>/dev/null | grep -q '"errors":0,.*"ops":[1-9]'
}

# Cases that a peer cannot do at all.
never() {
  [ -z "$(addr "$1" "$(caseflags "$2" | cut -d' ' -f1)")" ] && return
  case $1-$2 in perdition-imap-plain*) return 0 ;; esac # answers NO to every AUTHENTICATE
  return 1
}

can() { # peer case user: on a busy machine one session may need a second try
  ! never "$1" "$2" && { offers "$@" || offers "$@" 4s; }
}

bench_logins() {
  local r c cs p ok cc
  for cs in $LOGIN_CASES; do
    ok=""
    for p in $(allpeers); do
      if can "$p" "$cs" fake0001@example.test; then ok="$ok $p"; else say "logins: $p does not offer $cs"; fi
    done
    cc=${OTHER_CONCS:-50}
    case $cs in imap-login | imap-tls-full | imap-tls-resume) cc=$CONCS ;; esac
    for r in $(seq "$RUNS"); do
      for c in $cc; do
        for p in $ok; do
          set -- $(caseflags "$cs")
          ml "$p" "$cs" logins -addr "$(addr "$p" "$1")" "${@:2}" -user 'fake%04d@example.test' -users $NUSERS -c "$c" -d "$DUR" -warm "$WARM" -tag backend=fake
        done
      done
    done
  done
}

# The same with the Dovecot backend; "direct" runs the backend on PROXY_CPUS.
bench_real() {
  local r c cs p cc
  for cs in ${REAL_CASES:-imap-login imap-tls-full pop3-userpass sieve-plain}; do
    for p in direct ${PEERS:-perdition nginx dovecot ${EXTRA_NAME:-}}; do
      can "$p" "$cs" user0001@example.test || { say "real: $p does not offer $cs"; continue; }
      cc=50
      case $cs in imap-login | imap-tls-full) cc=$CONCS ;; esac
      if [ "$p" = direct ]; then pin "$PROXY_CPUS" "$RUN/backend/run/master.pid"; else pin "$LOAD_CPUS" "$RUN/backend/run/master.pid"; fi
      for c in $cc; do
        for r in $(seq "$RUNS"); do
          set -- $(caseflags "$cs")
          ml "$p" "real-$cs" logins -addr "$(addr "$p" "$1")" "${@:2}" -user 'user%04d@example.test' -users $NUSERS -c "$c" -d "$DUR" -warm "$WARM" -tag backend=dovecot
        done
      done
    done
    pin "$LOAD_CPUS" "$RUN/backend/run/master.pid"
  done
}

bench_idle() {
  local r p n s tls u
  for s in imap imaps; do
    [ $s = imap ] && tls=none || tls=tls
    for p in ${PEERS:-perdition nginx dovecot relay direct ${EXTRA_NAME:-}}; do
      [ -n "$(addr "$p" $s)" ] || continue
      n=${N:-2000} u='fake%04d@example.test'
      [ "$p" = perdition ] && n=${N_PERDITION:-500}
      [ "$p" = direct ] && u='user%04d@example.test'
      for r in $(seq "$RUNS"); do
        lock
        restart "$p" 9>&- # nothing that is started may keep the lock
        RETRIES=0 ml "$p" "idle-$s" idle -addr "$(addr "$p" $s)" -tls $tls -user "$u" -users $NUSERS -n "$n" -c 20 -d 1s -settle 1s
        [ "$p" = direct ] && continue
        lock
        restart "$p" 9>&- # nothing that is started may keep the lock
        RETRIES=0 ml "$p" "idle-used-$s" idle -addr "$(addr "$p" $s)" -tls $tls -user "$u" -users $NUSERS -n "$((n / 4))" -c 20 -d 1s -settle 1s -touch '1 (BODY.PEEK[])'
      done
    done
  done
}

bench_throughput() {
  local r p s tls c
  for s in imap imaps; do
    [ $s = imap ] && tls=none || tls=tls
    for p in ${PEERS:-perdition nginx dovecot relay fake direct ${EXTRA_NAME:-}}; do
      [ -n "$(addr "$p" $s)" ] || continue
      local u=fake0001@example.test box=INBOX
      if [ "$p" = direct ]; then u=user0001@example.test box=Big; pin "$PROXY_CPUS" "$RUN/backend/run/master.pid"; fi
      for c in ${TCONCS:-1 8 50}; do
        for r in $(seq "$RUNS"); do
          ml "$p" "fetch-$s" throughput -addr "$(addr "$p" $s)" -tls $tls -user "$u" -mailbox $box -c "$c" -d "$DUR" -warm "$WARM"
        done
      done
      [ "$p" = direct ] && pin "$LOAD_CPUS" "$RUN/backend/run/master.pid"
    done
  done
}

bench_append() {
  local r p s tls c
  for s in imap imaps; do
    [ $s = imap ] && tls=none || tls=tls
    for p in ${PEERS:-perdition nginx dovecot relay fake ${EXTRA_NAME:-}}; do
      [ -n "$(addr "$p" $s)" ] || continue
      for c in ${TCONCS:-1 8}; do
        for r in $(seq "$RUNS"); do
          ml "$p" "append-$s" append -addr "$(addr "$p" $s)" -tls $tls -user fake0001@example.test -c "$c" -d "$DUR" -warm "$WARM" -size 1048576
        done
      done
    done
  done
}

bench_latency() {
  local r p s tls
  for s in imap imaps; do
    [ $s = imap ] && tls=none || tls=tls
    for p in ${PEERS:-perdition nginx dovecot relay ${EXTRA_NAME:-}}; do
      [ -n "$(addr "$p" $s)" ] || continue
      for r in $(seq "$RUNS"); do
        # one session, against the direct way
        ml "$p" "noop-$s" latency -addr "$(addr "$p" $s)" -tls $tls -direct $F:$BIMAP -user 'fake%04d@example.test' -c 1 -d "$DUR" -warm "$WARM"
        # 200 sessions sending one NOOP about every 100 ms: tail latency under light load
        ml "$p" "noop-paced-$s" latency -addr "$(addr "$p" $s)" -tls $tls -direct $F:$BIMAP -user 'fake%04d@example.test' -users $NUSERS -c 200 -think 100ms -d "$DUR" -warm "$WARM"
        # 50 sessions as fast as they can: commands per second and CPU per command
        ml "$p" "noop-busy-$s" latency -addr "$(addr "$p" $s)" -tls $tls -user 'fake%04d@example.test' -users $NUSERS -c 50 -d "$DUR" -warm "$WARM"
      done
    done
  done
}

bench_smoke() {
  local p cs u bad=0
  for cs in $LOGIN_CASES; do
    for p in direct $(allpeers); do
      u=user0001@example.test
      case $p in fake | relay) u=fake0001@example.test ;; esac
      if never "$p" "$cs"; then
        echo "-    $p $cs (not offered)"
      elif can "$p" "$cs" $u; then
        echo "ok   $p $cs"
      else
        echo "FAIL $p $cs"
        bad=1
      fi
    done
  done
  return $bad
}

bench() {
  local s rc=0
  shield
  [ $# -gt 0 ] || set -- logins real idle throughput append latency
  for s in "$@"; do
    case $s in
    logins | real | idle | throughput | append | latency | smoke) 
      [ -x "$ML" ] && alive "$RUN/slapd/slapd.pid" || die "nothing runs in $RUN: say \"up\" first"
      [ "$s" = smoke ] || say "bench $s -> $OUT"
      "bench_$s" || rc=1
      unlock
      ;;
    *) die "unknown section $s" ;;
    esac
  done
  return $rc
}

# tab TITLE PEERS METRICS CASES FILE...: one Markdown table per metric (name:digits) that has values.
tab() {
  local title=$1 peers=$2 metrics=$3 cases=$4 m t
  shift 4
  for m in $metrics; do
    t=$("$ML" table -one -metric "${m%:*}" -digits "${m#*:}" -cases "$cases" -peers "$peers" "$@") || return
    [ "$(echo "$t" | tail -n +3 | tr -d ' |-' | sed 's/^[^,]*,[0-9]*//' | tr -d '\n')" ] || continue
    printf '\n## %s: %s\n\n%s\n' "$title" "${m%:*}" "$t"
  done
}

table() {
  local f=("$@") g
  [ $# -gt 0 ] || f=("$OUT")
  for g in "${f[@]}"; do [ -s "$g" ] || die "no results in $g: run \"bench\" first"; done
  [ -x "$ML" ] || { mkdir -p "$RUN" && build; }
  local x=${EXTRA_NAME:+,$EXTRA_NAME}
  tab "logins, fake backend" "fake,relay,perdition,nginx,nginx-fix,dovecot,dovecot-cache$x" \
    "rate:0 cpu_us_per_op.proxy:0 cpu_us_per_op.ldap:0 cpu_us_per_op.auth:0 cpu_us_per_op.self:0 cpu_util.proxy:2 p50_ms:2 p99_ms:2 resumed:2 errors:0 other_util:2" \
    "${LOGIN_CASES// /,}" "${f[@]}"
  tab "logins, Dovecot backend" "direct,perdition,nginx,dovecot$x" "rate:0 cpu_us_per_op.proxy:0 p50_ms:2 p99_ms:2 errors:0" \
    real-imap-login,real-imap-tls-full,real-pop3-userpass,real-sieve-plain "${f[@]}"
  tab "idle sessions" "direct,relay,perdition,nginx,dovecot$x" "mem.proxy.pss_kib_per_conn:1 mem.proxy.rss_kib_per_conn:1 held:0 errors:0" \
    idle-imap,idle-imaps,idle-used-imap,idle-used-imaps "${f[@]}"
  tab "large messages" "direct,fake,relay,perdition,nginx,dovecot$x" "mb_s:0 cpu_s_per_gb.proxy:2 errors:0" \
    fetch-imap,fetch-imaps,append-imap,append-imaps "${f[@]}"
  tab "NOOP" "relay,perdition,nginx,dovecot$x" "added_p50_us:0 added_p99_us:0 via_p99_us:0 rate:0 cpu_us_per_op.proxy:1" \
    noop-imap,noop-imaps,noop-paced-imap,noop-paced-imaps,noop-busy-imap,noop-busy-imaps "${f[@]}"
}

# ---------------------------------------------------------------- probe

# Instances of the peers for proxy_probe.py, which brings its own backends on
# these ports: directory ou=probe, which holds alice and dead only.
PIMAP=28301 PPOP=28302

probe_up() {
  local BASE=ou=probe,dc=example,dc=test BIMAP=$PIMAP BPOP=$PPOP d=$RUN/nginx-probe mod
  case $1 in
  perdition) perdition_up perdition-probe 26 ;;
  dovecot) dproxy_up dovecot-probe 28 0 ;;
  nginx)
    mkdir -p "$d/log"
    mod=$(ls /usr/lib/nginx/modules/ngx_mail_module.so /usr/share/nginx/modules/ngx_mail_module.so 2>/dev/null | head -1)
    # A responder that reads the name up to the first control character shows what nginx itself lets through.
    taskset -c "$LOAD_CPUS" setsid "$ML" authhttp -listen 127.0.0.1:27080 -ldap 127.0.0.1:$LDAP -base "$BASE" -cut \
      -port imap=$BIMAP -port pop3=$BPOP -pidfile "$RUN/authprobe.pid" >"$RUN/authprobe.log" 2>&1 &
    cat >"$d/nginx.conf" <<X
load_module $mod;
user www-data;
worker_processes 1;
pid $d/nginx.pid;
error_log $d/log/error.log info;
events {
}
mail {
  server_name mail.example.test;
  imap_capabilities IMAP4rev1 LITERAL+ IDLE UIDPLUS SASL-IR;
  imap_auth login plain;
  pop3_auth plain;
  proxy_pass_error_message on;
  ssl_certificate $RUN/tls/cert.pem;
  ssl_certificate_key $RUN/tls/key.pem;
  auth_http 127.0.0.1:27080/auth;
  server { listen 127.0.0.1:27143; protocol imap; starttls on; }
  server { listen 127.0.0.1:27110; protocol pop3; }
}
X
    waitport 127.0.0.1 27080
    taskset -c "$PROXY_CPUS" nginx -p "$d" -c "$d/nginx.conf" || die "nginx failed"
    ;;
  *) die "no probe set-up for $1" ;;
  esac
}

probe_down() {
  local f
  for f in imap pop3; do stop "$RUN/perdition-probe/$f.pid" perdition; done
  stop "$RUN/nginx-probe/nginx.pid" nginx
  stop "$RUN/authprobe.pid" mailload
  stop "$RUN/dovecot-probe/run/master.pid" dovecot
}

probe() {
  local p pp
  alive "$RUN/slapd/slapd.pid" || die "nothing runs in $RUN: say \"up\" first"
  [ $# -gt 0 ] || set -- perdition nginx dovecot
  for p in "$@"; do
    case $p in perdition) pp=26 ;; nginx) pp=27 ;; *) pp=28 ;; esac
    probe_down
    probe_up "$p"
    python3 "$here/proxy_probe.py" --name "$p" --imap "${pp}143" --pop3 "${pp}110" --imap-backend $PIMAP --pop-backend $PPOP --starttls --dead
  done
  probe_down
}

case ${1:-} in
up) up ;;
down) down ;;
status) status ;;
info) info ;;
bench) shift; bench "$@" ;;
table) shift; table "$@" ;;
probe) shift; probe "$@" ;;
*) awk 'NR > 1 && !/^#/ { exit } NR > 1 { print }' "$0"; exit 2 ;;
esac
