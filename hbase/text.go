package hbase

import (
	"fmt"
	"strings"
)

const hexDigits = "0123456789ABCDEF"

// KeyText writes bytes as the HBase shell shows them: printable ASCII as it is, all else and the backslash as \xNN. So a text
// stands for one key, and a key has one text.
func KeyText(key []byte) string {
	plain := 0
	for plain < len(key) && isPlain(key[plain]) {
		plain++
	}
	if plain == len(key) {
		return string(key)
	}
	var b strings.Builder
	b.Grow(len(key) + 3*(len(key)-plain))
	for _, c := range key {
		if isPlain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'\\', 'x', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

func isPlain(c byte) bool { return c >= ' ' && c <= '~' && c != '\\' }

// ParseKey reads what KeyText writes, and any other text that stands for itself, but for backslashes: each begins a \xNN, or
// a \\ that is one backslash.
func ParseKey(text string) ([]byte, error) {
	key := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			key = append(key, text[i])
			continue
		}
		rest := text[i+1:]
		if strings.HasPrefix(rest, `\`) {
			key = append(key, '\\')
			i++
			continue
		}
		if len(rest) < 3 || rest[0] != 'x' && rest[0] != 'X' || nibble(rest[1]) < 0 || nibble(rest[2]) < 0 {
			return nil, fmt.Errorf(`%#q: the backslash at byte %d begins no \xNN; a backslash itself is \\`, text, i)
		}
		key = append(key, byte(nibble(rest[1])<<4|nibble(rest[2])))
		i += 3
	}
	return key, nil
}

func nibble(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
