package discovery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	fileEvery = time.Second // a read of a few hundred bytes: how soon a change is seen
	maxFile   = 1 << 20     // bytes
)

// File reads the gateways from a file, as ParseFile takes it, and again whenever it changes. It is best replaced by renaming
// another onto it; one that is broken or half written leaves the last set standing.
type File string

// Run implements Provider.
func (f File) Run(ctx context.Context, update func(View)) error {
	t := teller{update: update}
	tick := time.NewTicker(fileEvery)
	defer tick.Stop()
	var last []byte
	read := false // last was read, and parsed
	for {
		data, err := readFile(string(f))
		switch {
		case err != nil:
			read = false
			t.problem(fmt.Sprintf("read gateways: %v", err))
		case read && bytes.Equal(data, last):
		default:
			read, last = true, data
			if gs, err := ParseFile(data); err != nil {
				t.problem(fmt.Sprintf("read gateways from %s: %v", string(f), err))
			} else {
				t.tell(View{Known: true, Gateways: gs})
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s has over %d bytes: is it the right file?", path, maxFile)
	}
	return data, nil
}
