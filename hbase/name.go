package hbase

import (
	"errors"
	"fmt"
	"strings"
)

// CheckTableName says what is wrong with "table" or "namespace:table", by HBase's own rules.
func CheckTableName(name string) error {
	ns, table, found := strings.Cut(name, ":")
	if !found {
		ns, table = "default", name
	}
	switch {
	case ns == "" || table == "":
		return errors.New("want table or namespace:table")
	case strings.IndexFunc(ns, notWord) >= 0:
		return fmt.Errorf("namespace %q may hold only letters, digits and _", ns)
	case table[0] == '.' || table[0] == '-':
		return fmt.Errorf("table %q may not begin with %q", table, table[:1])
	case strings.IndexFunc(table, func(r rune) bool { return notWord(r) && r != '.' && r != '-' }) >= 0:
		return fmt.Errorf("table %q may hold only letters, digits, _, . and -", table)
	}
	return nil
}

func notWord(r rune) bool {
	return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}
