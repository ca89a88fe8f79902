package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/zeebo/xxh3"

	"drover/durable"
)

// The files of a guard's folder, one folder for each source and host. Several guards may share it: they believe the same
// things, and each file is replaced at once.
const (
	lastGoodFile = "last-good" // the set that was believed last
	heldFile     = "held"      // since when which change is held; for people
	confirmFile  = "confirm"   // which change the operator confirmed
	pinFile      = "pin"       // the set that the operator put in the place of everything
)

// note is what a file holds. On disk, a line comes before its JSON:
//
//	drover FILE 1 CHECKSUM
//
// CHECKSUM is the XXH3-64 of the JSON, in hex.
type note struct {
	At       time.Time `json:"at"`
	Token    string    `json:"token,omitempty"`
	From     string    `json:"from,omitempty"` // the file that a pin was made of
	Gateways []Gateway `json:"gateways,omitempty"`
	Gone     []loss    `json:"gone,omitempty"` // what the last good set lost lately: another process counts it too
}

// errDamaged is wrapped by what load says of a file that was not written by save.
var errDamaged = errors.New("is damaged")

func save(dir, name string, n note) error {
	body, err := json.MarshalIndent(n, "", " ")
	if err != nil {
		return err
	}
	if err := durable.MakeDir(dir); err != nil {
		return err
	}
	data := fmt.Appendf(nil, "drover %s 1 %016x\n%s\n", name, xxh3.Hash(body), body)
	if err := durable.Replace(filepath.Join(dir, name), data); err != nil {
		return fmt.Errorf("write %s: %w%s", filepath.Join(dir, name), err, durable.Advice(err, ""))
	}
	return nil
}

// load gives false without an error when the file is not there.
func load(dir, name string) (note, bool, error) {
	var n note
	if dir == "" {
		return n, false, nil
	}
	path := filepath.Join(dir, name)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err != nil {
		return n, false, err
	}
	if err := decode(name, data, &n); err != nil {
		return note{}, false, fmt.Errorf("%s %w: %w", path, errDamaged, err)
	}
	return n, true, nil
}

func decode(name string, data []byte, n *note) error {
	line, body, found := bytes.Cut(data, []byte("\n"))
	body, ended := bytes.CutSuffix(body, []byte("\n"))
	rest, ours := bytes.CutPrefix(line, []byte("drover "+name+" "))
	format, sum, _ := bytes.Cut(rest, []byte(" "))
	version, err := strconv.Atoi(string(format))
	switch {
	case !found || !ours || err != nil:
		return errors.New("its first line is not that of such a file")
	case version != 1:
		return fmt.Errorf("it has format %d, this drover knows format 1: use the version that wrote it, or a newer one", version)
	case !ended || fmt.Sprintf("%016x", xxh3.Hash(body)) != string(sum):
		return errors.New("its checksum is wrong")
	}
	if err := json.Unmarshal(body, n); err != nil {
		return err
	}
	all := n.Gateways
	for _, l := range n.Gone {
		all = append(all, l.Gateway)
	}
	for _, g := range all {
		if _, err := ParseAddr(g.Addr); err != nil {
			return err
		}
	}
	return nil
}

// Pin makes every guard of the folder use the gateways, whatever the source says, until Unpin. from says where they come from.
func Pin(dir, from string, gs []Gateway, now time.Time) error {
	gs = View{Gateways: gs}.Set()
	if len(gs) == 0 {
		return errors.New("a pin needs at least one gateway that may be used")
	}
	return save(dir, pinFile, note{At: now, From: from, Gateways: gs})
}

// Unpin takes the pin away, durably; false when there was none.
func Unpin(dir string) (bool, error) {
	err := os.Remove(filepath.Join(dir, pinFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, durable.SyncDir(dir)
}

// Confirm makes the guards of the folder believe the change that token names, if they hold it now or, when none of them runs,
// if they find it when they start. It says nothing of a later change to the same set.
func Confirm(dir, token string, now time.Time) error {
	return save(dir, confirmFile, note{At: now, Token: token})
}
