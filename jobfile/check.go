package jobfile

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The checks below give what is wrong with a value and what would be right, or "".

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// checkName checks a job's name, which is also the name of a folder.
func checkName(s string) string {
	switch {
	case s == "." || s == "..":
		return fmt.Sprintf("%q cannot be the name of a folder; use letters and digits", s)
	case len(s) > 128:
		return fmt.Sprintf("has %d characters; want at most 128", len(s))
	case !namePattern.MatchString(s):
		return fmt.Sprintf("%s has %s in it; want letters, digits, '_', '.' and '-' only", quote(s), stranger(s, "_.-"))
	}
	return ""
}

// stranger names the first character that is not an ASCII letter or digit or in allowed.
func stranger(s, allowed string) string {
	for _, r := range s {
		if !isWord(r) && !strings.ContainsRune(allowed, r) {
			if r == ' ' {
				return "a blank"
			}
			return strconv.QuoteRune(r)
		}
	}
	return ""
}

func isWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// checkTable checks a table name or a template of one by HBase's rules.
func checkTable(s string) string {
	for _, p := range placeholder.FindAllString(s, -1) {
		switch name := p[1 : len(p)-1]; name {
		case "collection", "database":
		default:
			if near := nearest(name, []string{"collection", "database"}); near != "" {
				return fmt.Sprintf("unknown placeholder %s; did you mean {%s}?", quote(p), near)
			}
			return fmt.Sprintf("unknown placeholder %s; known are {collection} and {database}", quote(p))
		}
	}
	plain := placeholder.ReplaceAllString(s, "x")
	if strings.ContainsAny(plain, "{}") {
		return fmt.Sprintf("%s has a brace without its partner; placeholders are {collection} and {database}", quote(s))
	}
	namespace, qualifier, found := strings.Cut(plain, ":")
	if !found {
		namespace, qualifier = "default", plain
	}
	switch {
	case strings.Contains(qualifier, ":"):
		return fmt.Sprintf("%s has more than one ':'; want NAME or NAMESPACE:NAME", quote(s))
	case namespace == "" || qualifier == "":
		return fmt.Sprintf("%s lacks the part before or after ':'; want NAME or NAMESPACE:NAME", quote(s))
	case stranger(namespace, "_") != "":
		return fmt.Sprintf("the namespace in %s has %s in it; HBase takes letters, digits and '_'", quote(s), stranger(namespace, "_"))
	case namespace == "hbase":
		return fmt.Sprintf("%s is in HBase's own namespace; choose another", quote(s))
	case qualifier[0] == '.' || qualifier[0] == '-':
		return fmt.Sprintf("%s: a table name cannot start with %q; HBase takes a letter, a digit or '_' there", quote(s), qualifier[0])
	case stranger(qualifier, "_.-") != "":
		return fmt.Sprintf("%s has %s in it; HBase takes letters, digits, '_', '-' and '.'", quote(s), stranger(qualifier, "_.-"))
	}
	return ""
}

// checkFamily checks a column family's name by HBase's rules.
func checkFamily(s string) string {
	switch {
	case s == "":
		return "a family's name cannot be empty"
	case len(s) > math.MaxInt8:
		return fmt.Sprintf("has %d bytes; a family's name has at most %d (one or two are best: it is stored with every cell)", len(s), math.MaxInt8)
	case s[0] == '.':
		return "a family's name cannot start with '.'"
	case s == "recovered.edits":
		return "HBase keeps this name for itself; choose another"
	case strings.ContainsAny(s, `:/\`):
		return "a family's name cannot have ':', '/' or '\\' in it; the qualifier is not part of it"
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(s):
		return "a family's name has printable characters only"
	}
	return ""
}

// checkAddress checks HOST:PORT.
func checkAddress(s string) string {
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		advice := ""
		if scheme == "http" || scheme == "https" {
			advice = "; for gateways that speak HTTP add http: true, and tls for HTTPS"
		}
		return fmt.Sprintf("%s is a URL; want HOST:PORT, as in %q%s", quote(s), strings.TrimRight(rest, "/"), advice)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() {
			return fmt.Sprintf("%s has no port; want HOST:PORT, as in \"[%s]:9090\"", quote(s), s)
		}
		if !strings.Contains(s, ":") {
			return fmt.Sprintf("%s has no port; want HOST:PORT, as in %s", quote(s), quote(s+":9090"))
		}
		return fmt.Sprintf("%s is not HOST:PORT; an IPv6 address stands in brackets, as in \"[::1]:9090\"", quote(s))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '+' {
		return fmt.Sprintf("%s has the port %q; want a number from 1 to 65535", quote(s), port)
	}
	if strings.Contains(host, ":") { // was in brackets
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Sprintf("%s: %q is not an IPv6 address", quote(s), host)
		}
		return ""
	}
	if host == "" {
		return fmt.Sprintf("%s has no host; want HOST:PORT, as in %q", quote(s), "127.0.0.1:"+port)
	}
	if odd := stranger(host, "_.-"); odd != "" {
		return fmt.Sprintf("%s has %s in its host; want a host name or an IP address", quote(s), odd)
	}
	return ""
}

// checkQuorum checks HBase's own ZooKeeper: addresses with commas between them, and HBase's root behind them where it is another.
func checkQuorum(s string) string {
	hosts, root, found := strings.Cut(s, "/")
	if found && (root == "" || strings.HasSuffix(root, "/") || stranger(root, "_.-/") != "") {
		return fmt.Sprintf(`%s has the root %s; want a path such as /hbase-secure, or none for /hbase`, quote(s), quote("/"+root))
	}
	for addr := range strings.SplitSeq(hosts, ",") {
		if msg := checkAddress(addr); msg != "" {
			return strings.ReplaceAll(msg, ":9090", ":2181")
		}
	}
	return ""
}

// checkDNS checks NAME:PORT, or the name of SRV records.
func checkDNS(s string) string {
	const want = `want a name with a port, as in "gateways.example.org:9090", or that of SRV records, as in _thrift._tcp.example.org`
	if !strings.Contains(s, ":") {
		if parts := strings.Split(s, "."); len(parts) > 2 && strings.HasPrefix(parts[0], "_") && strings.HasPrefix(parts[1], "_") && stranger(s, "_.-") == "" {
			return ""
		}
		return fmt.Sprintf("%s has no port; %s", quote(s), want)
	}
	if msg := checkAddress(s); msg != "" {
		return msg
	}
	if host, _, _ := net.SplitHostPort(s); net.ParseIP(host) != nil {
		return fmt.Sprintf("%s is an address already; name it under static", quote(s))
	}
	return ""
}

// checkNode checks the path of a ZooKeeper node.
func checkNode(s string) string {
	switch {
	case !strings.HasPrefix(s, "/"):
		return fmt.Sprintf("want the path of a node, which starts with '/', got %s", quote(s))
	case s != "/" && strings.HasSuffix(s, "/"):
		return fmt.Sprintf("%s ends with '/'; take that off", quote(s))
	case strings.Contains(s, "//"), strings.Contains(s+"/", "/./"), strings.Contains(s+"/", "/../"):
		return fmt.Sprintf("%s has an empty step, '.' or '..' in it; ZooKeeper takes none of them", quote(s))
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "has a character in it that cannot be printed"
	}
	return ""
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkAuth checks who a session is. A secret is not to be printed.
func checkAuth(s string) string {
	const want = "want digest:USER:PASSWORD, or env:NAME of a variable that holds that"
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "digest":
		if user, password, ok := strings.Cut(rest, ":"); !ok || user == "" || password == "" {
			return "lacks a user or a password; " + want
		}
	case "env":
		if !envName.MatchString(rest) {
			return fmt.Sprintf("%s is not the name of a variable; %s", quote(rest), want)
		}
	default:
		return "has an unknown scheme; " + want
	}
	return ""
}

// checkAddressRule checks a template of addresses.
func checkAddressRule(s string) string {
	known := []string{"name", "number", "digits"}
	found := placeholder.FindAllString(s, -1)
	for _, p := range found {
		name := p[1 : len(p)-1]
		if slices.Contains(known, name) {
			continue
		}
		if near := nearest(name, known); near != "" {
			return fmt.Sprintf("unknown placeholder %s; did you mean {%s}?", quote(p), near)
		}
		return fmt.Sprintf("unknown placeholder %s; known are {name}, {number} and {digits}", quote(p))
	}
	if len(found) == 0 {
		return fmt.Sprintf("%s has no placeholder, so all gateways would be one; known are {name}, {number} and {digits}", quote(s))
	}
	if plain := placeholder.ReplaceAllString(s, "1"); strings.ContainsAny(plain, "{}") {
		return fmt.Sprintf("%s has a brace without its partner; placeholders are {name}, {number} and {digits}", quote(s))
	} else if plain != "1" && checkAddress(plain) != "" { // {name} alone is a name that is an address
		return fmt.Sprintf(`%s does not make HOST:PORT; want a template such as "{name}.example.org:9090"`, quote(s))
	}
	return ""
}

// checkZone checks the name of a zone: parts with '/' between them, the larger before the smaller.
func checkZone(s string) string {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || stranger(part, "_.-") != "" {
			return fmt.Sprintf("%s is not a zone; want letters, digits, '_', '.' and '-', with '/' before a part of a zone, as in dc1/rack7", quote(s))
		}
	}
	return ""
}

// checkPattern checks a pattern of gateways.
func checkPattern(s string) string {
	if _, err := netip.ParsePrefix(s); err == nil {
		return ""
	}
	if _, err := path.Match(s, ""); err != nil {
		return fmt.Sprintf("%s is not a pattern: a '[' lacks its ']', or a '\\' is the last character", quote(s))
	}
	if strings.Contains(s, "/") {
		return fmt.Sprintf("%s is not a prefix of addresses; want one such as \"10.1.0.0/16\"", quote(s))
	}
	return ""
}

func checkHTTPPath(s string) string {
	switch {
	case strings.EqualFold(s, "yes"), strings.EqualFold(s, "true"), strings.EqualFold(s, "on"):
		return fmt.Sprintf("want true, false or a path, got %s; write true, without quotes", quote(s))
	case !strings.HasPrefix(s, "/"):
		return fmt.Sprintf("want true, false or a path that starts with '/', got %s", quote(s))
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '?' || r == '#' }):
		return fmt.Sprintf("%s is not a plain URL path; want one without blanks, '?' and '#', with others escaped as %%XX", quote(s))
	}
	return ""
}

func checkPath(s string) string {
	switch {
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Sprintf("%s has a control character in it; want a path", quote(s))
	case strings.HasPrefix(s, "~/"), strings.HasPrefix(s, "$"):
		return fmt.Sprintf("%s: no shell reads a job file, so ~ and $ stay as they are; write the path out (a file of that name is \"./%s\")", quote(s), s)
	case strings.Contains(s, "://"):
		return fmt.Sprintf("%s is a URL; want a path on this host", quote(s))
	}
	return ""
}

var units = []struct {
	name  string
	bytes int64
}{
	{"B", 1},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
}

// ParseSize reads a number of bytes as job files have it, such as 8MiB.
func ParseSize(s string) (int64, error) {
	n, msg := parseSize(s)
	if msg != "" {
		return 0, errors.New(msg)
	}
	return n, nil
}

// parseSize reads a whole number of bytes, or of a unit.
func parseSize(s string) (n int64, msg string) {
	end := len(s) - len(strings.TrimLeft(s, "0123456789_"))
	digits, unit := strings.ReplaceAll(s[:end], "_", ""), strings.TrimSpace(s[end:])
	const want = "want a size in bytes, such as 8MiB, 500KB or 65536"
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.name
	}
	switch {
	case digits == "" && !strings.HasPrefix(s, "-"):
		return 0, fmt.Sprintf("%s, got %s", want, quote(s))
	case digits == "":
		return 0, fmt.Sprintf("%s, got %s; a size is not negative", want, quote(s))
	case strings.HasPrefix(unit, "."):
		return 0, fmt.Sprintf("%s, got %s; take a smaller unit instead of a fraction", want, quote(s))
	}
	factor := int64(1)
	if unit != "" {
		factor = 0
		for _, u := range units {
			if u.name == unit {
				factor = u.bytes
			}
		}
		if factor == 0 {
			letter := strings.ToUpper(unit[:1])
			if strings.Contains("KMGT", letter) && len(unit) <= 3 {
				return 0, fmt.Sprintf("unknown unit %q in %s; did you mean %s%siB (powers of 1024) or %s%sB (powers of 1000)?", unit, quote(s), digits, letter, digits, letter)
			}
			return 0, fmt.Sprintf("unknown unit %s in %s; known are %s", quote(unit), quote(s), oneOf(names))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, fmt.Sprintf("%s is more bytes than can be counted; want less than 8388608TiB", quote(s))
	}
	return n * factor, ""
}

// showSize writes a size in the largest unit that it is a whole number of.
func showSize(n int64) string {
	for i := len(units) - 1; i > 4; i-- {
		if n != 0 && n%units[i].bytes == 0 {
			return strconv.FormatInt(n/units[i].bytes, 10) + units[i].name
		}
	}
	return strconv.FormatInt(n, 10)
}

// parseDuration reads a length of time: numbers with a unit, one after another, or a bare 0.
func parseDuration(s string) (t time.Duration, msg string) {
	const want = "want a length of time, such as 90s, 30m, 1h30m or 2d, or 0"
	if s == "0" {
		return 0, ""
	}
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Sprintf("%s, got %s; it is not negative", want, quote(s))
	}
	if strings.Trim(s, "0123456789_") == "" {
		return 0, fmt.Sprintf("%s, got %s without a unit", want, s)
	}
	for rest := s; rest != ""; {
		end := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseInt(rest[:end], 10, 64)
		if err != nil {
			return 0, fmt.Sprintf("%s, got %s", want, quote(s))
		}
		rest = rest[end:]
		end = len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsLetter))
		unit := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[rest[:end]]
		if unit == 0 {
			return 0, fmt.Sprintf("%s, got %s; units are ms, s, m, h and d", want, quote(s))
		}
		if n > int64(math.MaxInt64-t)/int64(unit) {
			return 0, fmt.Sprintf("%s, got %s, which is beyond 290 years", want, quote(s))
		}
		t += time.Duration(n) * unit
		rest = rest[end:]
	}
	return t, ""
}
