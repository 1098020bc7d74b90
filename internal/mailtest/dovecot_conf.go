package mailtest

import (
	"fmt"
	"strings"
)

// config is dovecot.conf: nothing of the machine's own is included.
func (d *Dovecot) config(dir string, o DovecotOptions) string {
	location := orString(o.Format, "maildir") + ":~/mail"
	passdb := "driver = static\n  args = password=" + d.Password
	userdb := "driver = static\n  args = allow_all_users=yes"
	if o.Users != nil {
		passdb = "driver = passwd-file\n  args = username_format=%u " + dir + "/users"
		userdb = passdb
	}
	return strings.NewReplacer("{dir}", dir, "{uid}", fmt.Sprint(mailUID), "{location}", location,
		"{sep}", d.Separator, "{prefix}", d.Prefix, "{cert}", d.CA.Server, "{key}", d.CA.Key,
		"{imap}", port(d.IMAP), "{imaps}", port(d.IMAPS), "{pop3}", port(d.POP3), "{pop3s}", port(d.POP3S),
		"{lmtp}", port(d.LMTP), "{sieve}", port(d.Sieve), "{passdb}", passdb, "{userdb}", userdb,
		"{userformat}", orString(o.UsernameFormat, "%Lu"), "{extra}", o.Extra).Replace(dovecotConf)
}

// One login process serves all connections, so that its log lines come in
// order (Fetched relies on it); one mail process serves many sessions, one
// after the other, so that logins do not pay for a fork.
const dovecotConf = `base_dir = {dir}/run
state_dir = {dir}/state
instance_name = mailferry-test
log_path = {dir}/log
listen = 127.0.0.1
protocols = imap pop3 lmtp sieve
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_master_user_separator = *
auth_username_format = {userformat}
auth_failure_delay = 0
mail_uid = {uid}
mail_gid = {uid}
first_valid_uid = 100
mail_home = {dir}/mail/%u
mail_location = {location}
mail_fsync = never
mail_max_userip_connections = 0
imap_logout_format = in=%i out=%o hdr_count=%{fetch_hdr_count} hdr_bytes=%{fetch_hdr_bytes} body_count=%{fetch_body_count} body_bytes=%{fetch_body_bytes}
namespace inbox {
  inbox = yes
  separator = {sep}
  prefix = {prefix}
  mailbox Sent {
    special_use = \Sent
  }
  mailbox Drafts {
    special_use = \Drafts
  }
  mailbox Trash {
    special_use = \Trash
  }
  mailbox Junk {
    special_use = \Junk
  }
  mailbox Archive {
    special_use = \Archive
  }
}
passdb {
  driver = passwd-file
  args = {dir}/masters
  master = yes
}
passdb {
  {passdb}
}
userdb {
  {userdb}
}
protocol lmtp {
  mail_plugins = sieve
}
plugin {
  sieve = file:~/sieve;active=~/.dovecot.sieve
}
service imap-login {
  inet_listener imap {
    port = {imap}
  }
  inet_listener imaps {
    port = {imaps}
    ssl = yes
  }
  service_count = 0
  process_limit = 1
  client_limit = 8000
}
service pop3-login {
  inet_listener pop3 {
    port = {pop3}
  }
  inet_listener pop3s {
    port = {pop3s}
    ssl = yes
  }
  service_count = 0
  process_limit = 1
  client_limit = 4000
}
service managesieve-login {
  inet_listener sieve {
    port = {sieve}
  }
  service_count = 0
  process_limit = 1
  client_limit = 4000
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = {lmtp}
  }
  process_min_avail = 1
}
service imap {
  process_limit = 4000
  service_count = 256
  vsz_limit = 1 G
}
service pop3 {
  process_limit = 1000
  service_count = 256
}
service managesieve {
  process_limit = 1000
  service_count = 256
}
service auth {
  client_limit = 20000
}
service anvil {
  client_limit = 20000
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  client_limit = 20000
  unix_listener stats-writer {
    mode = 0666
  }
}
{extra}
`
