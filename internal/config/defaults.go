package config

import (
	"fmt"
	"net"
	"reflect"
	"strconv"

	"mailferry/backend"
)

// complete fills in what neither the file nor the environment says.
func complete(c *Config, ports int, r *report) {
	setDefaults(reflect.ValueOf(c).Elem(), "", r)
	if ports > 0 {
		movePorts(&c.Listen, ports, r)
	}
	if !r.has("stores") {
		c.Stores = []Store{{Name: "home", Type: backend.StoreLocal}}
		setDefaults(reflect.ValueOf(&c.Stores[0]).Elem(), "stores[0]", r)
	}
	if !r.has("directories") {
		c.Directories = []Directory{{Name: "local", Type: DirectoryLocal}}
		setDefaults(reflect.ValueOf(&c.Directories[0]).Elem(), "directories[0]", r)
	}
	for i := range c.Directories {
		completeDirectory(c, &c.Directories[i])
		if a := &c.Directories[i].Attributes; c.Directories[i].Type == DirectoryAD {
			if !r.has(fmt.Sprintf("directories[%d].attributes.user", i)) {
				a.User = "userPrincipalName"
			}
			if !r.has(fmt.Sprintf("directories[%d].attributes.recipients", i)) {
				a.Recipients = "proxyAddresses"
			}
		}
	}
	besideFile(c, r)
}

// besideFile makes paths in the file relative to the file.
func besideFile(c *Config, r *report) {
	var paths []*string
	for i := range c.Directories {
		paths = append(paths, &c.Directories[i].Path, &c.Directories[i].CA)
	}
	for i := range c.Stores {
		o := &c.Stores[i].Login.OAuth
		paths = append(paths, &c.Stores[i].CA, &o.CA, &o.TokenFile, &o.ServiceAccount)
	}
	for i := range c.TLS.Certificates {
		paths = append(paths, &c.TLS.Certificates[i].Cert, &c.TLS.Certificates[i].Key)
	}
	paths = append(paths, &c.TLS.ClientCA, &c.Admin.ClientCA)
	if c.TLS.ACME != nil {
		paths = append(paths, &c.TLS.ACME.CA)
	}
	for i := range c.Log.Outputs {
		paths = append(paths, &c.Log.Outputs[i].Path)
	}
	for _, p := range paths {
		if *p != "" {
			*p = r.beside(*p)
		}
	}
}

func completeDirectory(c *Config, d *Directory) {
	if d.Passwords == "" && d.Type != DirectoryFile && d.Type != DirectoryRegex {
		d.Passwords = PasswordsBind
	}
	if d.Type == DirectoryLocal && d.Store == "" {
		if s := c.LocalStore(); s != nil {
			d.Store = s.Name
		}
	}
}

// setDefaults sets the fields under path that the file does not name.
func setDefaults(v reflect.Value, path string, r *report) {
	for _, f := range fieldsOf(v.Type()) {
		key, fv := join(path, f.key), v.Field(f.index)
		switch {
		case f.typ.Kind() == reflect.Struct:
			setDefaults(fv, key, r)
		case f.typ.Kind() == reflect.Pointer:
			if !fv.IsNil() {
				setDefaults(fv.Elem(), key, r)
			}
		case f.typ.Kind() == reflect.Slice && f.typ.Elem().Kind() == reflect.Struct:
			for i := range fv.Len() {
				setDefaults(fv.Index(i), fmt.Sprintf("%s[%d]", key, i), r)
			}
		case f.hasDef && !r.has(key):
			fv.Set(defaultValue(f))
		}
	}
}

// defaultValue is the value of a default tag; a wrong tag is a bug.
func defaultValue(f field) reflect.Value {
	if f.typ.Kind() == reflect.Slice {
		list := splitList(f.def)
		v := reflect.MakeSlice(f.typ, len(list), len(list))
		for i, e := range list {
			v.Index(i).SetString(e)
		}
		return v
	}
	value, err := parseScalar(f.typ, f.def)
	if err != nil {
		panic(fmt.Sprintf("config: default of %s: %v", f.key, err))
	}
	return reflect.ValueOf(value)
}

// movePorts puts the default listeners on base, base+1 ... in the order of the
// fields of Listen; protocols without a listener keep their place.
func movePorts(l *Listen, base int, r *report) {
	v := reflect.ValueOf(l).Elem()
	for i, f := range fieldsOf(v.Type()) {
		list := v.Field(f.index).Interface().([]string)
		if r.has("listen."+f.key) || len(list) == 0 {
			continue
		}
		host, _, err := net.SplitHostPort(list[0])
		if err != nil {
			panic("config: default of listen." + f.key)
		}
		v.Field(f.index).Set(reflect.ValueOf([]string{net.JoinHostPort(host, strconv.Itoa(base+i))}))
	}
}
