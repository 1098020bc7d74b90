// Package directory answers who a user is and which store is home: drivers for
// LDAP, files and our own table of users, and the Chain that asks them in a
// configured order behind one cache.
//
// Three answers are kept apart everywhere: an entry, KindNotFound (nobody has
// that name here) and KindUnavailable (the directory cannot tell). The third
// is never turned into the second, and no failure ever becomes a default.
package directory
