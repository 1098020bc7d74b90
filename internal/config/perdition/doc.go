// Package perdition reads set-ups of Perdition 2.2 (configuration files,
// options of the command line, popmaps, maps of regular expressions, LDAP
// URLs) and says them again as a configuration of ours.
//
// Routes stay what they were: host, port and login name of every user, apart
// from a few differences that are deliberate. Nothing is dropped in silence:
// every option that was given stands in the report.
package perdition
