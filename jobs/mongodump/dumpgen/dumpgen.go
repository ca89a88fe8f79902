// Package dumpgen makes mongodump files out of a seed: the data for `drover gen`, tests and measurements. The same options
// give the same bytes, on every machine. Not for data that should look like anyone's real data.
//
// A profile says what the documents are like:
//
//   - flat5: five fields whose values are 200 bytes together under the bytes encoding: _id, an int64, a date, and two
//     strings of which the longer one fills up;
//   - kb: eleven fields, with an embedded document and an array, about 1 KB together;
//   - every: a field of every BSON type, deprecated ones too, with edge values and a heavy-tailed payload;
//   - big: a binary field of heavy-tailed size up to 9 MB, and two small ones.
package dumpgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Profile names a kind of documents.
type Profile string

// The profiles.
const (
	Flat5 Profile = "flat5"
	KB    Profile = "kb"
	Every Profile = "every"
	Big   Profile = "big"
)

// Profiles lists them all.
var Profiles = []Profile{Flat5, KB, Every, Big}

// ID says which type the _ids have. They are unique in a file and the same for the same seed.
type ID string

// The kinds of _id.
const (
	ObjectID ID = "objectid"
	Int      ID = "int"    // int64, counting from 0
	String   ID = "string" // 16 hexadecimal digits in no order
	Mixed    ID = "mixed"  // one after the other
)

// IDs lists them all.
var IDs = []ID{ObjectID, Int, String, Mixed}

// Options say what to generate. Zero values other than Docs and Seed stand for the profile's own.
type Options struct {
	Profile  Profile // "" is kb
	Seed     uint64
	Docs     int64
	AvgBytes int  // about the size on average of a document, or of the payload field where sizes are heavy-tailed; not for flat5
	MaxBytes int  // of the payload field where sizes are heavy-tailed; 0 is the profile's
	Skew     bool // heavy-tailed sizes for kb as well
	ID       ID   // "" is objectid
	Corrupt  int  // how many of Docs, spread evenly, have a sound length and are broken inside
}

// largest payload field: HBase takes 10 MiB for a whole cell, and MongoDB 16 MiB for a document.
const maxPayload = 9_000_000

// withDefaults gives the options with the profile's values.
func (o Options) withDefaults() Options {
	if o.Profile == "" {
		o.Profile = KB
	}
	if o.ID == "" {
		o.ID = ObjectID
	}
	avg, top := 1000, 64<<10
	switch o.Profile {
	case Every:
		avg, top = 2000, 256<<10
	case Big:
		avg, top = 256<<10, maxPayload
	}
	if o.AvgBytes == 0 {
		o.AvgBytes = avg
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = max(top, o.AvgBytes)
	}
	return o
}

// Validate reports all that is wrong with the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	if !slices.Contains(Profiles, o.Profile) {
		errs = append(errs, fmt.Errorf("profile %q is none of %q", o.Profile, Profiles))
	}
	if !slices.Contains(IDs, o.ID) {
		errs = append(errs, fmt.Errorf("id %q is none of %q", o.ID, IDs))
	}
	if o.Docs < 0 {
		errs = append(errs, fmt.Errorf("docs is %d, below 0", o.Docs))
	}
	if o.AvgBytes < 0 || o.AvgBytes > maxPayload {
		errs = append(errs, fmt.Errorf("average of %d bytes is not within 0 and %d", o.AvgBytes, maxPayload))
	}
	if o.MaxBytes < 0 || o.MaxBytes > maxPayload {
		errs = append(errs, fmt.Errorf("largest payload of %d bytes is not within 0 and %d", o.MaxBytes, maxPayload))
	}
	if o.Corrupt < 0 || int64(o.Corrupt) > o.Docs {
		errs = append(errs, fmt.Errorf("%d corrupt documents are not within 0 and the %d there are", o.Corrupt, o.Docs))
	}
	return errors.Join(errs...)
}

// Stats says what was written.
type Stats struct {
	Docs    int64
	Corrupt int64 // of Docs
	Bytes   int64 // of documents, before compression
}

// flushBytes are gathered before each write.
const flushBytes = 256 << 10

// Write writes the documents of a .bson file.
func Write(ctx context.Context, w io.Writer, o Options) (Stats, error) {
	g, err := New(o)
	if err != nil {
		return Stats{}, err
	}
	buf := make([]byte, 0, 2*flushBytes)
	for g.More() {
		buf = g.Append(buf)
		if len(buf) < flushBytes && g.More() {
			continue
		}
		if _, err := w.Write(buf); err != nil {
			return g.Stats(), fmt.Errorf("write %d generated documents: %w", g.Stats().Docs, err)
		}
		if err := ctx.Err(); err != nil {
			return g.Stats(), err
		}
		buf = buf[:0]
	}
	return g.Stats(), nil
}
