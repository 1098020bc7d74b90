package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// Size is a number of bytes, written with a unit: 64MiB.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads a size. A unit is required.
func ParseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%q is not a size", s)
		}
		if n > math.MaxInt64/int64(u.bytes) {
			return 0, fmt.Errorf("%q is too large", s)
		}
		return Size(n) * u.bytes, nil
	}
	return 0, fmt.Errorf("%q needs a unit: B, KiB, MiB or GiB", s)
}

func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= u.bytes && s%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s/u.bytes, u.name)
		}
	}
	return "0B"
}

// parseDuration reads a duration. A bare number is refused: nobody can tell
// whether 30 means seconds or minutes.
func parseDuration(s string) (time.Duration, error) {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return 0, fmt.Errorf("%q needs a unit, such as %ss or %sm", s, s, s)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write 30s, 5m or 24h", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is below zero", s)
	}
	return d, nil
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
	secretType   = reflect.TypeFor[Secret]()
)

// parseScalar reads text as a value of type t.
func parseScalar(t reflect.Type, text string) (any, error) {
	switch t {
	case durationType:
		return parseDuration(text)
	case sizeType:
		return ParseSize(text)
	}
	switch t.Kind() {
	case reflect.String:
		return reflect.ValueOf(text).Convert(t).Interface(), nil
	case reflect.Bool:
		switch text {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, fmt.Errorf("%q is neither true nor false", text)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", text)
		}
		return n, nil
	}
	return nil, fmt.Errorf("cannot read a %s", t)
}

// scalarHook has mapstructure read every scalar with parseScalar.
func scalarHook() mapstructure.DecodeHookFunc {
	return func(from, to reflect.Type, data any) (any, error) {
		text, ok := data.(string)
		if !ok {
			return data, nil
		}
		switch to.Kind() {
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
			return parseScalar(to, text)
		case reflect.Slice: // from the environment
			return splitList(text), nil
		}
		return data, nil
	}
}

// splitList reads a list as the environment and defaults write it.
func splitList(s string) []string {
	list := []string{}
	for _, e := range strings.Split(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			list = append(list, e)
		}
	}
	return list
}
